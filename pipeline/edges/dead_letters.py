"""The dead-letter topic: what lies there, and sending it back to where it came from."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import LETTER_BYTES, read_to_end
from pipeline.edges.video_messages import Message
from pipeline.edges.watchdog import end_process, limited
from pipeline.errors import PipelineError, SinkError

REPLAYED = "dlq-replayed"  # header of a note that the letter with this id went back
DEADLINE_S = 10.0


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
    """Send letters back to where they came from, each once: it and a note of it are one transaction.

    Raises:
        SinkError: Kafka does not take one; none of them was sent back then.
    """
    limit = settings.message_bytes + LETTER_BYTES + 1024
    producer = settings.producer(transactional_id=f"{settings.prefix}dlq-replay", max_request_size=limit)
    try:
        with limited("replaying", DEADLINE_S, end_process), settings.errors(SinkError, "replay dead letters"):
            producer.init_transactions()
            producer.begin_transaction()
            for letter in chosen_letters:
                origin = letter.said.get("dlq-origin-topic") or settings.topic("video")
                kept = [(n, v) for n, v in letter.headers if not n.startswith("dlq-") or n == "dlq-attempts"]
                producer.send(origin, letter.value, letter.key, kept)
                note = [(REPLAYED, identity(letter).encode())]
                producer.send(settings.topic("dlq"), None, letter.key, note, letter.partition)
            producer.commit_transaction()
    finally:
        producer.close()
