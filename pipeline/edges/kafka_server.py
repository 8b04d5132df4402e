"""Apache Kafka on this machine, one node, for tests and laptops; ended by whoever started it."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pipeline.errors import PipelineError

START_S = 30.0  # it takes 1.4 s; a busy machine takes more
STOP_S = 10.0
JAVA = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class KafkaServer:
    """A broker that is its own controller (KRaft), in its own folder and on its own ports.

    Attributes:
        address: ``host:port`` for clients.
        folder: Holds its configuration, its data and its log.
    """

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
        self._home, self.folder = home, folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        ports = folder / "ports"
        if not ports.exists():
            ports.write_text(" ".join(map(str, free_ports(2))))
        port, controller = map(int, ports.read_text().split())
        self.address = f"127.0.0.1:{port}"
        written = {**_properties(folder / "data"), **(properties or {})}
        text = "".join(f"{name}={value}\n" for name, value in written.items())
        text = text.replace("{port}", str(port)).replace("{controller}", str(controller))
        (folder / "server.properties").write_text(text)
        if not (folder / "data").exists():
            self._format()

    @property
    def pid(self) -> int:
        """Its process id, 0 while it does not run."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it and wait until it takes connections.

        Raises:
            PipelineError: It ended at once, or takes longer than 30 s.
        """
        with (self.folder / "log").open("ab") as log:
            command = [*self._java(), "kafka.Kafka", "server.properties"]
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        patience = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > patience:
                self.kill()
                message = f"Kafka did not start; its log is {self.folder / 'log'}"
                raise PipelineError(message)
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in order; kill it if it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: what a power cut does to it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()

    def _java(self) -> list[str]:
        java = shutil.which("java")
        if java is None or not (self._home / "libs").is_dir():
            missing = "Java 17" if java is None else f"a folder `libs` in {self._home}"
            message = f"Kafka cannot be started here: there is no {missing}; set KAFKA_BOOTSTRAP_SERVERS to use another"
            raise PipelineError(message)
        logging = self._home.resolve() / "log4j2.yaml"
        quiet = [f"-Dlog4j2.configurationFile={logging}"] if logging.exists() else []
        return [java, *JAVA, *quiet, "-cp", f"{self._home.resolve() / 'libs'}{os.sep}*"]

    def _format(self) -> None:
        identity = urlsafe_b64encode(uuid4().bytes).decode().rstrip("=").replace("-", "_")
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", identity, "-c", "server.properties"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            message = (
                f"Kafka does not take its configuration {self.folder / 'server.properties'}: {done.stderr.strip()}"
            )
            raise PipelineError(message)

    def _answers(self) -> bool:
        host, port = self.address.split(":")
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return True
        except OSError:
            return False


def free_ports(count: int) -> list[int]:
    """Ports that the system gives to nobody by itself, so that they are free again after a restart."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


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
        # A broker that was killed is let in again after this time; with the default it waits 9 s more.
        "broker.session.timeout.ms": "1500",
        "broker.heartbeat.interval.ms": "300",
    }
