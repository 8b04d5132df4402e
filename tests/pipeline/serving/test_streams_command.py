"""``omote streams`` against an API on a real port."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Semaphore, Thread

import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from pipeline.__main__ import main
from pipeline.commands import streams as command
from pipeline.serving.api import api
from pipeline.serving.streams import NotReadyError, StreamSpec, StreamView
from tests.support.memory_streams import MemoryStreams, camera

ROOT = Path(__file__).parents[3]
Serve = Callable[[FastAPI], str]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMOTE_API", "OMOTE_API_TOKEN", "OMOTE_API_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy has no part in what stays on this machine
    monkeypatch.setenv("NO_COLOR", "1")


@contextmanager
def listening() -> Iterator[socket.socket]:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """``serve(app)`` serves an app on a free port, where `omote streams` looks for it."""
    running = []

    with listening() as listener:

        def start(app: FastAPI) -> str:
            server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", lifespan="off"))
            thread = Thread(target=server.run, args=([listener],))
            thread.start()
            running.append((server, thread))
            monkeypatch.setenv("OMOTE_API", address(listener))
            return address(listener)

        yield start
        for server, thread in running:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def streams(serve: Serve) -> MemoryStreams:
    found = MemoryStreams(
        camera("yard", last_pts_ns=3_725_000_000_000, epoch=3, frames=1537, dropped={"late": 24, "overflow": 2}),
        camera("site/gate", "offline", reason="[red]nothing listens[/red] at this host"),
    )
    serve(api(found))
    return found


Omote = Callable[..., tuple[int, str, str]]


@pytest.fixture
def omote(capsys: pytest.CaptureFixture[str]) -> Omote:
    """``omote(...)`` runs `omote streams ...`; gives exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["streams", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def failed(result: tuple[int, str, str]) -> str:
    """The sentence of a failure."""
    code, out, err = result
    assert (code, out) == (1, "")
    assert err.startswith("omote: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.usefixtures("streams")
def test_the_table_shows_how_every_stream_does(omote: Omote) -> None:
    code, out, _ = omote("list")
    heading, gate, yard = (line.split() for line in out.splitlines())
    assert code == 0
    assert heading[:3] == ["id", "source", "state"]
    assert gate[:3] == ["site/gate", "rtsp", "offline"]
    assert "[red]nothing listens[/red] at this host" in out
    assert yard[:3] == ["yard", "rtsp", "online"]
    assert yard[5:] == ["3", "1:02:05", "1537", "24", "late,", "2", "overflow"]


@pytest.mark.usefixtures("streams")
def test_for_programs_there_is_json(omote: Omote) -> None:
    views = json.loads(omote("list", "--json")[1])
    assert [view["id"] for view in views] == ["site/gate", "yard"]
    assert json.loads(omote("status", "yard", "--json")[1]) == views[1]
    assert json.loads(omote("list", "--json", "--state", "offline")[1]) == views[:1]


def test_a_list_longer_than_a_page_is_whole(omote: Omote, streams: MemoryStreams) -> None:
    names = [f"camera-{number:04}" for number in range(1001)]
    streams.found = {name: camera(name) for name in names}
    assert [view["id"] for view in json.loads(omote("list", "--json")[1])] == names


def test_an_id_gives_no_orders_to_the_terminal(omote: Omote, streams: MemoryStreams) -> None:
    streams.found = {"a": camera("a\x1b]0;owned\x07\n", reason="\x1b[2J")}
    out = omote("list")[1]
    assert "\x1b" not in out
    assert out.count("\n") == 2


def test_no_streams_are_no_table(omote: Omote, streams: MemoryStreams) -> None:
    streams.found = {}
    assert omote("list") == (0, "no streams\n", "")
    assert omote("list", "--json") == (0, "[]\n", "")


def test_a_camera_is_added_shown_and_removed(omote: Omote, streams: MemoryStreams) -> None:
    code, out, _ = omote("add", "lobby", "rtsp://${OMOTE_CAMERA_LOBBY}@camera.example/1", "--keep", "lossless")
    assert code == 0
    assert "reconnecting" in out
    assert streams.added == [
        StreamSpec(id="lobby", url="rtsp://${OMOTE_CAMERA_LOBBY}@camera.example/1", keep="lossless")
    ]
    assert "not connected yet" in omote("status", "lobby")[1]
    assert omote("remove", "lobby") == (0, "lobby removed\n", "")
    assert "lobby" not in streams.found


@pytest.mark.usefixtures("streams")
def test_ids_of_any_letters_find_their_stream(omote: Omote) -> None:
    assert "offline" in omote("status", "site/gate")[1]
    assert "there is no stream 'site/gate?x=#1'" in failed(omote("status", "site/gate?x=#1"))
    assert "there is no stream 'ü %2F'" in failed(omote("remove", "ü %2F"))


@pytest.mark.usefixtures("streams")
def test_what_the_api_refuses_is_one_sentence(omote: Omote) -> None:
    assert failed(omote("status", "nobody")) == "omote: there is no stream 'nobody'\n"
    assert failed(omote("remove", "nobody")) == "omote: there is no stream 'nobody'\n"
    said = failed(omote("add", "yard", "rtsp://camera.example/1"))
    assert said == "omote: there is a stream 'yard' already; remove it first\n"


def test_a_password_is_not_even_sent(omote: Omote, streams: MemoryStreams) -> None:
    said = failed(omote("add", "lobby", "rtsp://admin:hunter2@camera.example/1"))
    assert "${OMOTE_CAMERA_LOBBY}" in said
    assert "hunter2" not in said
    assert streams.added == []


@pytest.mark.usefixtures("streams")
def test_an_id_that_cannot_be_is_one_sentence(omote: Omote) -> None:
    assert "there can be no such stream: `id`: " in failed(omote("add", "a b", "rtsp://camera.example/1"))


def test_an_error_inside_the_api_is_one_sentence(omote: Omote, streams: MemoryStreams) -> None:
    streams.broken = RuntimeError("hunter2")
    assert failed(omote("list")) == "omote: Something went wrong inside; the log of the API says what.\n"
    streams.broken = NotReadyError("the supervisor is away")
    assert failed(omote("list")) == "omote: the supervisor is away\n"


def test_the_token_comes_from_the_environment(
    omote: Omote, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(api(MemoryStreams(), SecretStr("let-me-in")))
    assert "set OMOTE_API_TOKEN" in failed(omote("list"))
    monkeypatch.setenv("OMOTE_API_TOKEN", "let-me-in")
    assert omote("list")[0] == 0
    (tmp_path / "token").write_text("let-me-in\n")
    monkeypatch.delenv("OMOTE_API_TOKEN")
    monkeypatch.setenv("OMOTE_API_TOKEN_FILE", str(tmp_path / "token"))
    assert omote("list")[0] == 0


def test_the_address_on_the_command_line_goes_before_the_environment(
    omote: Omote, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(api(MemoryStreams()))
    monkeypatch.setenv("OMOTE_API", "http://127.0.0.1:9")
    assert omote("list", "--api", url)[0] == 0


@pytest.mark.parametrize("verb", [["list"], ["status", "a"], ["remove", "a"], ["watch"], ["add", "a", "rtsp://h/1"]])
def test_where_nobody_listens_is_said_at_once(omote: Omote, verb: list[str]) -> None:
    with listening() as listener:
        nobody = address(listener)
    began = time.monotonic()
    said = failed(omote(*verb, "--api", nobody))
    assert f"no API answers at {nobody}" in said
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "wrong", ["nonsense", "rtsp://h", "http://127.0.0.1:99999", "http://", "", "http://a:hunter2@[", "http://x y"]
)
def test_what_is_no_address_is_one_sentence(omote: Omote, wrong: str) -> None:
    said = failed(omote("list", "--api", wrong))
    assert "API" in said
    assert "hunter2" not in said


def test_somebody_who_never_answers_is_given_up(omote: Omote, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.CONNECT_S + command.READ_S <= 7.5
    monkeypatch.setattr(command, "READ_S", 0.3)
    with listening() as silent:
        assert "does not answer" in failed(omote("list", "--api", address(silent)))


def test_somebody_else_at_the_address_is_told_apart(omote: Omote, serve: Serve) -> None:
    other = FastAPI()
    other.get("/v1/streams")(lambda: {"weather": "fine"})
    serve(other)
    for verb in (["list"], ["status", "lobby"], ["add", "lobby", "rtsp://camera.example/1"]):
        assert "is no API of this omote" in failed(omote(*verb))


def test_watching_goes_on_while_the_api_is_away(
    omote: Omote, streams: MemoryStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks() -> Iterator[None]:
        yield
        streams.broken = NotReadyError("the supervisor is away")
        yield
        raise KeyboardInterrupt

    steps = looks()
    monkeypatch.setattr(command.time, "sleep", lambda seconds: next(steps))
    code, out, err = omote("watch")
    assert (code, err) == (0, "")
    assert "yard" in out
    assert "the supervisor is away" in out


def test_ctrl_c_ends_watching(serve: Serve) -> None:
    asked = Semaphore(0)

    class Watched(MemoryStreams):
        async def streams(self) -> list[StreamView]:
            asked.release()
            return await super().streams()

    serve(api(Watched(camera("yard"))))
    watching = [sys.executable, "-m", "pipeline", "streams", "watch", "--every", "0.1"]
    with subprocess.Popen(watching, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        looked = [asked.acquire(timeout=30) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
    assert all(looked)
    assert process.returncode == 0
    assert "yard" in out
