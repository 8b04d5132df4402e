"""The dead-letter topic: what lies there, and sending it back to where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.edges.kafka_producer import Producer
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import LETTER_BYTES, read_to_end
from pipeline.edges.video_messages import Message
from pipeline.edges.watchdog import end_process, limited
from pipeline.errors import PipelineError, SinkError

REPLAYED = "dlq-replayed"  # header of a note that the letter with this id went back
LASTING = ("dlq-attempts", "dlq-origin-time")  # headers that go back with a letter
DEADLINE_S = 10.0  # of each letter


def identity(letter: Message) -> str:
    """How a user names a letter: ``partition:offset`` in the dead-letter topic."""
    return f"{letter.partition}:{letter.offset}"


def letters(settings: KafkaSettings) -> list[Message]:
    """The dead letters that were not sent back yet, oldest first.

    Raises:
        SourceError: The topic cannot be read.
    """
    found: dict[str, Message] = {}
    gone: set[str] = set()
    for message in read_to_end(settings, settings.topic("dlq")):
        said = message.said
        if REPLAYED in said:
            gone.add(said[REPLAYED])
        else:
            found[identity(message)] = message
    return sorted((m for name, m in found.items() if name not in gone), key=lambda m: m.said.get("dlq-time", ""))


def chosen(settings: KafkaSettings, names: Sequence[str]) -> list[Message]:
    """The letters of these names; all of them if none is given.

    Raises:
        PipelineError: There is no such letter, or it was sent back already.
    """
    waiting = {identity(letter): letter for letter in letters(settings)}
    if unknown := [name for name in names if name not in waiting]:
        message = f"no dead letter {unknown[0]!r} waits in {settings.topic('dlq')}; `omote dlq list` shows them"
        raise PipelineError(message)
    return [waiting[name] for name in names or waiting]


def replay(settings: KafkaSettings, chosen_letters: Sequence[Message]) -> None:
    """Send letters back to the partitions they came from, each once: it and a note of it are one transaction.

    Raises:
        SinkError: Kafka does not take one; those before it were sent back.
    """
    limit = settings.message_bytes + LETTER_BYTES + 1024
    producer = settings.producer(transactional_id=f"{settings.prefix}dlq-replay", max_request_size=limit)
    try:
        with _replaying(settings):
            producer.init_transactions()
        for letter in chosen_letters:
            with _replaying(settings):
                producer.begin_transaction()
                _send_back(settings, producer, letter)
                producer.commit_transaction()
    finally:
        producer.close()


@contextmanager
def _replaying(settings: KafkaSettings) -> Iterator[None]:
    with limited("replaying", DEADLINE_S, end_process), settings.errors(SinkError, "replay dead letters"):
        yield


def _send_back(settings: KafkaSettings, producer: Producer, letter: Message) -> None:
    said = letter.said
    origin = said.get("dlq-origin-topic") or settings.topic("video")
    there = producer.partitions_for(origin)
    partition = next((number for number in there if str(number) == said.get("dlq-origin-partition")), None)
    kept = [(n, v) for n, v in letter.headers if not n.startswith("dlq-") or n in LASTING]
    producer.send(origin, letter.value, letter.key, kept, partition)
    note = [(REPLAYED, identity(letter).encode())]
    producer.send(settings.topic("dlq"), b"", letter.key, note, letter.partition)
