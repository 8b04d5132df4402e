"""Servers that are not there, or that do not let us in, are one clear sentence, and soon."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.servers.process import free_ports
from tests.support.serving import ROOT
from tests.support.solo import graph_file

pytest.importorskip("pipeline.serving.application", reason="Ray is not installed")  # it is slow to load, too

pytestmark = [pytest.mark.broker, pytest.mark.ray]
ANSWER_S = 5.0
NOBODY = "127.0.0.1:9"
Ask = Callable[..., str]


@pytest.fixture
def complaint(capfd: pytest.CaptureFixture[str]) -> Ask:
    """``complaint("serve", ...)`` is the one sentence with which that command fails, at once."""

    def ask(*arguments: str) -> str:
        since = time.monotonic()
        assert main(list(arguments)) == 1
        assert time.monotonic() - since < ANSWER_S
        return sentence(capfd.readouterr().err)

    return ask


def sentence(told: str) -> str:
    lines = [line for line in told.splitlines() if line.strip()]
    assert lines[-1].startswith("omote: ")
    assert "Traceback" not in told
    return lines[-1]


@pytest.fixture
def graph(tmp_path: Path) -> str:
    return str(graph_file(tmp_path))


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from the environment."""
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL", "OMOTE_API_TOKEN", "OMOTE_API_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_a_wrong_address_of_kafka_is_named(complaint: Ask, graph: str, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    for verb in (["serve", graph], ["consume"], ["dlq", "list"], ["dlq", "replay", "--all"]):
        assert f"no Kafka answers at {NOBODY}" in complaint(*verb, "--servers", NOBODY)


def test_an_address_of_kafka_that_is_none_is_named(complaint: Ask, graph: str) -> None:
    assert "nowhere" in complaint("serve", graph, "--servers", "nowhere")


def test_somebody_who_is_no_kafka_is_told_apart(complaint: Ask, graph: str, redis_url: str) -> None:
    address = redis_url.removeprefix("redis://").partition("/")[0]
    assert "check the security protocol" in complaint("serve", graph, "--servers", address)


def test_an_unknown_topic_is_named(complaint: Ask, kafka: str) -> None:
    there = ("--servers", kafka, "--prefix", "nobody.")
    assert f"there is no topic nobody.dlq.v1 at {kafka}" in complaint("dlq", "list", *there)
    assert f"there is no topic nobody.tracks.v1 at {kafka}" in complaint("consume", "--topics", "tracks", *there)


def test_who_is_not_let_in_is_told_why(
    complaint: Ask, graph: str, own_kafka: object, guarded_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    del own_kafka
    guarded = f"127.0.0.1:{guarded_port}"
    assert "does not let omote in over PLAINTEXT" in complaint("serve", graph, "--servers", guarded)
    for name, value in (("SECURITY", "SASL_PLAINTEXT"), ("MECHANISM", "PLAIN"), ("USER", "camera")):
        monkeypatch.setenv(f"OMOTE_KAFKA_{name}", value)
    assert "OMOTE_KAFKA_PASSWORD cannot be read" in complaint("serve", graph, "--servers", guarded)
    monkeypatch.setenv("OMOTE_KAFKA_PASSWORD", "open-sesame")
    told = complaint("serve", graph, "--servers", guarded)
    assert "user 'camera'" in told
    assert "open-sesame" not in told


def test_a_redis_that_is_not_there_is_named_without_its_password(complaint: Ask, graph: str, kafka: str) -> None:
    url = f"redis://:open-sesame@127.0.0.1:{free_ports(1)[0]}/0"
    told = complaint("serve", graph, "--servers", kafka, "--redis", url)
    assert "Redis at redis://" in told
    assert "does not answer" in told
    assert "open-sesame" not in told
    assert "is no Redis URL" in complaint("serve", graph, "--servers", kafka, "--redis", "http://localhost")


def test_a_cluster_that_is_not_there_is_named(graph: str, kafka: str, redis_url: str) -> None:
    # In a process of its own: threads that Serve left in this one may have connected it to a cluster again.
    command = [
        *(sys.executable, "-m", "pipeline", "serve", graph, "--servers", kafka),
        *("--redis", redis_url, "--address", NOBODY),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"no Ray cluster answers at '{NOBODY}'" in sentence(done.stderr)


def test_a_graph_that_asks_for_more_gpus_than_there_can_be_is_refused(
    graph: str, settings: KafkaSettings, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "scale.yaml").write_text("stages: {check: {num_gpus: 64}}\n")
    command = [
        *(sys.executable, "-m", "pipeline", "serve", graph, "--scale", str(tmp_path / "scale.yaml")),
        *("--servers", settings.servers, "--prefix", settings.prefix, "--redis", redis_url),
    ]
    environment = {**os.environ, "OMOTE_API_PORT": str(free_ports(1)[0])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "the graph needs 64 GPU" in sentence(done.stderr)
