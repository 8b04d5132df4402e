"""Copies of the audit log that whoever can write to Redis cannot reach: a file of JSON lines, and a topic of Kafka.

A file ``audit.jsonl`` has its signed head beside it, in ``audit.jsonl.head``. Every export goes on where the last one
ended, and only if the log still says what was exported before.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from kafka import KafkaConsumer, TopicPartition
from pydantic import ValidationError

from pipeline import audit
from pipeline.audit import Anchor, Entry, Fault, Head, following, parsed
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.redis_audit import AuditLog
from pipeline.edges.watchdog import end_process, limited
from pipeline.errors import SinkError, SourceError
from pipeline.gallery.errors import InvalidError, RefusedError

BATCH = 500
DEADLINE_S = 15.0
TAIL = 1_000  # messages at the end of a partition that are looked through first
READ_S = 60.0


def to_file(log: AuditLog, path: Path) -> int:
    """Add to a file what the log has beyond it; a last line that a crash cut off is written again.

    Returns:
        How many entries were added; they and the head are on the disk.

    Raises:
        AwayError: Redis does not answer.
        InvalidError: The file is of another namespace, or its chain is broken.
        RefusedError: The log no longer says what the file says.
        SinkError: The file cannot be written, or another export writes to it.
    """
    with _errors(path), _alone(path) as file:
        head = log.head()
        last = _end_of(file, log.namespace, path)
        added = 0
        for entry in _beyond(log, last, head):
            file.write(entry.line + b"\n")
            added += 1
        file.flush()
        os.fsync(file.fileno())
        _write_head(head, _beside(path))
    return added


def exported(path: Path) -> Iterator[Entry]:
    """The entries of a file, as anchors for `verify`.

    Raises:
        InvalidError: There is no such file, or it is none of an audit log.
    """
    return map(parsed, _lines_of(path))


def verify_file(path: Path, public_key: str, against: Iterable[Anchor] = ()) -> list[Fault]:
    """Everything that is wrong with an exported file; see `pipeline.audit.verify`.

    Raises:
        InvalidError: There is no such file, or no head beside it.
    """
    try:
        head = Head.model_validate_json(_beside(path).read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        message = f"{_beside(path)} holds no signed head; copy it together with {path.name}, or export again"
        raise InvalidError(message) from error
    return audit.verify(_lines_of(path), head, public_key, against)


def to_kafka(log: AuditLog, settings: KafkaSettings) -> int:
    """Add to the audit topic what the log has beyond it: each entry once, for readers of what is committed.

    Of two exports of a namespace at the same time the later one goes on, and the other one fails.

    Returns:
        How many entries were added.

    Raises:
        AwayError: Redis does not answer.
        InvalidError: The topic holds something else under the name of the namespace.
        RefusedError: The log no longer says what the topic says.
        SourceError: There is no such topic, or it cannot be read.
        SinkError: Kafka does not take an entry, or another export has taken over.
    """
    topic, added = settings.topic("audit"), 0
    producer = settings.producer(transactional_id=f"{settings.prefix}audit-export.{log.namespace}")
    try:
        with limited("taking over", DEADLINE_S, end_process), settings.errors(SinkError, f"write to {topic}"):
            producer.init_transactions()
        head = log.head()
        last = last_in_topic(settings, log.namespace)
        beyond = _beyond(log, last, head)
        while entries := list(islice(beyond, BATCH)):
            with limited("exporting", DEADLINE_S, end_process), settings.errors(SinkError, f"write to {topic}"):
                producer.begin_transaction()
                for entry in entries:
                    producer.send(topic, entry.line, entry.namespace.encode(), _headers(entry))
                producer.commit_transaction()
            added += len(entries)
    finally:
        producer.close(timeout=1)
    return added


def in_topic(settings: KafkaSettings, namespace: str) -> Iterator[Entry]:
    """The entries of a namespace in the audit topic, as anchors for `verify`.

    Raises:
        SourceError: There is no such topic, or it cannot be read.
        InvalidError: What lies there is no entry.
    """
    for message in read_to_end(settings, settings.topic("audit")):
        if message.key == namespace.encode():
            yield parsed(message.value or b"")


def last_in_topic(settings: KafkaSettings, namespace: str) -> Head:
    """The last entry of a namespace in the audit topic, as an unsigned head; of an empty log if there is none.

    Raises:
        SourceError: There is no such topic, or it cannot be read.
        InvalidError: What lies there is no entry.
    """
    topic = settings.topic("audit")
    consumer = settings.consumer()
    try:
        with settings.errors(SourceError, f"read {topic}"):
            assigned = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            if not assigned:
                message = f"there is no topic {topic} at {settings.servers}; `omote publish` makes it"
                raise SourceError(message)
            consumer.assign(assigned)
            lines = _newest_first(consumer, namespace.encode())
            heads = (_unsigned(parsed(line)) for line in lines)
            return max(heads, key=lambda head: head.seq, default=Head(namespace=namespace))
    finally:
        consumer.close(autocommit=False, timeout_ms=1_000)


def _newest_first(consumer: KafkaConsumer, key: bytes) -> list[bytes]:
    """Messages of a key in the ends of all partitions; the ends become longer until there are some."""
    assigned = consumer.assignment()
    firsts, ends = consumer.beginning_offsets(assigned), consumer.end_offsets(assigned)
    tail, starts = TAIL, ends
    while starts != firsts:
        before, starts = starts, {tp: max(firsts[tp], ends[tp] - tail) for tp in assigned}
        for tp in assigned:
            consumer.seek(tp, starts[tp])
        if found := [record.value for record in _until(consumer, before) if record.key == key]:
            return found
        tail *= 8
    return []


def _until(consumer: KafkaConsumer, ends: dict[TopicPartition, int]) -> Iterator[Any]:
    patience = time.monotonic() + READ_S
    while any((consumer.position(tp, 4_000) or 0) < end for tp, end in ends.items()):
        if time.monotonic() > patience:
            message = f"the audit topic was not read to its end within {READ_S:.0f} s"
            raise SourceError(message)
        for tp, records in consumer.poll(timeout_ms=250).items():
            yield from (record for record in records if record.offset < ends[tp])


def _beyond(log: AuditLog, last: Head, head: Head) -> Iterator[Entry]:
    """What the log has after what was exported last, up to its head; the log is held against both.

    Raises:
        RefusedError: The log was set back or written anew.
    """
    known = next(log.lines(last.seq - 1, last.seq), b"") if last.seq else b""
    if last.seq > head.seq or (last.seq and (not known or parsed(known).hash != last.hash)):
        message = (
            f"the audit log of {log.namespace!r} has no longer entry {last.seq} as it was exported: it was set back or "
            "written anew; verify it against the export, and export to another place from now on"
        )
        raise RefusedError(message)
    end = last
    try:
        for entry in following(log.lines(last.seq, head.seq), last) if head.seq > last.seq else ():
            end = _unsigned(entry)
            yield entry
    except InvalidError as error:
        message = f"the audit log of {log.namespace!r} is damaged: {error}; run `omote gallery audit verify`"
        raise RefusedError(message) from error
    if (end.seq, end.hash) != (head.seq, head.hash):
        message = f"the audit log of {log.namespace!r} does not end as its head says; run `omote gallery audit verify`"
        raise RefusedError(message)


def _headers(entry: Entry) -> list[tuple[str, bytes]]:
    """CloudEvents 1.0 in Kafka's binary mode."""
    said = {
        "ce_specversion": "1.0",
        "ce_id": entry.id,
        "ce_source": f"/galleries/{entry.namespace}",
        "ce_type": "omote.audit.v1",
        "ce_subject": entry.subject,
        "ce_dataschema": "omote.audit/1.0",
        "ce_time": entry.at.isoformat(),
        "content-type": "application/json",
    }
    return [(name, value.encode()) for name, value in said.items() if value]


