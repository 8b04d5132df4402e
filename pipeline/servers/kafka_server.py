"""Apache Kafka on this machine, one node that is broker and controller."""

from __future__ import annotations

import os
import shutil
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pipeline.errors import PipelineError
from pipeline.servers.process import LocalServer

JAVA = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
IMAGE = "apache/kafka"


class KafkaServer(LocalServer):
    """A broker that is its own controller (KRaft); ``address`` is its bootstrap server."""

    name = "Kafka"

    def __init__(self, home: Path, folder: Path, properties: Mapping[str, str] | None = None) -> None:
        """Write its configuration and format its data; an existing folder is used again, data and all.

        Args:
            home: An unpacked Kafka distribution; only its ``libs`` are used.
            folder: Where to keep everything.
            properties: Properties of the broker beside, or instead of, the usual ones. ``{port}`` and
                ``{controller}`` stand for its two ports.

        Raises:
            PipelineError: There is no Java or no Kafka, or Kafka does not take its configuration.
        """
        super().__init__(folder, ports=2)
        self._home = home.absolute()
        written = {**_properties(self.folder / "data"), **(properties or {})}
        text = "".join(f"{name}={value}\n" for name, value in written.items())
        (self.folder / "server.properties").write_text(_with_ports(text, self.ports))
        if not (self.folder / "data").exists():
            self._format()

    def _command(self) -> list[str]:
        return [*self._java(), "kafka.Kafka", "server.properties"]

    def _java(self) -> list[str]:
        java = shutil.which("java")
        if java is None or not (self._home / "libs").is_dir():
            missing = "Java 17" if java is None else f"a folder `libs` in {self._home}"
            message = f"Kafka cannot be started here: it needs {missing}; set KAFKA_BOOTSTRAP_SERVERS to use another"
            raise PipelineError(message)
        logging = self._home / "log4j2.yaml"
        quiet = [f"-Dlog4j2.configurationFile={logging}"] if logging.exists() else []
        return [java, *JAVA, *quiet, "-cp", f"{self._home / 'libs'}{os.sep}*"]

    def _format(self) -> None:
        identity = urlsafe_b64encode(uuid4().bytes).decode().rstrip("=").replace("-", "_")
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", identity, "-c", "server.properties"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            configuration = self.folder / "server.properties"
            message = f"Kafka does not take its configuration {configuration}: {done.stderr.strip()}"
            raise PipelineError(message)


class KafkaContainer(LocalServer):
    """A broker in a container of Docker; ``address`` is its bootstrap server. Its data go when it is stopped."""

    name, start_s = "Kafka in Docker", 300.0  # its image may have to be fetched

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ports=2)
        self._container = f"omote-kafka-{self.port}"

    def kill(self) -> None:
        """Kill the container too, which does not go with the client that runs it."""
        running = bool(self.pid)
        super().kill()
        if running:
            subprocess.run(["docker", "kill", self._container], capture_output=True, check=False)

    def _command(self) -> list[str]:
        given = {
            **_properties(Path("/var/lib/kafka/data")),
            "listeners": "PLAINTEXT://:{port},CONTROLLER://:{controller}",
        }
        written = {name.upper().replace(".", "_"): _with_ports(value, self.ports) for name, value in given.items()}
        variables = [word for name, value in written.items() for word in ("--env", f"KAFKA_{name}={value}")]
        door = f"127.0.0.1:{self.port}:{self.port}"
        return ["docker", "run", "--rm", "--name", self._container, "--publish", door, *variables, IMAGE]


def local_kafka(folder: Path) -> KafkaServer | KafkaContainer:
    """The broker that can be started on this machine, not started yet; it keeps its data in ``folder``.

    The distribution that ``OMOTE_KAFKA_HOME`` names, else one that was unpacked into the cache, else Docker.

    Raises:
        PipelineError: There is none of them.
    """
    if named := os.environ.get("OMOTE_KAFKA_HOME"):
        return KafkaServer(Path(named), folder)
    cache = Path(os.environ.get("OMOTE_CACHE") or Path.home() / ".cache" / "omote")
    if (homes := sorted(cache.glob("kafka*/libs"))) and shutil.which("java"):
        return KafkaServer(homes[-1].parent, folder)
    if _docker_runs():
        return KafkaContainer(folder)
    message = (
        "there is no Kafka: set KAFKA_BOOTSTRAP_SERVERS to a broker that runs, or unpack Apache Kafka into "
        f"{cache} or where OMOTE_KAFKA_HOME says (it needs Java 17), or start Docker"
    )
    raise PipelineError(message)


def _with_ports(text: str, ports: Sequence[int]) -> str:
    return text.replace("{port}", str(ports[0])).replace("{controller}", str(ports[1]))


def _docker_runs() -> bool:
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(["docker", "info"], capture_output=True, timeout=5, check=False).returncode == 0
    return False


def _properties(data: Path) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": "1@127.0.0.1:{controller}",
        "listeners": "PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": "PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
        "message.max.bytes": "10485760",
        # A broker that was killed is let in again after this time, 9 s with the default. One that is busy, or its
        # machine, is shut out after this time: its partitions have no leader until its next heartbeat.
        "broker.session.timeout.ms": "2500",
        "broker.heartbeat.interval.ms": "300",
    }
