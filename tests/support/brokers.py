"""Fixtures: a real Kafka and a real Redis, one of each for the session; what a test kills is started again after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import create_topics
from pipeline.errors import PipelineError
from pipeline.retention import RETENTION_MS
from pipeline.servers.kafka_server import KafkaServer
from pipeline.servers.process import free_ports
from pipeline.servers.redis_server import RedisServer
from tests.support.requirements import missing

PASSWORD = "hunter2-hunter2"


def lasting_topics(settings: KafkaSettings, partitions: int) -> None:
    """omote's topics, but they keep everything.

    Tests send pictures of years ago. Half a minute after each start and every five minutes from then on Kafka deletes
    what is older than its topic keeps, read or not, and whichever test ran then would wait for it in vain.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in RETENTION_MS:
            patch.setitem(RETENTION_MS, name, -1)
        create_topics(settings, partitions)


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """Where Kafka's jars are."""
    home = os.environ.get("OMOTE_KAFKA_HOME")
    return Path(home) if home else missing("neither KAFKA_BOOTSTRAP_SERVERS nor OMOTE_KAFKA_HOME is set")


@pytest.fixture(scope="session")
def guarded_port() -> int:
    """Where our own broker asks for a user and a password."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def own_kafka(kafka_home: Path, guarded_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker of our own; it knows the user ``camera``. To kill it ask for ``mortal_kafka``."""
    door = f"SASL_PLAINTEXT://127.0.0.1:{guarded_port}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    guarded = {
        "listeners": f"PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},{door}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},{door}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{login} user_camera="{PASSWORD}";',
    }
    with KafkaServer(kafka_home, tmp_path_factory.mktemp("kafka"), guarded) as server:
        yield server


@pytest.fixture
def mortal_kafka(own_kafka: KafkaServer) -> Iterator[KafkaServer]:
    """The broker of our own, for whatever a test does to it; it runs again afterwards."""
    yield own_kafka
    own_kafka.thaw()
    own_kafka.start()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> str:
    """Address of a broker that runs for the whole session."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    return given or request.getfixturevalue("own_kafka").address


@pytest.fixture(scope="session")
def new_topics() -> Callable[..., KafkaSettings]:
    """``new_topics(servers)`` makes topics that nobody else has, of two partitions each."""

    def make(servers: str, partitions: int = 2) -> KafkaSettings:
        settings = KafkaSettings(servers=servers, prefix=f"t{uuid4().hex[:8]}.")
        lasting_topics(settings, partitions)
        return settings

    return make


@pytest.fixture
def settings(kafka: str, new_topics: Callable[..., KafkaSettings]) -> KafkaSettings:
    """How to reach the broker; the test has topics of its own, of two partitions each."""
    return new_topics(kafka)


@pytest.fixture
def mortal(mortal_kafka: KafkaServer, new_topics: Callable[..., KafkaSettings]) -> tuple[KafkaServer, KafkaSettings]:
    """A broker that may be killed, and topics on it."""
    return mortal_kafka, new_topics(mortal_kafka.address)


@pytest.fixture(scope="session")
def password() -> str:
    """The password of the user ``camera`` of our own broker."""
    return PASSWORD


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of our own. To kill it ask for ``mortal_redis``."""
    try:
        server = RedisServer(tmp_path_factory.mktemp("redis"))
    except PipelineError as error:
        missing(str(error))
    with server:
        yield server


@pytest.fixture
def mortal_redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """The Redis of our own, for whatever a test does to it; it runs again afterwards."""
    yield redis_server
    redis_server.thaw()
    redis_server.start()


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """Where a Redis runs for the whole session."""
    return os.environ.get("REDIS_URL") or request.getfixturevalue("redis_server").url
