"""Whoever has Redis and no key changes the log there, and is found out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from pipeline.audit import SET_BACK, Head, chained
from pipeline.edges.redis_audit import AuditLog
from pipeline.gallery.errors import GalleryError, InvalidError, RefusedError
from pipeline.gallery.keys import Keys
from tests.support.audit_logs import KEYS, Opener, events, log, opened

__all__ = ["log", "opened"]  # fixtures


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    """What somebody has who can write to Redis and has no key."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def place(log: AuditLog) -> str:
    return f"omote:{{{log.namespace}}}:audit"


def lines(raw: redis.Redis, log: AuditLog) -> list[bytes]:
    stored: Any = raw.hgetall(place(log))
    return [stored[name] for name in sorted(stored.keys() - {b"head"}, key=int)]


def rewrite(raw: redis.Redis, log: AuditLog, new: list[bytes], head: Head | None = None) -> None:
    text: Any = head.model_dump_json() if head else raw.hget(place(log), "head")
    raw.delete(place(log))
    raw.hset(place(log), mapping={"head": text, **{str(number): line for number, line in enumerate(new, 1)}})


def texts(log: AuditLog, **given: Any) -> list[str]:
    return [fault.text for fault in log.verify(**given)]


@pytest.mark.parametrize("field", [b"front desk", b"search", b"access_control", b'"seq":3', b'"previous":"'])
def test_a_field_that_was_changed_in_redis_is_found(log: AuditLog, raw: redis.Redis, field: bytes) -> None:
    log.append(events(5))
    kept = lines(raw, log)
    changed = kept[2].replace(field, field[:-1] + bytes([field[-1] ^ 1]) if field[-1] != ord('"') else field + b"0", 1)
    rewrite(raw, log, [*kept[:2], changed, *kept[3:]])
    fault = log.verify()[0]
    assert (fault.seq, fault.text.startswith("entry 3 ")) == (3, True)


def test_an_entry_that_was_deleted_in_redis_is_found(log: AuditLog, raw: redis.Redis) -> None:
    log.append(events(5))
    raw.hdel(place(log), "3")
    assert texts(log) == ["entry 3 is missing"]


def test_entries_that_were_swapped_in_redis_are_found(log: AuditLog, raw: redis.Redis) -> None:
    log.append(events(5))
    one, two, three, four, five = lines(raw, log)
    rewrite(raw, log, [one, three, two, four, five])
    assert texts(log) == ["entry 2 comes after entry 3: the order was changed"]


def test_entries_that_were_doubled_in_redis_are_found(log: AuditLog, raw: redis.Redis) -> None:
    log.append(events(5))
    one, two, three, four, five = lines(raw, log)
    rewrite(raw, log, [one, two, two, four, five])
    assert texts(log) == ["entry 2 is there twice", "entry 3 is missing"]
    rewrite(raw, log, [one, two, two, three, four, five])
    assert texts(log) == [
        *("entry 2 is there twice", "entry 5 is missing from the end: the signed head ends at 5"),
        "1 more entry lies in the log than its head tells of",
    ]


def test_entries_that_were_added_in_redis_are_found_and_not_written_over(log: AuditLog, raw: redis.Redis) -> None:
    log.append(events(5))
    forged = chained(log.head(), events())[0].line
    raw.hset(place(log), "6", forged)
    assert texts(log) == ["1 more entry lies in the log than its head tells of"]
    with pytest.raises(RefusedError, match="entry 6 lies beyond the head"):
        log.append(events())
    raw.hset(place(log), mapping={"note": "hello", "-1": forged})
    assert texts(log) == ["3 more entries lie in the log than its head tells of"]


def test_a_tail_that_was_cut_off_in_redis_is_found(log: AuditLog, raw: redis.Redis) -> None:
    log.append(events(5))
    raw.hdel(place(log), "4", "5")
    assert texts(log) == ["entries 4 to 5 are missing from the end: the signed head ends at 5"]
    raw.hdel(place(log), "1", "2", "3")
    assert texts(log) == ["entries 1 to 5 are missing from the end: the signed head ends at 5"]


def test_a_head_that_claims_a_great_many_is_not_believed_without_a_signature(log: AuditLog, raw: redis.Redis) -> None:
    log.append(events(5))
    raw.hset(place(log), "head", log.head().model_copy(update={"seq": 10**15}).model_dump_json())
    assert f"the head at entry {10**15} was not signed by the key {KEYS.fingerprint}" in texts(log)


