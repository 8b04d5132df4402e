"""What the doctor says of Kafka: whether it answers, and whether a message fits through every limit on its way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.commands.broker import settings
from pipeline.commands.doctor import Finding
from pipeline.compute import Compute
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.edges.kafka_settings import KafkaSettings


def check(compute: Compute) -> Iterator[Finding]:
    """The doctor's check, of the entry point ``omote.checks``; it does not depend on ``compute``."""
    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield Finding("kafka", "note", "not looked at: KAFKA_BOOTSTRAP_SERVERS is not set")
        return
    try:
        yield from kafka_findings(settings(""))
    except PipelineError as error:
        yield Finding("kafka", "wrong", str(error))


def kafka_findings(found: KafkaSettings) -> Iterator[Finding]:
    """Compares the limits that a message meets and names the one that is too small."""
    from pipeline.edges.kafka_topics import limits  # noqa: PLC0415  (an extra)

    try:
        met = limits(found)
    except PipelineError as error:
        yield Finding("kafka", "wrong", str(error))
        return
    largest = met[0].bytes
    small = [limit for limit in met if limit.bytes < largest]
    for limit in small:
        text = (
            f"{limit.place} takes messages of up to {limit.bytes} bytes, and the producer sends up to {largest}: "
            f"raise {limit.setting} there, or lower OMOTE_KAFKA_MESSAGE_BYTES"
        )
        overruled = limit.place == "the broker" and met[2].bytes >= largest  # a topic's own limit goes before
        yield Finding("kafka", "note" if overruled else "wrong", text)
    if not small:
        yield Finding("kafka", "ok", f"{found.servers}, messages of up to {largest} bytes")
