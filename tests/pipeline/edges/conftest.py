"""A real Kafka for the tests of this room: one for the session, topics of its own for each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pipeline.edges.delivery import Delivery, Transactions
from pipeline.edges.kafka_server import KafkaServer
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import create_topics
from pipeline.edges.video_messages import VideoMessage
from pipeline.edges.video_topic import VideoTopic


def missing(what: str) -> None:
    (pytest.fail if os.environ.get("OMOTE_REQUIRE_ALL") else pytest.skip)(what)


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """Where Kafka's jars are."""
    home = os.environ.get("OMOTE_KAFKA_HOME")
    if not home:
        missing("neither KAFKA_BOOTSTRAP_SERVERS nor OMOTE_KAFKA_HOME is set")
    return Path(str(home))


@pytest.fixture(scope="session")
def own_kafka(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker of our own, which a test may kill if it starts it again."""
    server = KafkaServer(kafka_home, tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> str:
    """Address of a broker that runs for the whole session."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    return given or request.getfixturevalue("own_kafka").address


@pytest.fixture
def settings(kafka: str) -> KafkaSettings:
    """How to reach the broker; the test has topics of its own, of two partitions each."""
    return new_topics(kafka)


@pytest.fixture
def mortal(own_kafka: KafkaServer) -> tuple[KafkaServer, KafkaSettings]:
    """A broker that may be killed, and topics on it."""
    return own_kafka, new_topics(own_kafka.address)


def new_topics(servers: str) -> KafkaSettings:
    settings = KafkaSettings(servers=servers, prefix=f"t{uuid4().hex[:8]}.")
    create_topics(settings, 2)
    return settings


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
        given = {"data": b"\xff\xd8" + b"%06d" % seq, "capture_ns": 1_700_000_000_000_000_000 + seq * 40_000_000, **more}
        return VideoMessage(stream, 0, seq, seq * 40_000_000, "image/jpeg", **given)

    return make