def test_a_log_that_was_written_anew_with_a_wrong_key_is_found_and_not_signed_anew(
    log: AuditLog, raw: redis.Redis
) -> None:
    log.append(events(5))
    anew = chained(Head(namespace=log.namespace), events(5, actor="nobody"))
    rewrite(raw, log, [entry.line for entry in anew])
    assert texts(log) == ["entry 5 is another one than at the signed head: the log was written anew"]
    raw.hset(place(log), "head", Head.of(anew[-1], Keys.new()).model_dump_json())
    assert texts(log) == [f"the head at entry 5 was not signed by the key {KEYS.fingerprint}"]
    for _ in range(2):
        with pytest.raises(RefusedError, match="`omote gallery audit verify`"):
            log.append(events())
    assert len(lines(raw, log)) == 5


@pytest.mark.parametrize("head", [b"", b"{}", b"\xff\xfe", Head(namespace="other").model_dump_json().encode()])
def test_a_head_that_was_taken_away_or_spoilt_is_found(
    log: AuditLog, opened: Opener, raw: redis.Redis, head: bytes
) -> None:
    log.append(events(5))
    raw.hset(place(log), "head", head)
    assert "entries 1 to 5 are not covered by a signed head: there is none" in texts(log)
    for each in (log, opened(log.namespace)):
        with pytest.raises(RefusedError):
            each.append(events())


def test_who_remembers_more_than_redis_writes_so(log: AuditLog, raw: redis.Redis) -> None:
    early = log.append(events(3))
    late = log.append(events(2))
    back = Head.of(early[-1], KEYS)
    rewrite(raw, log, [entry.line for entry in early], back)  # a backup was put back, or a replica took over
    assert log.append(events())[0].seq == 5
    told = list(log.entries())[3]
    assert (told.action, told.details) == (SET_BACK, {"had": 5, "hash": late[-1].hash})
    assert texts(log) == [
        "entry 4 tells that the log was set back before it was written: it had 5 entries, and 3 were left"
    ]
    assert "entry 4 is another one than in an earlier export: the log was written anew" in texts(
        log, against=[*early, *late]
    )


@pytest.mark.parametrize("harm", ["head", "end", "kind"])
def test_a_log_that_was_renewed_stays_whole_while_others_who_remember_the_old_one_write(
    log: AuditLog, opened: Opener, raw: redis.Redis, harm: str
) -> None:
    server = opened(log.namespace)
    for _ in range(2):
        server.append(events(5))
        if harm == "kind":
            raw.delete(place(log))
            raw.set(place(log), "a text")
        else:
            raw.hset(place(log), "head", "{}") if harm == "head" else raw.hdel(place(log), "5")
        assert raw.exists(log.begin_anew("ada"))
        assert (server.append(events())[0].seq, log.verify()) == (2, [])
    with pytest.raises(InvalidError, match="is whole"):
        log.begin_anew("ada")


def test_a_renewed_log_that_was_set_back_is_still_found_out(log: AuditLog, raw: redis.Redis) -> None:
    log.append(events(1))
    raw.hset(place(log), "head", "{}")
    log.begin_anew("ada")
    early = lines(raw, log)
    log.append(events(2))
    rewrite(raw, log, early, Head.of(next(log.entries()), KEYS))
    log.append(events())
    assert "was set back" in texts(log)[0]


def test_what_is_no_log_is_refused(log: AuditLog, raw: redis.Redis) -> None:
    raw.set(place(log), "a text")
    for attempt in (lambda: log.append(events()), log.read, log.verify):
        with pytest.raises(GalleryError, match=r"is not as it was left|does not answer"):
            attempt()
    with pytest.raises(GalleryError, match="is no Redis URL") as refused:
        AuditLog(SecretStr("http://user:hunter2@host"), "main", KEYS)
    assert "hunter2" not in str(refused.value)


def test_a_damaged_entry_stops_a_reader(log: AuditLog, raw: redis.Redis) -> None:
    log.append(events(3))
    kept = lines(raw, log)
    rewrite(raw, log, [kept[0], kept[1][:-9], kept[2]])
    with pytest.raises(RefusedError, match="is damaged"):
        log.read()
