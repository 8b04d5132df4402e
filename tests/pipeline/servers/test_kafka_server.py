"""A real Kafka of this machine: its data stay, and what is missing is told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import create_topics, video_partitions
from pipeline.errors import PipelineError
from pipeline.servers.kafka_server import KafkaContainer, KafkaServer, local_kafka
from pipeline.servers.process import listens

DOCKER = """#!{python}
import os, socket, sys, time
with open({told!r}, "a") as told:
    told.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "run":
    port = int(sys.argv[sys.argv.index("--publish") + 1].split(":")[1])
    door = socket.create_server(("127.0.0.1", port))
    time.sleep(600)
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A Docker that only listens; gives the commands that it was told."""
    program, told = tmp_path / "bin" / "docker", tmp_path / "told"
    program.parent.mkdir()
    program.write_text(DOCKER.format(python=sys.executable, told=str(told)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("OMOTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OMOTE_KAFKA_HOME", raising=False)
    return lambda: told.read_text().splitlines()


@pytest.mark.broker
def test_it_keeps_its_topics_over_a_kill_and_in_its_folder(kafka_home: Path, tmp_path: Path) -> None:
    with KafkaServer(kafka_home, tmp_path / "kafka") as server:
        settings = KafkaSettings(servers=server.address)
        create_topics(settings, 3)
        server.kill()
        assert not listens(server.port)
        server.start()
        assert video_partitions(settings) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"kafka"}
    with KafkaServer(kafka_home, tmp_path / "kafka") as successor:
        assert successor.address == server.address
        assert video_partitions(settings) == 3


@pytest.mark.broker
def test_a_property_that_cannot_be_is_told_with_the_file_it_stands_in(kafka_home: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"Kafka does not take its configuration .*server\.properties"):
        KafkaServer(kafka_home, tmp_path, {"node.id": "first"})


def test_without_java_or_jars_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PipelineError, match="it needs Java 17; set KAFKA_BOOTSTRAP_SERVERS"):
        KafkaServer(tmp_path, tmp_path / "a")
    java = tmp_path / "java"
    java.touch(0o755)
    with pytest.raises(PipelineError, match="it needs a folder `libs` in"):
        KafkaServer(tmp_path, tmp_path / "b")


def test_docker_is_taken_where_nothing_else_is_and_a_kill_reaches_its_container(
    docker: Callable[[], list[str]], tmp_path: Path
) -> None:
    server = local_kafka(tmp_path / "kafka")
    assert isinstance(server, KafkaContainer)
    server.start()
    assert listens(server.port)
    server.kill()
    _, ran, killed = docker()
    name = f"omote-kafka-{server.port}"
    assert ran.startswith(f"run --rm --name {name} --publish 127.0.0.1:{server.port}:{server.port} ")
    assert f"--env KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:{server.port}" in ran
    assert "{" not in ran
    assert killed == f"kill {name}"


def test_a_named_distribution_goes_before_the_cache_and_the_cache_before_docker(
    docker: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del docker
    monkeypatch.setattr(KafkaServer, "__init__", lambda self, home, folder: setattr(self, "home", home))
    (tmp_path / "cache" / "kafka_2.13-4.1.0" / "libs").mkdir(parents=True)
    (tmp_path / "bin" / "java").touch(0o755)
    assert local_kafka(tmp_path).home == tmp_path / "cache" / "kafka_2.13-4.1.0"
    monkeypatch.setenv("OMOTE_KAFKA_HOME", "/named")
    assert local_kafka(tmp_path).home == Path("/named")


def test_where_there_is_none_the_three_ways_out_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("OMOTE_CACHE", str(tmp_path))
    monkeypatch.delenv("OMOTE_KAFKA_HOME", raising=False)
    with pytest.raises(PipelineError, match=r"KAFKA_BOOTSTRAP_SERVERS .* OMOTE_KAFKA_HOME .* Docker"):
        local_kafka(tmp_path)
