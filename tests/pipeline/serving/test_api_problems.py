"""Every error of the API is a problem that names the way out and tells no secret, whatever was sent."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from pipeline.errors import PipelineError
from pipeline.serving.api import api
from pipeline.serving.streams import NotReadyError, WorkerView
from tests.support.api_client import Client, problem
from tests.support.memory_streams import MemoryStreams, camera

LOBBY = {"id": "lobby", "url": "rtsp://camera.example/1"}


@pytest.fixture
def streams() -> MemoryStreams:
    return MemoryStreams(camera("yard"), camera("site/gate", "offline", reason="gone"), room=4)


@pytest.fixture
def client(streams: MemoryStreams) -> Client:
    return Client(api(streams))


def test_a_duplicate_is_a_conflict(client: Client) -> None:
    said = problem(client.post({**LOBBY, "id": "yard"}), 409, "/problems/duplicate-stream")
    assert said["detail"] == "there is a stream 'yard' already; remove it first"
    assert said["instance"] == "/v1/streams"


def test_an_unknown_stream_is_not_found(client: Client) -> None:
    said = problem(client.get("/v1/streams/nobody"), 404, "/problems/unknown-stream")
    assert said["instance"] == "/v1/streams/nobody"


def test_the_stream_too_many_is_asked_to_come_later(client: Client) -> None:
    for number in range(2):
        assert client.post({**LOBBY, "id": f"more-{number}"}).status_code == 201
    answer = client.post(LOBBY)
    problem(answer, 503, "/problems/too-many-streams")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/streams"), ("GET", "/v1/streams/yard"), ("DELETE", "/v1/streams/yard"), ("GET", "/v1/workers")],
)
def test_what_is_not_ready_is_asked_again_later(client: Client, streams: MemoryStreams, method: str, path: str) -> None:
    streams.broken = NotReadyError("the registry at redis://:hunter2@db:6379/0 does not answer")
    answer = client.ask(method, path)
    said = problem(answer, 503, "/problems/not-ready")
    assert said["detail"] == "the registry at redis://***@db:6379/0 does not answer"
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("error", [RuntimeError("hunter2"), PipelineError("hunter2"), KeyError("hunter2")])
def test_the_unexpected_tells_nothing_of_the_inside(client: Client, streams: MemoryStreams, error: Exception) -> None:
    streams.broken = error
    answer = client.get("/v1/streams")
    problem(answer, 500)
    assert "hunter2" not in answer.text


def test_a_supervisor_that_hangs_is_not_waited_for() -> None:
    class Hanging(MemoryStreams):
        async def workers(self) -> list[WorkerView]:
            await asyncio.sleep(60)
            return []

    client = Client(api(Hanging(), answer_s=0.05, ready_s=0.02))
    assert "0.05 s" in problem(client.get("/v1/workers"), 503, "/problems/not-ready")["detail"]
    assert "0.02 s" in problem(client.get("/health/ready"), 503, "/problems/not-ready")["detail"]


def test_the_streams_may_be_found_anew_for_each_request(streams: MemoryStreams) -> None:
    found: list[MemoryStreams] = []

    def find() -> MemoryStreams:
        if not found:
            found.append(streams)
            message = "there is no supervisor yet"
            raise NotReadyError(message)
        return found[0]

    client = Client(api(find))
    problem(client.get("/v1/streams"), 503, "/problems/not-ready")
    assert client.get("/v1/streams").status_code == 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"body.id", "body.url"}),
        ({**LOBBY, "id": None}, {"body.id"}),
        ({**LOBBY, "id": ""}, {"body.id"}),
        ({**LOBBY, "id": "../etc"}, {"body.id"}),
        ({**LOBBY, "id": "lobby\n"}, {"body.id"}),
        ({**LOBBY, "id": "客"}, {"body.id"}),
        ({**LOBBY, "id": "x" * 129}, {"body.id"}),
        ({**LOBBY, "id": 7}, {"body.id"}),
        ({**LOBBY, "url": ["rtsp://h/1"]}, {"body.url"}),
        ({**LOBBY, "url": "rtsp://" + "h" * 3000}, {"body.url"}),
        ({**LOBBY, "keep": "everything"}, {"body.keep"}),
        ({**LOBBY, "colour": "red"}, {"body.colour"}),
        (b"", {"body"}),
        (b"null", {"body"}),
        (b"[]", {"body"}),
        (b'"lobby"', {"body"}),
        (b"{", {"body.1"}),
        (b"NaN", {"body"}),
    ],
)
def test_a_body_that_is_no_stream_is_refused_field_by_field(client: Client, body: Any, fields: set[str]) -> None:
    said = problem(client.post(body), 422, "/problems/invalid-request")
    assert {each["field"] for each in said["errors"]} == fields
    assert all(each["detail"] for each in said["errors"])
    assert said["errors"][0]["field"] in said["detail"]


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?limit=many", "?limit=" + "9" * 5000, "?state=asleep"])
def test_a_query_that_makes_no_sense_is_refused(client: Client, query: str) -> None:
    said = problem(client.get(f"/v1/streams{query}"), 422, "/problems/invalid-request")
    assert said["errors"][0]["field"].startswith("query.")


def test_a_body_of_another_type_is_refused(client: Client) -> None:
    """So no web page can have a browser add a camera without asking first."""
    answer = client.ask("POST", "/v1/streams", content=json.dumps(LOBBY), headers={"Content-Type": "text/plain"})
    problem(answer, 422, "/problems/invalid-request")


@pytest.mark.parametrize(
    "body",
    [
        {**LOBBY, "url": "rtsp://admin:hunter2@camera.example/1"},
        {**LOBBY, "url": "admin:hunter2@camera.example"},
        {**LOBBY, "url": "rtsp://camera.example/?password=hunter2"},
        {**LOBBY, "url": {"password": "hunter2"}},
        {**LOBBY, "id": "rtsp://admin:hunter2@camera.example/1"},
        {**LOBBY, "keep": "hunter2"},
        {**LOBBY, "rtsp://admin:hunter2@camera.example/1": 1},
        {**LOBBY, "password=hunter2": 1},
        b'{"url": "rtsp://admin:hunter2@camera.example/1"',
    ],
)
def test_a_password_is_never_echoed(client: Client, streams: MemoryStreams, body: Any) -> None:
    answer = client.post(body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert "hunter2" not in answer.text
    assert streams.added == []


def test_a_password_in_a_path_is_not_echoed_either(client: Client) -> None:
    for path in ("/v1/streams/rtsp://a:hunter2@h/1", "/rtsp%3A%2F%2Fa%3Ahunter2%40h", "/v1/streams/password=hunter2"):
        assert "hunter2" not in client.get(path).text


def test_an_address_that_is_none_of_rtsp_names_the_way_out(client: Client) -> None:
    said = problem(client.post({**LOBBY, "url": "http://camera.example"}), 422, "/problems/invalid-stream")
    assert "rtsp://host:554/path" in said["detail"]


def test_many_mistakes_get_a_short_answer(client: Client) -> None:
    answer = client.post({**LOBBY, **{f"{number:05}" * 100: 1 for number in range(100)}})
    assert len(problem(answer, 422, "/problems/invalid-request")["errors"]) == 20
    assert len(answer.content) < 8192


def test_a_body_that_is_too_large_is_not_read_to_its_end(client: Client) -> None:
    sent = []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1000):
            sent.append(1)
            yield b" " * 4096

    problem(client.post(b" " * (64 * 1024 + 1)), 413)
    problem(client.post(chunks()), 413)
    assert len(sent) == 17


def test_a_body_of_the_largest_size_is_read(client: Client) -> None:
    body = json.dumps(LOBBY).encode()
    assert client.post(body + b" " * (64 * 1024 - len(body))).status_code == 201


def test_an_unknown_path_is_a_problem(client: Client) -> None:
    assert problem(client.get("/v2/streams"), 404)["instance"] == "/v2/streams"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/streams", "GET, POST"),
        ("PUT", "/v1/streams/yard", "GET, DELETE"),
        ("POST", "/v1/workers", "GET"),
        ("BREW", "/health/live", "GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client: Client, method: str, path: str, allowed: str) -> None:
    answer = client.ask(method, path)
    problem(answer, 405)
    assert answer.headers["allow"] == allowed


def garbage(chance: random.Random) -> bytes:
    """JSON of any shape, whole or broken, with keys and values that have broken others before."""
    strings = ["", "lobby", "\x00", "\ud800", "💥" * 50, "a" * 5000, "../../etc/passwd", "${HOME}", "rtsp://h/1", "'--"]
    values: list[Any] = [*strings, None, True, -1, 10**400, 1e308, float("inf"), float("nan"), [], {}, [[[{}]]]]
    keys = ["id", "url", "keep", "__proto__", *strings]
    body = json.dumps({chance.choice(keys): chance.choice(values) for _ in range(chance.randint(0, 5))}).encode()
    for _ in range(chance.choice([0, 0, 1, 5])):
        spot = chance.randrange(len(body))
        body = body[:spot] + bytes([chance.randrange(256)]) + body[spot + 1 :]
    return body


def test_garbage_is_refused_and_breaks_nothing(client: Client) -> None:
    chance = random.Random(4)
    deep = [b"[" * 60_000, b'{"id":' * 10_000, b'{"id": ' + b"1" * 60_000 + b"}"]
    for body in [*(garbage(chance) for _ in range(300)), *deep]:
        answer = client.post(body)
        assert answer.status_code in {201, 400, 409, 422, 503}, body
        assert answer.status_code == 201 or answer.headers["content-type"] == "application/problem+json"
    assert client.get("/v1/streams").status_code == 200


def test_tricks_with_paths_find_nothing(client: Client) -> None:
    chance = random.Random(5)
    tricks = ["..%2f..%2fetc%2fpasswd", "%00", "%ff%fe", "%ed%a0%80", "%2e%2e/", "//", "a" * 9000, "%0d%0aX-Evil:%201"]
    tricks += ["".join(chance.choices(string.printable.strip() + "é%/", k=30)) for _ in range(100)]
    for trick in tricks:
        for root in ("/", "/v1/streams/", "/problems/"):
            for method in ("GET", "DELETE"):
                try:
                    answer = client.ask(method, root + trick)
                except httpx.InvalidURL:
                    continue
                assert answer.status_code in {200, 404, 405, 422}, (method, trick)
                assert "x-evil" not in answer.headers
                assert answer.status_code == 200 or answer.headers["content-type"] == "application/problem+json"
