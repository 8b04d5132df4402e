"""omote's topics in Kafka: making them, reading them to their end, and the limits that messages meet."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import NoError, TopicAlreadyExistsError, for_code

from pipeline.edges.from_kafka import message
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.video_messages import Message
from pipeline.errors import SourceError
from pipeline.retention import MINUTE_MS, RETENTION_MS, segment_ms

# A dead letter is the message and why it died: it must fit wherever the message did.
LETTER_BYTES = 64 * 1024
# A changelog is read whole when a worker takes over: it is kept short.
COMPACTED = {
    "segment.bytes": str(16 << 20),
    "segment.ms": str(10 * MINUTE_MS),
    "min.cleanable.dirty.ratio": "0.1",
}
POLICIES = {
    "streams.status": {"cleanup.policy": "compact", **COMPACTED},
    "state": {"cleanup.policy": "compact,delete", **COMPACTED},
}
TOPICS = ("streams.status", *RETENTION_MS)
READ_S = 60.0


def create_topics(settings: KafkaSettings, partitions: int, replicas: int = -1) -> list[str]:
    """Make the topics that are not there yet; those that are stay as they are.

    Args:
        settings: How to reach Kafka.
        partitions: Of each topic. A worker's state lies in the partition of the same number as its video.
        replicas: Of each partition; the broker's own default if -1.

    Returns:
        Names of the topics that were made.

    Raises:
        SourceError: Kafka does not let us, or the video topic has partitions that the state topic has not.
    """
    admin = settings.admin()
    try:
        with settings.errors(SourceError, "create topics"):
            missing = [name for name in TOPICS if settings.topic(name) not in set(admin.list_topics())]
            specs = {
                settings.topic(name): {
                    "num_partitions": partitions,
                    "replication_factor": replicas,
                    "configs": _config(name, settings),
                }
                for name in missing
            }
            answer = admin.create_topics(specs, raise_errors=False)["topics"] if specs else []
            for error in (for_code(topic["error_code"]) for topic in answer):
                if error not in {NoError, TopicAlreadyExistsError}:  # another worker may have been faster
                    raise error
            admin.wait_for_topics([settings.topic(name) for name in TOPICS])
            video, state = (settings.topic(name) for name in ("video", "state"))
            counts = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics([video, state])}
    finally:
        admin.close()
    if counts[video] > counts[state] > 0:  # a broker that has not heard of it yet tells of none
        raise SourceError(_too_few(state, counts[state], video))
    return [settings.topic(name) for name in missing]


def _too_few(topic: str, count: int, other: str) -> str:
    return f"{topic} has {count} partitions, fewer than {other}: a worker's state lies beside its video; add partitions"


def _config(name: str, settings: KafkaSettings) -> dict[str, str]:
    letter = LETTER_BYTES if name == "dlq" else 0
    config = {"max.message.bytes": str(settings.message_bytes + letter), "compression.type": "producer"}
    if name in RETENTION_MS:
        config |= {"retention.ms": str(RETENTION_MS[name]), "segment.ms": str(segment_ms(name))}
    return {**config, **POLICIES.get(name, {})}


def video_partitions(settings: KafkaSettings) -> int:
    """How many partitions the video topic has.

    Raises:
        SourceError: There is no such topic, or no broker.
    """
    consumer = settings.consumer()
    try:
        return len(_partitions(consumer, settings.topic("video"), settings))
    finally:
        consumer.close(autocommit=False, timeout_ms=1_000)


def read_to_end(
    settings: KafkaSettings, topic: str, partitions: Sequence[int] = (), settled_s: float = 0
) -> Iterator[Message]:
    """Every committed message that is in the topic now, in order within each partition.

    Args:
        settings: How to reach Kafka.
        topic: Full name.
        partitions: Which to read; all of them if empty.
        settled_s: How long to wait for transactions that are open now. What was committed after one of them began
            cannot be seen before it ends; with 0 it is left out.

    Raises:
        SourceError: There is no such topic or partition, or its end was not reached in time, within a minute if
            nothing is waited for.
    """
    consumer = settings.consumer()
    try:
        with settings.errors(SourceError, f"read {topic}"):
            there = _partitions(consumer, topic, settings)
            assigned = [TopicPartition(topic, number) for number in partitions] or there
            if missing := set(assigned) - set(there):
                text = f"{topic} has no partition {min(missing).partition}; it has {len(there)}, counted from 0"
                raise SourceError(text)
            consumer.assign(assigned)
            consumer.seek_to_beginning(*assigned)
            ends = _written(settings, assigned) if settled_s else consumer.end_offsets(assigned)
            yield from _until(consumer, ends, topic, settled_s or READ_S)
    finally:
        consumer.close(autocommit=False, timeout_ms=1_000)


def _written(settings: KafkaSettings, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """Where the partitions end for whoever writes; for readers of committed messages, where an open one begins."""
    consumer = settings.consumer(isolation_level="read_uncommitted")
    try:
        ends: dict[TopicPartition, int] = consumer.end_offsets(partitions)
    finally:
        consumer.close(autocommit=False, timeout_ms=1_000)
    return ends


def follow(settings: KafkaSettings, topics: Sequence[str], start: str, idle_s: float) -> Generator[Message]:
    """Committed messages of several topics as they come, until none came for ``idle_s``.

    Args:
        settings: How to reach Kafka.
        topics: Full names.
        start: ``beginning``, or ``end``: only what comes from now on.
        idle_s: Patience.

    Raises:
        SourceError: There is no such topic, or Kafka does not let us.
    """
    consumer = settings.consumer()
    try:
        with settings.errors(SourceError, f"read {', '.join(topics)}"):
            assigned = [tp for topic in topics for tp in _partitions(consumer, topic, settings)]
            consumer.assign(assigned)
            (consumer.seek_to_beginning if start == "beginning" else consumer.seek_to_end)(*assigned)
            since = time.monotonic()
            while time.monotonic() - since < idle_s:
                for records in consumer.poll(timeout_ms=250).values():
                    yield from map(message, records)
                    since = time.monotonic()
    finally:
        consumer.close(autocommit=False, timeout_ms=1_000)


def _partitions(consumer: KafkaConsumer, topic: str, settings: KafkaSettings) -> list[TopicPartition]:
    there = consumer.partitions_for_topic(topic)
    if not there:
        text = f"there is no topic {topic} at {settings.servers}"
        raise SourceError(text)
    return [TopicPartition(topic, number) for number in sorted(there)]


def _until(consumer: KafkaConsumer, ends: dict[TopicPartition, int], topic: str, limit_s: float) -> Iterator[Message]:
    patience = time.monotonic() + limit_s
    while any((consumer.position(tp, 4_000) or 0) < end for tp, end in ends.items()):
        if time.monotonic() > patience:
            text = f"{topic} was not read to its end within {limit_s:g} s; what a dead worker began may still be open"
            raise SourceError(text)
        for tp, records in consumer.poll(timeout_ms=250).items():
            yield from (message(record) for record in records if record.offset < ends[tp])


class Limit(NamedTuple):
    """How large a message may be at one place on its way: ``bytes``, and the ``setting`` that says so."""

    place: str
    setting: str
    bytes: int


def limits(settings: KafkaSettings) -> list[Limit]:
    """Every limit that a video message meets, from the producer to the consumer.

    Raises:
        SourceError: No broker answers, or there is no video topic.
    """
    topic = settings.topic("video")
    admin = settings.admin()
    try:
        with settings.errors(SourceError, "ask for limits"):
            if topic not in admin.list_topics():
                text = f"there is no topic {topic} at {settings.servers}; `omote publish` makes it"
                raise SourceError(text)
            broker = str(admin.describe_cluster()["brokers"][0]["broker_id"])
            at_broker = _described(admin, ConfigResourceType.BROKER, broker)
            of_topic = _described(admin, ConfigResourceType.TOPIC, topic)
    finally:
        admin.close()
    return [
        Limit("the producer", "message_bytes", settings.message_bytes),
        Limit("the broker", "message.max.bytes", int(at_broker["message.max.bytes"])),
        Limit(f"the topic {topic}", "max.message.bytes", int(of_topic["max.message.bytes"])),
        Limit("the consumer", "message_bytes", settings.message_bytes),
    ]


def _described(admin: Any, kind: ConfigResourceType, name: str) -> dict[str, str]:
    described = admin.describe_configs([ConfigResource(kind, name)], config_filter="all")
    return {key: str(entry["value"]) for key, entry in described[kind.name.lower()][name].items()}
