"""A matcher holds what its feed says, follows it, outlives its absence, and forgets whose time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Condition

import numpy as np
import pytest

from pipeline.gallery.errors import AwayError
from pipeline.gallery.matcher import FRESH_S, Changes, Mark, Matcher, Row
from pipeline.gallery.protocol import Candidates
from pipeline.gallery.subjects import Limits, NamespacePolicy
from pipeline.packets import Floats, Pixels

ALWAYS = float("inf")


@dataclass
class Script:
    """A feed that a test writes."""

    rows: dict[str, Row] = field(default_factory=dict)
    lines: list[Row | str] = field(default_factory=list)
    birth: str = "a"
    late: list[Row] = field(default_factory=list)
    trimmed: bool = False
    away: bool = False
    snapshots: int = 0
    confirmed: list[int] = field(default_factory=list)
    allowed: NamespacePolicy = field(default_factory=NamespacePolicy)
    changed: Condition = field(default_factory=Condition)

    def put(self, *rows: Row) -> None:
        with self.changed:
            self.rows |= {row.id: row for row in rows}
            self.lines += rows
            self.changed.notify_all()

    def drop(self, name: str) -> None:
        with self.changed:
            del self.rows[name]
            self.lines.append(name)
            self.changed.notify_all()

    def snapshot(self) -> tuple[Mark, Iterable[Sequence[Row]]]:
        self._ask()
        self.snapshots += 1
        return Mark(self.birth, len(self.lines)), [list(self.rows.values())]

    def changes(self, after: Mark, wait_s: float) -> Changes | None:
        self._ask()
        with self.changed:
            self.changed.wait_for(lambda: len(self.lines) > after.version or self.away, min(wait_s, 0.05))
        if self.trimmed or after.birth != self.birth:
            self.trimmed = False
            return None
        if self.late:
            return Changes(after, tuple(self.late.pop() for _ in self.late.copy()))
        new = self.lines[after.version :]
        latest = {line if isinstance(line, str) else line.id: line for line in new}
        gone = tuple(line for line in latest.values() if isinstance(line, str))
        rows = tuple(line for line in latest.values() if isinstance(line, Row))
        return Changes(Mark(self.birth, after.version + len(new)), rows, gone)

    def policy(self) -> NamespacePolicy:
        self._ask()
        return self.allowed

    def photo(self, subject_id: str) -> Pixels | None:
        self._ask()
        return np.full((128, 128, 3), len(subject_id), np.uint8)

    def confirm(self, mark: Mark, rows: int) -> None:
        self.confirmed.append(mark.version)

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _ask(self) -> None:
        if self.away:
            message = "it does not answer"
            raise AwayError(message)


def vector(seed: int) -> Floats:
    drawn = np.random.default_rng(seed).normal(size=512)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def row(name: str, seed: int, until: float = ALWAYS, *, negative: bool = False, subject: str = "") -> Row:
    return Row(name, subject or f"s{seed}", vector(seed), negative, until)


@pytest.fixture
def script() -> Script:
    return Script()


@contextmanager
def running(script: Script, **more: object) -> Iterator[Matcher]:
    with closing(Matcher(script, **more)) as matcher:  # type: ignore[arg-type]
        yield matcher


def who(matcher: Matcher, seed: int) -> str:
    (answer,) = matcher.match(vector(seed)[None], [False])
    return answer.best[0].subject_id if answer.best and answer.best[0].score > 0.9 else ""


def soon(ask: Callable[[], bool], limit_s: float = 3.0) -> None:
    until = time.monotonic() + limit_s
    while not ask():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)


def test_it_knows_the_snapshot_and_then_every_change(script: Script) -> None:
    script.put(row("t1", 1))
    with running(script) as matcher:
        assert (who(matcher, 1), who(matcher, 2)) == ("s1", "")
        script.put(row("t2", 2))
        assert matcher.wait_for(2, 3)
        assert who(matcher, 2) == "s2"
        script.drop("t1")
        assert matcher.wait_for(3, 3)
        assert (who(matcher, 1), len(matcher)) == ("", 1)
        soon(lambda: script.confirmed[-1] == 3)
        assert script.snapshots == 1


def test_every_answer_says_which_version_and_whose_gallery(script: Script) -> None:
    script.put(row("t1", 1), row("t2", 2))
    with running(script, name="door") as matcher:
        (answer,) = matcher.match(vector(1)[None], [True])
        assert (answer.gallery, answer.version, answer.stale_s) == ("door", 2, 0)
        assert matcher.match(np.zeros((0, 512), np.float32), []) == []


@pytest.mark.parametrize("reason", ["trimmed", "another life"])
def test_what_cannot_be_told_any_more_is_read_anew(script: Script, reason: str) -> None:
    script.put(row("t1", 1))
    with running(script) as matcher:
        script.rows = {"t9": row("t9", 9)}
        if reason == "trimmed":
            script.trimmed = True
        else:
            script.birth = "b"
        soon(lambda: who(matcher, 9) == "s9")
        assert (who(matcher, 1), script.snapshots) == ("", 2)


def test_while_the_truth_is_away_it_answers_and_says_how_old_that_is(script: Script) -> None:
    script.put(row("t1", 1))
    with running(script) as matcher:
        script.away = True
        soon(lambda: matcher.stale_s >= int(FRESH_S), 5)
        assert who(matcher, 1) == "s1"
        assert matcher.photo("s1") is None
        script.away = False
        script.put(row("t2", 2))
        assert matcher.wait_for(2, 3)
        assert (who(matcher, 2), matcher.stale_s) == ("s2", 0)


def test_without_the_truth_it_does_not_begin(script: Script) -> None:
    script.away = True
    with pytest.raises(AwayError, match="does not answer"):
        Matcher(script)


def test_who_is_over_is_not_matched_and_a_longer_time_counts(script: Script) -> None:
    now = time.time()
    script.put(row("over", 1, now - 1), row("soon", 2, now + 0.4), row("longer", 3, now + 0.4))
    with running(script) as matcher:
        assert [who(matcher, seed) for seed in (1, 2, 3)] == ["", "s2", "s3"]
        script.put(row("longer", 3, now + 60))
        soon(lambda: who(matcher, 2) == "")
        time.sleep(0.2)
        assert who(matcher, 3) == "s3"
        assert len(matcher) == 1


def test_a_subject_is_its_mean(script: Script) -> None:
    script.put(row("a", 1, subject="ada"), row("b", 2, subject="ada"), row("not", 3, negative=True, subject="ada"))
    with running(script) as matcher:
        mean = vector(1) + vector(2)
        found = matcher.template("ada")
        assert found is not None
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
        assert matcher.template("bob") is None


def test_it_reads_later_if_it_is_told_to(script: Script) -> None:
    script.put(row("t1", 1))
    with running(script, later=True) as matcher:
        assert (matcher.follows, script.snapshots) == (False, 0)
        assert who(matcher, 1) == "s1"
        assert (matcher.follows, script.snapshots) == (True, 1)


# Who may be gone


def asked(matcher: Matcher, seed: int = 1) -> Candidates:
    return matcher.match(vector(seed)[None], [False])[0]


def lost_by(script: Script, matcher: Matcher, change: Callable[[], None]) -> bool:
    """Whether who was named just before ``change`` may be gone after it, unless the answer names them again."""
    named = asked(matcher).version
    change()
    assert matcher.wait_for(len(script.lines), 3)
    return named < asked(matcher).lost


def test_new_templates_cost_nobody_and_everything_else_may(script: Script) -> None:
    script.put(row("t1", 1), row("t2", 2))
    with running(script, purpose="safety") as matcher:
        assert not lost_by(script, matcher, lambda: script.put(row("t3", 3), row("t4", 4)))
        assert lost_by(script, matcher, lambda: script.drop("t3"))
        assert not lost_by(script, matcher, lambda: script.put(row("t5", 5)))
        assert lost_by(script, matcher, lambda: script.put(row("t4", 4, subject="renamed")))
        assert lost_by(script, matcher, lambda: script.put(row("t5", 5, until=0)))
        assert lost_by(script, matcher, lambda: script.put(row("not", 1, negative=True, subject="s2")))
        other = Row("t2", "s2", vector(2), negative=False, until=ALWAYS, purposes=("service",))
        assert lost_by(script, matcher, lambda: script.put(other))


def test_what_one_answer_of_the_truth_tells_of_twice_may_have_cost_somebody(script: Script) -> None:
    """Another matcher may have named the first name while this one slept."""
    with running(script) as matcher:

        def come_and_be_renamed() -> None:
            with script.changed:
                script.put(row("t1", 1))
                script.put(row("t1", 1, subject="renamed"))

        assert lost_by(script, matcher, come_and_be_renamed)


def test_who_was_named_before_everything_was_read_anew_may_be_gone(script: Script) -> None:
    script.put(row("t1", 1), row("t2", 2))
    with running(script) as matcher:
        before = asked(matcher).version
        script.drop("t1")
        script.trimmed = True
        soon(lambda: script.snapshots == 2 and who(matcher, 1) == "")
        assert before < asked(matcher).lost
    with running(script) as replacement:
        answer = asked(replacement)
        assert before < answer.lost <= answer.version


@pytest.mark.parametrize("negative", [False, True])
def test_what_could_not_be_read_at_first_is_found_later_and_costs_nobody_unless_it_denies(
    script: Script, *, negative: bool
) -> None:
    script.put(row("t1", 1))
    with running(script) as matcher:
        script.late.append(row("t2", 2, negative=negative, subject="s2"))
        soon(lambda: len(matcher) == 2)
        assert who(matcher, 2) == ("" if negative else "s2")
        assert (asked(matcher).lost > asked(matcher).version) == negative
        assert lost_by(script, matcher, lambda: script.put(row("t3", 3))) == negative


@pytest.mark.parametrize("when", ["while it runs", "before it reads"])
def test_whose_time_is_over_may_be_gone_though_no_change_says_so(script: Script, when: str) -> None:
    script.put(row("t1", 1, time.time() + (0.3 if when == "while it runs" else -1)))
    with running(script) as matcher:
        soon(lambda: who(matcher, 1) == "")
        soon(lambda: asked(matcher).lost > asked(matcher).version)
        assert matcher.lost == asked(matcher).version, "every name would be withheld until the next change"
        script.put(row("t2", 2))
        assert matcher.wait_for(2, 3)
        assert asked(matcher).lost == asked(matcher).version


# For what, and against what


def test_whoever_is_not_to_be_found_for_its_purpose_is_left_out(script: Script) -> None:
    both = {"negative": False, "until": ALWAYS}
    script.put(
        Row("t1", "s1", vector(1), **both, purposes=("safety", "research")),
        Row("t2", "s2", vector(2), **both, purposes=("service",)),
        Row("t3", "s3", vector(3), **both),
    )
    with running(script, purpose="safety") as matcher, running(script) as of_the_api:
        assert [who(matcher, seed) for seed in (1, 2, 3)] == ["s1", "", "s3"]
        assert [who(of_the_api, seed) for seed in (1, 2, 3)] == ["s1", "s2", "s3"]
        script.put(Row("t1", "s1", vector(1), **both, purposes=("research",)))
        script.put(Row("t2", "s2", vector(2), **both, purposes=("service", "safety")))
        assert matcher.wait_for(5, 3)
        assert [who(matcher, seed) for seed in (1, 2, 3)] == ["", "s2", "s3"]


def test_nobody_is_found_while_the_namespace_is_not_to_be_asked_for_its_purpose(script: Script) -> None:
    script.put(row("t1", 1))
    with running(script, purpose="safety") as matcher, running(script) as of_the_api:
        assert (who(matcher, 1), matcher.lost) == ("s1", 1)
        script.allowed = NamespacePolicy(purposes=("research", "service"))
        soon(lambda: who(matcher, 1) == "")
        assert (asked(matcher).lost, matcher.lost) == (2, 2), "who was named before keeps the name"
        assert who(of_the_api, 1) == "s1"
        script.allowed = NamespacePolicy(purposes=("research", "safety"))
        soon(lambda: who(matcher, 1) == "s1")
        assert matcher.lost == 1


def test_answers_carry_the_limits_of_the_gallery_as_soon_as_they_are_set(script: Script) -> None:
    script.put(row("t1", 1))
    with running(script) as matcher:
        assert asked(matcher).limits is None
        script.allowed = NamespacePolicy(limits=Limits(threshold=0.55))
        soon(lambda: asked(matcher).limits == Limits(threshold=0.55))


def since(matcher: Matcher, seed: int) -> int:
    (answer,) = matcher.match(vector(seed)[None], [False])
    assert answer.best[0].subject_id == f"s{seed}"
    return answer.best[0].since


def test_whoever_came_while_it_runs_is_told_with_the_version_at_which_they_came(script: Script) -> None:
    script.put(row("t1", 1))
    with running(script) as matcher:
        assert since(matcher, 1) == 0
        script.put(row("t2", 2), row("t3", 1, subject="s1"))
        assert matcher.wait_for(3, 3)
        assert (since(matcher, 1), since(matcher, 2)) == (0, 3)
        script.put(row("t4", 3, subject="s2"))
        assert matcher.wait_for(4, 3)
        assert since(matcher, 2) == 3
        script.drop("t2")
        script.drop("t4")
        assert matcher.wait_for(6, 3)
        assert matcher.read().since == {}, "the name of somebody who was forgotten is still there"
        script.put(row("t5", 5))
        script.trimmed = True
        soon(lambda: script.snapshots == 2 and who(matcher, 5) == "s5")
        assert (since(matcher, 1), since(matcher, 5)) == (0, 7)
