"""Whoever changes an audit log is found out, whatever they change."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.audit import GENESIS, SET_BACK, Entry, Event, Head, chained, following, parsed, verify
from pipeline.gallery.errors import InvalidError
from pipeline.gallery.keys import Keys

KEYS, THIEF = Keys.new(), Keys.new()
START = Head(namespace="main")
AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


def event(number: int = 0, **more: Any) -> Event:
    said = {"at": AT + timedelta(seconds=number), "actor": "front desk", "role": "reader", "action": "search"}
    about = {"purpose": "access_control", "subject": KEYS.pseudonym("main", f"p{number}"), "gallery_version": 7}
    return Event(**{**said, **about, "model": "mobilefacenet", "count": 1, "details": {"score": 0.5}, **more})


LOG = chained(START, map(event, range(10)))
LINES = [entry.line for entry in LOG]
HEAD = Head.of(LOG[-1], KEYS)


def texts(lines: list[bytes], head: Head = HEAD, against: Any = ()) -> list[str]:
    return [fault.text for fault in verify(lines, head, KEYS.public_key, against)]


def test_a_whole_log_has_no_fault_as_entries_as_lines_and_against_itself() -> None:
    assert verify(LOG, HEAD, KEYS.public_key) == []
    assert texts(LINES) == []
    assert texts(LINES, against=LOG) == []
    assert texts(LINES, against=[Head.of(LOG[3], KEYS), Head.of(LOG[6], KEYS)]) == []
    assert texts([], START) == []


def test_entries_are_numbered_from_one_and_each_names_the_one_before() -> None:
    assert [entry.seq for entry in LOG] == list(range(1, 11))
    assert [entry.previous for entry in LOG] == [GENESIS, *(entry.hash for entry in LOG[:-1])]
    more = chained(HEAD, [event(10)])
    assert (more[0].seq, more[0].previous) == (11, LOG[-1].hash)


def test_a_line_is_read_as_the_entry_that_was_written() -> None:
    details = {"score": 1.0, "count": 2, "fresh": True, "größe": 'a "b"\n'}
    berlin = timezone(timedelta(hours=1))
    written = chained(START, [event(details=details, at=AT.astimezone(berlin)), Event(actor="a", action="b")])
    assert [parsed(entry.line) for entry in written] == written
    kinds = {name: type(value) for name, value in parsed(written[0].line).details.items()}
    assert kinds == {"score": float, "count": int, "fresh": bool, "größe": str}
    assert b'"at":"2026-11-21T10:00:00Z"' in written[0].line


CHANGES: dict[str, Any] = {
    **{"id": "0" * 32, "at": AT - timedelta(days=1), "actor": "nobody", "role": "admin", "action": "show"},
    **{"purpose": "research", "subject": "", "outcome": "failed", "model": "", "gallery_version": 8, "count": 0},
    **{
        "details": {},
        "shown": (KEYS.pseudonym("main", "zoe"),),
        "namespace": "other",
        "seq": 9,
        "previous": "1" * 64,
        "hash": "1" * 64,
    },
}


def test_every_field_is_tried() -> None:
    assert set(CHANGES) == set(Entry.model_fields)


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("at", [0, 5, 9])
def test_no_field_of_an_entry_can_be_changed(field: str, at: int) -> None:
    forged = LOG[at].model_copy(update={field: CHANGES[field]})
    assert f"entry {at + 1} was changed after it was written" in texts([*LINES[:at], forged.line, *LINES[at + 1 :]])


@pytest.mark.parametrize("field", sorted(set(CHANGES) - {"hash"}))
@pytest.mark.parametrize("at", [0, 5, 9])
def test_nor_can_it_when_its_hash_is_made_anew(field: str, at: int) -> None:
    changed = LOG[at].model_copy(update={field: CHANGES[field]})
    forged = changed.model_copy(update={"hash": changed.digest})
    faults = verify([*LINES[:at], forged.line, *LINES[at + 1 :]], HEAD, KEYS.public_key)
    assert faults
    assert any(abs(fault.seq - (at + 1)) <= 1 or field == "seq" for fault in faults)


def test_what_was_said_in_other_bytes_was_changed_too() -> None:
    said = json.loads(LINES[4])
    doubled = LINES[4].replace(b'{"action"', b'{"actor":"nobody","action"')
    for forged in (json.dumps(said).encode(), doubled, LINES[4] + b" ", LINES[4][:-1] + b',"model":""}'):
        assert texts([*LINES[:4], forged, *LINES[5:]]) == ["entry 5 was changed after it was written"]


def test_what_is_no_entry_is_told_and_the_rest_is_looked_at() -> None:
    for garbage in (b"", b"\xff", b"{}", LINES[4][:-9], b"[" * 100_000):
        first, second = texts([*LINES[:4], garbage, *LINES[5:8], LINES[9]])
        assert first.startswith("entry 5 cannot be read: no entry of an audit log")
        assert second == "entry 9 is missing"


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([0, 1, 3, 4, 5, 6, 7, 8, 9], ["entry 3 is missing"]),
        ([3, 4, 5, 6, 7, 8, 9], ["entries 1 to 3 are missing"]),
        ([0, 4, 5, 6, 9], ["entries 2 to 4 are missing", "entries 8 to 9 are missing"]),
        ([0, 1, 2, 3, 4, 5, 6], ["entries 8 to 10 are missing from the end: the signed head ends at 10"]),
        ([], ["entries 1 to 10 are missing from the end: the signed head ends at 10"]),
        ([0, 2, 1, 3, 4, 5, 6, 7, 8, 9], ["entry 2 comes after entry 3: the order was changed"]),
        ([1, 0, 2, 3, 4, 5, 6, 7, 8, 9], ["entry 1 comes after entry 2: the order was changed"]),
        ([0, 1, 2, 3, 4, 5, 6, 7, 9, 8], ["entry 9 comes after entry 10: the order was changed"]),
        ([0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9], ["entry 2 is there twice"]),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9], ["entry 10 is there twice"]),
        (
            [0, 4, 2, 1, 3, 5, 6, 7, 8, 9],
            [f"entry {n} comes after entry 5: the order was changed" for n in (2, 3, 4)],
        ),
    ],
)
def test_what_was_left_out_moved_or_doubled_is_named(order: list[int], expected: list[str]) -> None:
    assert texts([LINES[number] for number in order]) == expected


def test_an_entry_that_was_changed_beside_one_that_was_left_out_is_named_rightly() -> None:
    forged = LOG[6].model_copy(update={"actor": "nobody"}).line
    expected = ["entry 6 is missing", "entry 7 was changed after it was written"]
    assert texts([*LINES[:5], forged, *LINES[7:]]) == expected


def test_a_log_that_was_written_anew_needs_the_key_for_its_head() -> None:
    anew = chained(START, [event(n, actor="nobody") if n == 4 else event(n, id=LOG[n].id) for n in range(10)])
    lines = [entry.line for entry in anew]
    assert texts(lines) == ["entry 10 is another one than at the signed head: the log was written anew"]
    stolen = Head.of(anew[-1], THIEF)
    assert texts(lines, stolen) == [f"the head at entry 10 was not signed by the key {KEYS.fingerprint}"]
    moved = HEAD.model_copy(update={"hash": anew[-1].hash})
    assert texts(lines, moved) == [f"the head at entry 10 was not signed by the key {KEYS.fingerprint}"]


@pytest.mark.parametrize("signature", ["", "none", "ü", "A" * 88])
def test_a_head_without_a_signature_is_none(signature: str) -> None:
    head = HEAD.model_copy(update={"signature": signature})
    assert texts(LINES, head) == [f"the head at entry 10 was not signed by the key {KEYS.fingerprint}"]


def test_entries_after_the_head_and_without_one_are_told() -> None:
    early = Head.of(LOG[6], KEYS)
    assert texts(LINES, early) == ["entries 8 to 10 are not covered by the signed head, which ends at 7"]
    assert texts(LINES, START) == ["entries 1 to 10 are not covered by a signed head: there is none"]


def test_the_head_of_another_log_is_none_of_this() -> None:
    other = chained(Head(namespace="other"), map(event, range(10)))
    assert "entry 1 belongs to 'main', not to 'other'" in texts(LINES, Head.of(other[-1], KEYS))


def test_a_log_that_was_set_back_with_its_head_is_found_by_an_earlier_export_only() -> None:
    back = Head.of(LOG[6], KEYS)
    assert texts(LINES[:7], back) == []
    told = ["the log ends at entry 7, but an earlier export goes to 10: the log was set back"]
    assert texts(LINES[:7], back, LOG) == texts(LINES[:7], back, [HEAD]) == told
    assert texts([], START, LOG) == [told[0].replace("entry 7", "entry 0")]


def test_a_log_that_was_set_back_and_went_on_is_found_by_an_earlier_export() -> None:
    other = [*LOG[:7], *chained(Head.of(LOG[6], KEYS), map(event, range(20)))]
    head = Head.of(other[-1], KEYS)
    assert verify(other, head, KEYS.public_key) == []
    expected = "entry 8 is another one than in an earlier export: the log was written anew"
    assert [fault.text for fault in verify(other, head, KEYS.public_key, LOG)] == [expected]
    assert [fault.seq for fault in verify(other, head, KEYS.public_key, [HEAD])] == [10]


def test_a_log_that_tells_itself_that_it_was_set_back_is_not_whole() -> None:
    log = [*LOG[:7], *chained(Head.of(LOG[6], KEYS), [event(action=SET_BACK, details={"had": 10})])]
    said = "entry 8 tells that the log was set back before it was written: it had 10 entries, and 7 were left"
    assert [fault.text for fault in verify(log, Head.of(log[-1], KEYS), KEYS.public_key)] == [said]


def test_only_what_follows_is_taken_for_a_continuation() -> None:
    assert list(following(LINES, START)) == LOG
    assert list(following(LINES[4:], Head.of(LOG[3], KEYS))) == LOG[4:]
    with pytest.raises(InvalidError, match="entry 6 of 'main' does not follow entry 4"):
        list(following([*LINES[:4], *LINES[5:]], START))
    with pytest.raises(InvalidError, match="does not follow entry 0 of 'other'"):
        list(following(LINES, Head(namespace="other")))
    with pytest.raises(InvalidError, match="entry 2 was changed"):
        list(following([LINES[0], LINES[1].replace(b"search", b"sketch")], START))


def test_a_later_omote_may_have_more_fields_and_the_hashes_stay() -> None:
    class Later(Entry):
        why: str = ""

    assert Later.model_validate_json(LINES[3]).digest == LOG[3].hash


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": "anna"},
        {"at": AT.replace(tzinfo=None)},
        {"details": {"score": float("nan")}},
        {"details": {f"d{n}": n for n in range(17)}},
        {"details": {"metadata": {"name": "Anna"}}},
        {"actor": "a" * 257},
        {"outcome": "maybe"},
        {"id": "7"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_names_of_subjects_and_what_json_has_not_are_no_part_of_an_event(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        event(**wrong)


def seconds(work: Callable[[], object]) -> float:
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def test_ten_thousand_entries_are_chained_and_verified_in_a_second_or_two() -> None:
    log = chained(START, (event() for _ in range(10_000)))
    lines, head = [entry.line for entry in log], Head.of(log[-1], KEYS)
    assert seconds(lambda: verify(iter(lines), head, KEYS.public_key)) < 3
