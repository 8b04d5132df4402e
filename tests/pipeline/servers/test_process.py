"""Whatever runs on this machine starts in time or says why not, and ends for certain."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.errors import PipelineError
from pipeline.servers.process import LocalServer, free_ports, listens

LISTENING = """
import socket, sys, time
door = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(600)
"""
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{LISTENING}"


class Listener(LocalServer):
    """A server that only listens."""

    name = "the listener"

    def __init__(self, folder: Path, program: str = LISTENING) -> None:
        super().__init__(folder)
        self._program = program

    def _command(self) -> list[str]:
        return [sys.executable, "-c", self._program, str(self.port)]


def test_a_server_serves_once_it_has_started_and_keeps_its_port(tmp_path: Path) -> None:
    server = Listener(tmp_path)
    with server:
        assert listens(server.port)
        first = server.pid
        server.start()
        assert server.pid == first
    assert not listens(server.port)
    assert server.pid == 0
    assert Listener(tmp_path).address == server.address


@pytest.mark.parametrize("end", ["stop", "kill", "close"])
def test_nothing_is_left_of_a_server_that_has_ended(tmp_path: Path, end: str) -> None:
    server = Listener(tmp_path)
    server.start()
    pid = server.pid
    getattr(server, end)()
    getattr(server, end)()
    assert not psutil.pid_exists(pid)


def test_a_server_that_died_by_itself_can_be_started_again(tmp_path: Path) -> None:
    with Listener(tmp_path) as server:
        psutil.Process(server.pid).kill()
        psutil.Process(server.pid).wait(5)
        assert server.pid == 0
        server.start()
        assert listens(server.port)


def test_a_frozen_server_can_be_stopped_and_a_thawed_one_goes_on(tmp_path: Path) -> None:
    with Listener(tmp_path) as server:
        server.freeze()
        _until(lambda: _stopped(server))
        server.thaw()
        _until(lambda: not _stopped(server))
        server.freeze()
    assert server.pid == 0


def _stopped(server: LocalServer) -> bool:
    return bool(psutil.Process(server.pid).status() == psutil.STATUS_STOPPED)


def _until(so: Callable[[], bool]) -> None:
    patience = time.monotonic() + 5
    while not so():
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_a_server_that_does_not_listen_to_reason_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.servers.process.STOP_S", 0.2)
    with Listener(tmp_path, DEAF) as server:
        pid = server.pid
    assert not psutil.pid_exists(pid)


def test_a_server_that_ends_at_once_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    server = Listener(tmp_path, "raise SystemExit('no licence')")
    with pytest.raises(PipelineError, match=r"^the listener did not start; its log is ") as raised:
        server.start()
    assert "no licence" in Path(str(raised.value).split()[-1]).read_text()


def test_a_server_that_takes_too_long_is_an_error_and_is_gone(tmp_path: Path) -> None:
    server = Listener(tmp_path, "import time; time.sleep(600)")
    server.start_s = 0.2
    before = psutil.Process().children()
    with pytest.raises(PipelineError, match="did not start"):
        server.start()
    assert server.pid == 0
    assert psutil.Process().children() == before


def test_a_start_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    server = Listener(tmp_path, "import time; time.sleep(600)")
    before = psutil.Process().children()
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert psutil.Process().children() == before


def test_ctrl_c_in_the_terminal_does_not_reach_a_server(tmp_path: Path) -> None:
    with Listener(tmp_path) as server:
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_free_ports_are_free_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = free_ports(20)
    assert not any(map(listens, ports))
    drawn = iter([ports[0], ports[0], ports[1]])
    monkeypatch.setattr("pipeline.servers.process.random.randrange", lambda *_: next(drawn))
    assert sorted(free_ports(2)) == sorted(ports[:2])
