"""Unusual use is found, usual use is not, and what is wrong in a file of rules is told in a sentence."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import Entry, Event, Head, chained
from pipeline.gallery.errors import InvalidError
from pipeline.gallery.keys import Keys
from pipeline.inspection import Finding, Rules, inspect

KEYS = Keys.new()
MONDAY = datetime(2026, 11, 16, 10, tzinfo=UTC)
ANNA = KEYS.pseudonym("main", "anna")
ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "inspection.yaml"


def at(seconds: float, actor: str = "desk", **more: Any) -> Event:
    said = {"at": MONDAY + timedelta(seconds=seconds), "actor": actor, "action": "search", "purpose": "access_control"}
    return Event(**{**said, **more})


def found(events: Iterable[Event], purposes: tuple[str, ...] = (), **rule: Any) -> list[Finding]:
    rules = Rules.model_validate({"rules": [{"name": "the rule", **rule}]})
    return inspect(chained(Head(namespace="main"), events), rules, purposes)


def test_a_burst_is_one_finding_with_all_its_entries() -> None:
    calm, burst = [at(60 * n) for n in range(10)], [at(7200 + n) for n in range(25)]
    (finding,) = found([*calm, *burst, at(9000)], kind="burst", more_than=10, within_s=60)
    assert (finding.rule, finding.kind, finding.actors, finding.subject) == ("the rule", "burst", ("desk",), "")
    assert (finding.count, finding.seqs) == (25, tuple(range(11, 36)))
    assert (finding.first, finding.last) == (burst[0].at, burst[-1].at)
    expected = "'desk' asked 25 times for anything, at times more than 10 within 60 s"
    assert finding.text == f"{expected} (from 2026-11-16 12:00:00 to 2026-11-16 12:00:24 UTC)"


def test_as_many_as_allowed_are_no_burst_nor_are_those_of_many_actors() -> None:
    limits = {"kind": "burst", "more_than": 10, "within_s": 60}
    assert found([at(n) for n in range(10)], **limits) == []
    assert found([at(6.1 * n) for n in range(100)], **limits) == []
    assert found([at(n, f"desk {n % 10}") for n in range(100)], **limits) == []
    assert len(found([at(6 * n) for n in range(11)], **limits)) == 1


def test_bursts_an_hour_apart_are_two_findings() -> None:
    events = [at(hours * 3600 + n) for hours in (0, 2) for n in range(5)]
    assert [finding.count for finding in found(events, kind="burst", more_than=3, within_s=60)] == [5, 5]


def test_a_rule_looks_only_at_what_it_is_told_to() -> None:
    limits = {"kind": "burst", "more_than": 3, "within_s": 60}
    events = [at(n, action="enrol") for n in range(9)]
    assert found(events, **limits, actions=["search"]) == []
    assert found(events, **limits, except_actors=["desk"]) == []
    assert len(found(events, **limits, actions=["search", "enrol"], except_actors=["door"])) == 1


def test_who_tries_doors_is_found() -> None:
    limits = {"kind": "burst", "more_than": 3, "within_s": 600, "outcomes": ["forbidden", "failed"]}
    tried = [at(n, "thief", outcome=("forbidden", "failed")[n % 2]) for n in range(5)]
    (finding,) = found([*tried, *(at(n) for n in range(50))], **limits)
    assert (finding.actors, finding.count) == (("thief",), 5)
    assert "that ended forbidden or failed" in finding.text


def test_one_subject_that_many_ask_about_is_found() -> None:
    limits = {"kind": "curiosity", "more_than": 3, "within_s": 600, "actions": ["search"]}
    curious = [at(60 * n, f"desk {n}", subject=ANNA) for n in range(4)]
    (finding,) = found([*curious, at(241), at(242, "desk 9")], **limits)
    assert (finding.actors, finding.subject) == (tuple(f"desk {n}" for n in range(4)), ANNA)
    assert finding.seqs == (1, 2, 3, 4)
    assert "at times by more than 3 actors within 600 s" in finding.text


def test_one_subject_that_is_shown_to_many_is_found_though_it_is_known_to_none() -> None:
    zoe = KEYS.pseudonym("main", "zoe")
    seen = [at(n, f"desk {n}", subject=KEYS.pseudonym("main", str(n)), shown=(ANNA, zoe)) for n in range(4)]
    told = found(seen, kind="curiosity", more_than=3, within_s=600)
    assert {finding.subject: finding.count for finding in told} == {ANNA: 4, zoe: 4}


def test_one_who_asks_often_or_many_who_ask_over_days_are_not_curious() -> None:
    limits = {"kind": "curiosity", "more_than": 3, "within_s": 600}
    assert found([at(n, subject=ANNA) for n in range(100)], **limits) == []
    assert found([at(201 * n, f"desk {n}", subject=ANNA) for n in range(100)], **limits) == []
    assert found([at(n, f"desk {n}", subject=KEYS.pseudonym("main", str(n))) for n in range(100)], **limits) == []
    assert found([at(n, f"desk {n}") for n in range(100)], **limits) == []


HOURS = {"kind": "out_of_hours", "begin": "09:00", "end": "17:00", "time_zone": "Europe/Berlin"}
NIGHT = {"kind": "out_of_hours", "begin": "22:00", "end": "06:00", "days": ["fri"]}


@pytest.mark.parametrize(
    ("rule", "moment", "unusual"),
    [
        (HOURS, "2026-11-16T07:59:59Z", True),  # 08:59:59 in Berlin
        (HOURS, "2026-11-16T08:00:00Z", False),
        (HOURS, "2026-11-16T15:59:59Z", False),
        (HOURS, "2026-11-16T16:00:00Z", True),
        (HOURS, "2026-07-13T07:00:00Z", False),  # in summer an hour earlier
        (HOURS, "2026-11-21T12:00:00Z", True),  # a Saturday
        (HOURS | {"days": ["sat"]}, "2026-11-21T12:00:00Z", False),
        (NIGHT, "2026-11-20T21:59:59Z", True),
        (NIGHT, "2026-11-20T22:00:00Z", False),  # Friday evening
        (NIGHT, "2026-11-21T05:59:59Z", False),  # the same shift
        (NIGHT, "2026-11-21T06:00:00Z", True),
        (NIGHT, "2026-11-21T23:00:00Z", True),  # Saturday evening
        (NIGHT, "2026-11-20T05:00:00Z", True),  # the shift of Thursday
    ],
)
def test_hours_are_those_of_the_place(rule: dict[str, Any], moment: str, unusual: bool) -> None:
    assert bool(found([at(0, at=datetime.fromisoformat(moment))], **rule)) == unusual


def test_a_night_of_work_is_one_finding() -> None:
    night = MONDAY.replace(hour=23)
    events = [at(0, at=night + timedelta(minutes=10 * n)) for n in range(20)]
    (finding,) = found(events, **HOURS)
    assert finding.count == 20
    assert "'desk' asked 20 times outside of mon tue wed thu fri 09:00 to 17:00 Europe/Berlin" in finding.text


def test_a_purpose_that_is_not_ones_own_or_not_the_namespaces_is_found() -> None:
    rule = {"kind": "purpose", "allowed": {"door": ["access_control"], "desk": ["research", "safety"]}}
    events = [at(0, "door"), at(1, "door", purpose="research"), at(2, purpose="safety"), at(3, "other", purpose="x")]
    assert [finding.seqs for finding in found(events, **rule)] == [(2,)]
    both = found(events, ("access_control", "research"), **rule)
    assert [(finding.actors, finding.seqs) for finding in both] == [
        (("door",), (2,)),
        (("desk",), (3,)),
        (("other",), (4,)),
    ]
    told = "'door' asked once for the purpose 'research', which is not allowed; it may for access_control"
    assert both[0].text.startswith(told)


def test_a_finding_counts_all_and_names_a_hundred() -> None:
    (finding,) = found([at(n / 10) for n in range(1000)], kind="burst", more_than=5, within_s=60)
    assert (finding.count, len(finding.seqs)) == (1000, 100)


def test_the_shipped_rules_find_nothing_in_a_calm_day_and_something_in_a_wild_one() -> None:
    rules = Rules.read(SHIPPED)
    calm = [at(30 * n, f"desk {n % 3}", subject=KEYS.pseudonym("main", str(n))) for n in range(500)]
    assert inspect(chained(Head(namespace="main"), calm), rules, ("access_control",)) == []
    wild = [
        *(at(n / 10, "thief", subject=ANNA) for n in range(400)),
        *(at(50, f"desk {n}", subject=ANNA) for n in range(9)),
        *(at(60 + n, "thief", action="export") for n in range(4)),
        *(at(70 + n, "thief", outcome="forbidden") for n in range(25)),
        at(100, purpose="curiosity"),
        at(86400 * 5, action="delete"),
    ]
    told = inspect(chained(Head(namespace="main"), wild), rules, ("access_control",))
    assert {finding.rule for finding in told} == {rule.name for rule in rules.rules}


WRONG = {
    "no mapping": "- a",
    "nothing": "",
    "no yaml": "rules: [",
    "an unknown kind": "rules: [{name: a, kind: blurst, more_than: 1, within_s: 1}]",
    "a typing mistake": "rules: [{name: a, kind: burst, more_then: 1, within_s: 1}]",
    "no time at all": "rules: [{name: a, kind: burst, more_than: 1, within_s: 0}]",
    "a time without quotes": "rules: [{name: a, kind: out_of_hours, begin: 07:00, end: 19:00}]",
    "no such time": 'rules: [{name: a, kind: out_of_hours, begin: "25:00", end: "19:00"}]',
    "no such zone": 'rules: [{name: a, kind: out_of_hours, begin: "07:00", end: "19:00", time_zone: Mars/Base}]',
    "a path": 'rules: [{name: a, kind: out_of_hours, begin: "07:00", end: "19:00", time_zone: ../../etc}]',
    "two of a name": "rules: [{name: a, kind: purpose}, {name: a, kind: purpose}]",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(WRONG[kind])
    with pytest.raises(InvalidError, match=r"rules\.yaml: .*deploy/inspection\.yaml shows every kind of rule$"):
        Rules.read(tmp_path / "rules.yaml")
    with pytest.raises(InvalidError, match="cannot read the rules"):
        Rules.read(tmp_path / "none.yaml")


def peak(count: int) -> int:
    """Most bytes that Python held while a log of so many entries was inspected."""
    rules = Rules.read(SHIPPED)
    one = chained(Head(namespace="main"), [at(0, subject=ANNA)])[0]

    def many() -> Iterator[Entry]:
        for number in range(count):
            moment = MONDAY + timedelta(hours=3 * number)  # nobody is active any more when the next one comes
            yield one.model_copy(update={"seq": number + 1, "at": moment, "actor": f"desk {number}"})

    tracemalloc.start()
    inspect(many(), rules)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_log() -> None:
    """In a process of its own: threads of other tests take memory, too."""
    told = "from tests.pipeline.test_inspection import peak; peak(100); print(peak(400), peak(4000))"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert many < 2 * few
