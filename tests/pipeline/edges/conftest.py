"""A real Kafka for the tests of this room: one for the session, topics of its own for each test."""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pipeline.edges.delivery import Delivery, Transactions
from pipeline.edges.kafka_server import KafkaServer, free_ports
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import create_topics
from pipeline.edges.video_messages import VideoMessage
from pipeline.edges.video_topic import VideoTopic

PASSWORD = "hunter2-hunter2"
# Kafka deletes video five minutes after it was taken: in a test it is always taken now.
BEGAN_NS = time.time_ns() // 1_000_000 * 1_000_000


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
def guarded_port() -> int:
    """Where our own broker asks for a user and a password."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def own_kafka(kafka_home: Path, guarded_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker of our own, which a test may kill if it starts it again; it knows the user ``camera``."""
    door = f"SASL_PLAINTEXT://127.0.0.1:{guarded_port}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    guarded = {
        "listeners": f"PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},{door}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},{door}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{login} user_camera="{PASSWORD}";',
    }
    server = KafkaServer(kafka_home, tmp_path_factory.mktemp("kafka"), guarded)
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


@pytest.fixture(scope="module")
def swept() -> Iterator[None]:
    """Kafka's client leaves sockets open that nobody answered; they are closed before another module notices."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


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
        given = {
            "data": b"\xff\xd8" + b"%06d" % seq,
            "capture_ns": 1_700_000_000_000_000_000 + seq * 40_000_000,
            **more,
        }
        return VideoMessage(stream, 0, seq, seq * 40_000_000, "image/jpeg", **given)

    return make


@pytest.fixture(scope="session")
def password() -> str:
    """The password of the user ``camera``."""
    return PASSWORD
