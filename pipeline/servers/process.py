"""How the processes of this room start and end, and what servers keep: a folder, their ports, a log."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Self

from pipeline.errors import PipelineError

START_S = 30.0  # each takes less than 2 s; a busy machine takes more
STOP_S = 5.0


class LocalProcess(ABC):
    """A process of this machine, in a session of its own: Ctrl-C reaches whoever started it, who ends it in time.

    Attributes:
        name: What it is called in messages.
        log: Where its output goes; nowhere if None.
        start_s: How long it may take until it is of use.
    """

    name: str
    log: Path | None = None
    start_s: float = START_S
    _process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id, 0 while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        """Start it, if it does not run, and wait until it is of use.

        Raises:
            PipelineError: It ended at once, or takes longer than ``start_s``.
        """
        if self.pid:
            return
        with (self.log or Path("/dev/null")).open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self.log and self.log.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._await()
        except BaseException:  # Ctrl-C, too
            self.kill()
            raise

    def stop(self) -> None:
        """End it in order; kill it if it does not."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.send_signal(signal.SIGCONT)  # it may be frozen
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        finally:  # who asks twice does not want to wait
            self.kill()

    def kill(self) -> None:
        """SIGKILL: what a power cut does to it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and says nothing more."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good; what it wrote stays."""
        self.stop()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End it for good."""
        self.close()

    @abstractmethod
    def _command(self) -> list[str]:
        """What to run."""

    def _answers(self) -> bool:
        """Whether it is of use already."""
        return True

    def _await(self) -> None:
        patience = time.monotonic() + self.start_s
        while not self._answers():
            if not self.pid or time.monotonic() > patience:
                message = f"{self.name} did not start; its log is {self.log}"
                raise PipelineError(message)
            time.sleep(0.02)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


class LocalServer(LocalProcess):
    """A process that listens on 127.0.0.1 and keeps everything in its own folder; start it again and its data is there.

    Attributes:
        folder: Holds its configuration, its data and its log; it runs there.
        port: Where clients connect.
        address: ``host:port`` for clients.
    """

    def __init__(self, folder: Path, ports: int = 1) -> None:
        """Choose ``ports`` free ports, or take those that an existing folder remembers."""
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "log"
        remembered = self.folder / "ports"
        if not remembered.exists():
            remembered.write_text(" ".join(map(str, free_ports(ports))))
        self.ports = [int(port) for port in remembered.read_text().split()]
        self.port, self.address = self.ports[0], f"127.0.0.1:{self.ports[0]}"

    def _answers(self) -> bool:
        return listens(self.port)


def free_ports(count: int) -> list[int]:
    """Different ports that the system gives to nobody by itself, so that they are free again after a restart."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


def listens(port: int) -> bool:
    """Whether somebody takes connections on this port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