def _unsigned(entry: Entry) -> Head:
    return Head(namespace=entry.namespace, seq=entry.seq, hash=entry.hash)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _end_of(file: BinaryIO, namespace: str, path: Path) -> Head:
    """The last entry of a file whose chain is whole; a line that was cut off is taken away."""
    file.seek(0)
    end, whole = Head(namespace=namespace), 0
    lines = (line for line in file if line.endswith(b"\n"))
    try:
        for entry in following((line[:-1] for line in lines), end):
            end, whole = _unsigned(entry), whole + len(entry.line) + 1
    except InvalidError as error:
        message = f"{path} is no audit log of {namespace!r} that can be continued: {error}; export to another file"
        raise InvalidError(message) from error
    file.truncate(whole)
    return end


def _lines_of(path: Path) -> Iterator[bytes]:
    """Whole lines of a file."""
    try:
        file = path.open("rb")
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}; make it with `omote gallery audit export`"
        raise InvalidError(message) from error
    with file:
        yield from (line[:-1] for line in file if line.endswith(b"\n"))


def _write_head(head: Head, path: Path) -> None:
    """Write the head in one step: after a crash there is the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(head.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file, to read and to add to, while nobody else exports to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another export writes to {path}; wait for it"
            raise SinkError(message) from error
        yield file


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot export to {path}: {error.strerror}; free some space or choose another folder"
        raise SinkError(message) from error
