"""A copy of the audit log in a topic of Kafka; each export goes on where the last one ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from pipeline.audit import Entry, Head, parsed
from pipeline.edges.audit_export import beyond, unsigned
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.redis_audit import AuditLog
from pipeline.edges.watchdog import end_process, limited
from pipeline.errors import SinkError, SourceError

BATCH = 500
DEADLINE_S = 15.0
TAIL = 1_000  # messages at the end of a partition that are looked through first
READ_S = 60.0


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
        missing = beyond(log, last, head)
        while entries := list(islice(missing, BATCH)):
            with limited("exporting", DEADLINE_S, end_process), settings.errors(SinkError, f"write to {topic}"):
                producer.begin_transaction()
                for entry in entries:
                    producer.send(topic, entry.line, entry.namespace.encode(), _headers(entry))
                producer.commit_transaction()
            added += len(entries)
    finally:
        producer.close()
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
            heads = (unsigned(parsed(line)) for line in lines)
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
