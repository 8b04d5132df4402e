"""What tests of this room write to Kafka, and with what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.edges.delivery import Delivery, Transactions
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.video_messages import VideoMessage
from pipeline.edges.video_topic import VideoTopic

# Kafka deletes video five minutes after it was taken: in a test it is always taken now.
BEGAN_NS = time.time_ns() // 1_000_000 * 1_000_000


@pytest.fixture
def video_topic() -> Iterator[Callable[[KafkaSettings], VideoTopic]]:
    """``video_topic(settings)`` writes to the video topic and is closed in the end."""
    opened: list[VideoTopic] = []

    def make(settings: KafkaSettings) -> VideoTopic:
        opened.append(VideoTopic(settings))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def deliver() -> Iterator[Callable[..., Delivery]]:
    """``deliver(settings, partition)`` is a transactional delivery that is closed in the end."""
    opened: list[Delivery] = []

    def make(settings: KafkaSettings, partition: int = 0, kind: type[Delivery] = Transactions, **more: Any) -> Delivery:
        opened.append(kind(settings, partition=partition, **more))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def jpeg() -> Callable[..., VideoMessage]:
    """``jpeg(n)`` is the n-th picture of a stream as a message."""

    def make(seq: int, stream: str = "cam", **more: Any) -> VideoMessage:
        given = {
            "data": b"\xff\xd8" + b"%06d" % seq,
            "capture_ns": 1_700_000_000_000_000_000 + seq * 40_000_000,
            **more,
        }
        return VideoMessage(stream, 0, seq, seq * 40_000_000, "image/jpeg", **given)

    return make
