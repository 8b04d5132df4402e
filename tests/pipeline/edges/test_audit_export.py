"""Copies of the audit log go on where they ended, and only with the same log."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
import redis
from pydantic import SecretStr

from pipeline.audit import Entry, Event, Head, chained
from pipeline.edges import audit_topic
from pipeline.edges.audit_export import exported, to_file, verify_file
from pipeline.edges.audit_topic import in_topic, last_in_topic, to_kafka
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.redis_audit import AuditLog
from pipeline.errors import SinkError, SourceError
from pipeline.gallery.errors import InvalidError, RefusedError
from pipeline.gallery.keys import Keys

KEYS = Keys.new()


def events(count: int, **more: Any) -> list[Event]:
    return [Event(**{"actor": "front desk", "action": "search", **more}) for _ in range(count)]


@pytest.fixture
def log(redis_url: str) -> Iterator[AuditLog]:
    opened = AuditLog(SecretStr(redis_url), f"t{uuid4().hex[:8]}", KEYS)
    yield opened
    opened.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "exports" / "audit.jsonl"


def set_back(redis_url: str, log: AuditLog, entries: list[Entry]) -> None:
    with redis.Redis.from_url(redis_url) as raw:
        place = f"omote:{{{log.namespace}}}:audit"
        raw.delete(place)
        lines = {str(entry.seq): entry.line for entry in entries}
        raw.hset(place, mapping={"head": Head.of(entries[-1], KEYS).model_dump_json(), **lines})


def test_a_file_goes_on_where_it_ended_and_is_whole(log: AuditLog, file: Path) -> None:
    assert to_file(log, file) == 0
    log.append(events(700))
    assert (to_file(log, file), to_file(log, file)) == (700, 0)
    log.append(events(3))
    assert to_file(log, file) == 3
    assert list(exported(file)) == list(log.entries())
    assert verify_file(file, KEYS.public_key) == []
    assert log.verify(against=exported(file)) == []


def test_a_line_that_a_crash_cut_off_is_written_again(log: AuditLog, file: Path) -> None:
    log.append(events(5))
    to_file(log, file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    assert [entry.seq for entry in exported(file)] == [1, 2, 3, 4]
    assert (to_file(log, file), file.read_bytes()) == (1, whole)


def test_a_file_of_another_namespace_or_of_something_else_is_left_alone(log: AuditLog, file: Path) -> None:
    log.append(events(5))
    other = chained(Head(namespace="other"), events(2))
    file.parent.mkdir()
    for content in (b"".join(entry.line + b"\n" for entry in other), b"a diary\n", b"a diary\n{}\n"):
        file.write_bytes(content)
        with pytest.raises(InvalidError, match="export to another file"):
            to_file(log, file)
        assert file.read_bytes() == content


@pytest.mark.parametrize("damage", ["changed", "left out", "swapped", "respelt"])
def test_a_file_with_a_broken_chain_is_not_continued_and_does_not_verify(
    log: AuditLog, file: Path, damage: str
) -> None:
    log.append(events(5))
    to_file(log, file)
    one, two, three, *rest = file.read_bytes().splitlines(keepends=True)
    broken = {
        "changed": [one, two.replace(b"search", b"sketch"), three],
        "left out": [one, three],
        "swapped": [one, three, two],
        "respelt": [one, two.replace(b'":"', b'": "', 1), three],
    }[damage]
    file.write_bytes(b"".join([*broken, *rest]))
    log.append(events(1))
    with pytest.raises(InvalidError, match="no audit log of"):
        to_file(log, file)
    assert verify_file(file, KEYS.public_key)[0].seq == 2


def test_a_file_is_verified_with_its_own_head(log: AuditLog, file: Path) -> None:
    log.append(events(5))
    to_file(log, file)
    assert [fault.seq for fault in verify_file(file, Keys.new().public_key)] == [5]
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]))
    assert [fault.text for fault in verify_file(file, KEYS.public_key)] == [
        "entries 4 to 5 are missing from the end: the signed head ends at 5"
    ]
    file.with_name("audit.jsonl.head").unlink()
    with pytest.raises(InvalidError, match="holds no signed head"):
        verify_file(file, KEYS.public_key)
    with pytest.raises(InvalidError, match="cannot read"):
        list(exported(file.with_name("none")))


def test_a_log_that_was_set_back_is_found_by_its_export_and_not_exported_over_it(
    log: AuditLog, file: Path, redis_url: str
) -> None:
    early = log.append(events(3))
    log.append(events(2))
    to_file(log, file)
    before = file.read_bytes()
    set_back(redis_url, log, early)
    assert log.verify() == []
    told = "the log ends at entry 3, but an earlier export goes to 5: the log was set back"
    assert [fault.text for fault in log.verify(against=exported(file))] == [told]
    with pytest.raises(RefusedError, match="has no longer entry 5 as it was exported"):
        to_file(log, file)
    set_back(redis_url, log, [*early, *chained(Head.of(early[-1], KEYS), events(7, actor="nobody"))])
    assert log.verify() == []
    with pytest.raises(RefusedError, match="has no longer entry 5 as it was exported"):
        to_file(log, file)
    assert file.read_bytes() == before


def test_a_damaged_log_is_exported_up_to_the_damage_only(log: AuditLog, file: Path, redis_url: str) -> None:
    log.append(events(5))
    with redis.Redis.from_url(redis_url) as raw:
        raw.hdel(f"omote:{{{log.namespace}}}:audit", "3")
    with pytest.raises(RefusedError, match=r"is damaged: entry 4 of .* does not follow entry 2"):
        to_file(log, file)
    assert [entry.seq for entry in exported(file)] == [1, 2]


def test_two_exports_to_one_file_are_not_made_at_once(log: AuditLog, file: Path) -> None:
    log.append(events(5))
    file.parent.mkdir()
    with file.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SinkError, match="another export writes to"):
            to_file(log, file)
    assert to_file(log, file) == 5


def test_a_place_that_cannot_be_written_is_told(log: AuditLog, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot export to"):
        to_file(log, tmp_path / "file" / "audit.jsonl")


@pytest.mark.broker
def test_the_topic_goes_on_where_it_ended_beside_other_namespaces(
    log: AuditLog, settings: KafkaSettings, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_topic, "TAIL", 2)
    monkeypatch.setattr(audit_topic, "BATCH", 4)
    other = AuditLog(SecretStr(redis_url), f"t{uuid4().hex[:8]}", KEYS)
    log.append(events(10, subject=KEYS.pseudonym("main", "anna")))
    other.append(events(30))
    assert (to_kafka(log, settings), to_kafka(other, settings), to_kafka(log, settings)) == (10, 30, 0)
    log.append(events(3))
    assert to_kafka(log, settings) == 3
    assert list(in_topic(settings, log.namespace)) == list(log.entries())
    assert list(in_topic(settings, other.namespace)) == list(other.entries())
    assert last_in_topic(settings, "nobody") == Head(namespace="nobody")
    assert log.verify(against=in_topic(settings, log.namespace)) == []
    first = next(
        message for message in read_to_end(settings, settings.topic("audit")) if message.said.get("ce_subject")
    )
    assert (first.key, first.said["ce_dataschema"], first.said["ce_type"]) == (
        *(log.namespace.encode(), "omote.audit/1.0", "omote.audit.v1"),
    )
    other.close()


@pytest.mark.broker
def test_two_exports_to_kafka_at_once_double_nothing(log: AuditLog, settings: KafkaSettings, redis_url: str) -> None:
    log.append(events(900))
    told: list[int | str] = []

    def export() -> None:
        mine = AuditLog(SecretStr(redis_url), log.namespace, KEYS)
        try:
            told.append(to_kafka(mine, settings))
        except SinkError as error:
            told.append(str(error))
        mine.close()

    exporters = [Thread(target=export) for _ in range(2)]
    for exporter in exporters:
        exporter.start()
    for exporter in exporters:
        exporter.join()
    to_kafka(log, settings)
    assert [entry.seq for entry in in_topic(settings, log.namespace)] == list(range(1, 901))
    assert len(told) == 2


@pytest.mark.broker
def test_a_topic_of_another_log_is_not_continued(log: AuditLog, settings: KafkaSettings, redis_url: str) -> None:
    early = log.append(events(3))
    log.append(events(2))
    to_kafka(log, settings)
    set_back(redis_url, log, early)
    with pytest.raises(RefusedError, match="has no longer entry 5"):
        to_kafka(log, settings)
    with pytest.raises(SourceError, match="there is no topic"):
        last_in_topic(settings.model_copy(update={"prefix": "none."}), log.namespace)
