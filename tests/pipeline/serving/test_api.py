"""The API: what each route answers, and that every error is a problem that tells no secret."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from pipeline.errors import PipelineError
from pipeline.serving.api import ApiSettings, api
from pipeline.serving.streams import (
    NotReadyError,
    StreamPage,
    Streams,
    StreamSpec,
    StreamView,
    WorkerView,
)
from tests.support.memory_streams import MemoryStreams, camera

TOKEN = SecretStr("let-me-in")
JSON = {"Content-Type": "application/json"}
LOBBY = {"id": "lobby", "url": "rtsp://camera.example/1"}


class Client:
    """Speaks to an app without a network; what the app raises stays inside, as behind a server."""

    def __init__(self, app: Any, root_path: str = "", **headers: str) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)
        self._headers = headers

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            base = "http://api.example"
            async with httpx.AsyncClient(transport=self._transport, base_url=base, headers=self._headers) as client:
                return await client.request(method, path, **more)

        return asyncio.run(asked())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, content: Any) -> httpx.Response:
        given = {"json": content} if isinstance(content, dict) else {"content": content, "headers": JSON}
        return self.ask("POST", "/v1/streams", **given)


@pytest.fixture
def streams() -> MemoryStreams:
    return MemoryStreams(camera("yard"), camera("site/gate", "offline", reason="gone"), room=4)


@pytest.fixture
def client(streams: MemoryStreams) -> Client:
    return Client(api(streams))


@pytest.fixture
def guarded(streams: MemoryStreams) -> Client:
    return Client(api(streams, TOKEN))


def problem(answer: httpx.Response, status: int, kind: str = "about:blank") -> dict[str, Any]:
    """The problem that an answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= said.keys() <= {*said, "errors"}
    assert said["status"] == status
    assert said["type"] == kind
    assert said["title"]
    assert said["detail"]
    assert "Traceback" not in answer.text
    return said


def test_the_double_is_what_the_api_wants(streams: MemoryStreams) -> None:
    wanted: Streams = streams
    assert wanted is streams


def test_a_camera_is_added_and_its_address_given(client: Client, streams: MemoryStreams) -> None:
    answer = client.post({**LOBBY, "keep": "lossless"})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/streams/lobby"
    assert StreamView.model_validate(answer.json()) == streams.found["lobby"]
    assert streams.added == [StreamSpec(id="lobby", url="rtsp://camera.example/1", keep="lossless")]
    assert client.get(answer.headers["location"]).json() == answer.json()


def test_streams_are_listed_by_id(client: Client, streams: MemoryStreams) -> None:
    page = StreamPage.model_validate(client.get("/v1/streams").json())
    assert page == StreamPage(streams=[streams.found["site/gate"], streams.found["yard"]], total=2)


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("?state=online", ["yard"]),
        ("?state=offline", ["site/gate"]),
        ("?state=online&state=offline", ["site/gate", "yard"]),
        ("?state=rejected", []),
    ],
)
def test_streams_are_chosen_by_state(client: Client, query: str, ids: list[str]) -> None:
    page = client.get(f"/v1/streams{query}").json()
    assert [view["id"] for view in page["streams"]] == ids
    assert page["total"] == len(ids)


def test_pages_together_are_the_list() -> None:
    names = [f"camera-{number:02}" for number in range(25)]
    client = Client(api(MemoryStreams(*map(camera, names))))

    def pages() -> Iterator[StreamPage]:
        page = StreamPage.model_validate(client.get("/v1/streams", params={"limit": 10}).json())
        yield page
        while page.next:
            more = client.get("/v1/streams", params={"limit": 10, "after": page.next})
            page = StreamPage.model_validate(more.json())
            yield page

    found = list(pages())
    assert [len(page.streams) for page in found] == [10, 10, 5]
    assert [view.id for page in found for view in page.streams] == names
    assert {page.total for page in found} == {25}


def test_one_stream_is_shown_also_with_a_slash_in_its_id(client: Client) -> None:
    assert client.get("/v1/streams/yard").json()["state"] == "online"
    assert client.get("/v1/streams/site%2Fgate").json()["id"] == "site/gate"


def test_a_camera_is_removed_with_an_empty_answer(client: Client, streams: MemoryStreams) -> None:
    answer = client.ask("DELETE", "/v1/streams/yard")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "yard" not in streams.found
    problem(client.ask("DELETE", "/v1/streams/yard"), 404, "/problems/unknown-stream")


def test_workers_are_listed(client: Client, streams: MemoryStreams) -> None:
    streams.running = [WorkerView(name="camera-a", state="waiting", reason="no Kafka"), *streams.running]
    names = [worker["name"] for worker in client.get("/v1/workers").json()["workers"]]
    assert names == ["camera-a", "partition-0"]


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


# What is no request


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


# Who is let in


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer let-me-out", "Bearer let-me-in-not", "Basic let-me-in", "let-me-in", "Bearer ü"],
)
def test_without_the_token_nobody_is_let_in(guarded: Client, streams: MemoryStreams, header: str) -> None:
    shown = {"Authorization": header.encode()} if header else {}
    for method, path in (("GET", "/v1/streams"), ("DELETE", "/v1/streams/yard"), ("GET", "/v1/workers")):
        answer = guarded.ask(method, path, headers=shown)
        problem(answer, 401)
        assert answer.headers["www-authenticate"] == 'Bearer realm="omote"'
        assert "let-me" not in answer.text
    assert "yard" in streams.found


def test_whoever_has_no_token_does_not_learn_whether_the_body_was_right(guarded: Client) -> None:
    for body in (LOBBY, b"{", b" " * 70_000):
        problem(guarded.post(body), 401)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_with_the_token_all_is_as_without_one(streams: MemoryStreams, scheme: str) -> None:
    client = Client(api(streams, TOKEN), Authorization=f"{scheme} let-me-in")
    assert client.get("/v1/streams").status_code == 200
    assert client.post(LOBBY).status_code == 201


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/openapi.json", "/problems/not-ready"])
def test_health_and_explanations_need_no_token(guarded: Client, path: str) -> None:
    assert guarded.get(path).status_code == 200


# Health


def test_the_api_lives_also_without_a_supervisor(client: Client, streams: MemoryStreams) -> None:
    streams.broken = NotReadyError("gone")
    assert client.get("/health/live").json() == {"status": "live"}
    answer = client.get("/health/ready")
    problem(answer, 503, "/problems/not-ready")
    assert int(answer.headers["retry-after"]) > 0


def test_the_system_is_ready_once_a_worker_runs(client: Client, streams: MemoryStreams) -> None:
    waiting = WorkerView(name="partition-0", state="waiting", reason="no Kafka answers")
    for workers, reason in (([], "no worker yet"), ([waiting], "partition-0 waits, no Kafka answers")):
        streams.running = workers
        assert reason in problem(client.get("/health/ready"), 503, "/problems/not-ready")["detail"]
    streams.running = [waiting, WorkerView(name="camera-a", state="running")]
    assert client.get("/health/ready").json() == {"status": "ready"}


# What the API says of itself


def test_a_type_leads_to_what_it_means(client: Client) -> None:
    kind = client.get("/v1/streams/nobody").json()["type"]
    meaning = client.get(kind).json()
    assert (meaning["type"], meaning["status"]) == (kind, 404)
    problem(client.get("/problems/nothing-like-it"), 404)


def test_behind_a_prefix_every_reference_has_it(streams: MemoryStreams) -> None:
    client = Client(api(streams), root_path="/omote")
    assert client.ask("POST", "/omote/v1/streams", json=LOBBY).headers["location"] == "/omote/v1/streams/lobby"
    said = problem(client.get("/omote/v1/streams/nobody"), 404, "/omote/problems/unknown-stream")
    assert client.get(said["type"]).json()["type"] == said["type"]


@pytest.fixture
def schema(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in schema["paths"].values() for operation in path.values()]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from ([part["$ref"]] if isinstance(part.get("$ref"), str) else [])
        part = list(part.values())
    for each in part if isinstance(part, list) else []:
        yield from references(each)


def test_openapi_describes_every_route(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    assert {f"{method} {path}" for path, found in schema["paths"].items() for method in found} == {
        *("post /v1/streams", "get /v1/streams", "get /v1/streams/{stream}", "delete /v1/streams/{stream}"),
        *("get /v1/workers", "get /health/live", "get /health/ready", "get /problems/{name}"),
    }
    for operation in operations(schema):
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["tags"]) <= {tag["name"] for tag in schema["tags"]}
    assert len({operation["operationId"] for operation in operations(schema)}) == 8


def test_openapi_leads_nowhere_that_is_not(schema: dict[str, Any]) -> None:
    for reference in references(schema):
        found: Any = schema
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    assert "HTTPValidationError" not in schema["components"]["schemas"]


def test_openapi_declares_errors_as_problems_and_who_is_let_in(schema: dict[str, Any]) -> None:
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            refused = {status: said for status, said in operation["responses"].items() if int(status) >= 400}
            assert all(list(said["content"]) == ["application/problem+json"] for said in refused.values())
            assert ("security" in operation) == path.startswith("/v1/") == ("401" in refused)
    added = schema["paths"]["/v1/streams"]["post"]["responses"]
    assert set(added) == {"201", "400", "401", "409", "413", "422", "500", "503"}
    assert "Location" in added["201"]["headers"]
    assert "Retry-After" in added["503"]["headers"]
    assert set(added["503"]["content"]["application/problem+json"]["examples"]) == {"too-many-streams", "not-ready"}


# What nobody should send


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


# Where it listens


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HOST", "PORT", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"OMOTE_API_{name}", raising=False)
    return monkeypatch


def test_by_itself_the_api_listens_to_this_machine_only(bare: pytest.MonkeyPatch) -> None:
    del bare
    assert ApiSettings.from_environment() == ApiSettings(host="127.0.0.1", port=8000, token=None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "camera.example", "127.0.0.1.evil.example"])
def test_others_are_let_near_with_a_token_only(bare: pytest.MonkeyPatch, host: str) -> None:
    bare.setenv("OMOTE_API_HOST", host)
    with pytest.raises(PipelineError, match=r"without a token.*OMOTE_API_TOKEN_FILE"):
        ApiSettings.from_environment()
    bare.setenv("OMOTE_API_TOKEN", "let-me-in")
    found = ApiSettings.from_environment()
    assert (found.host, found.token) == (host, TOKEN)
    assert "let-me-in" not in repr(found)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_needs_no_token(bare: pytest.MonkeyPatch, host: str) -> None:
    del bare
    assert ApiSettings.from_environment(host=host, port=0x1F90).port == 8080


def test_the_file_of_the_token_goes_before_its_variable(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("let-me-in\n")
    bare.setenv("OMOTE_API_TOKEN", "another")
    bare.setenv("OMOTE_API_TOKEN_FILE", str(tmp_path / "token"))
    assert ApiSettings.from_environment().token == TOKEN


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"a b", "gehe\u00ef\u0301m".encode()])
def test_a_token_that_cannot_be_one_is_told_by_its_place(
    bare: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "token").write_bytes(content)
    bare.setenv("OMOTE_API_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(PipelineError, match="token") as refused:
        ApiSettings.from_environment()
    assert "lines" not in str(refused.value)


def test_a_file_that_is_not_there_and_a_port_that_is_none_are_one_sentence(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare.setenv("OMOTE_API_PORT", "http")
    with pytest.raises(PipelineError, match=r"^OMOTE_API_PORT: Input should be a valid integer"):
        ApiSettings.from_environment()
    bare.setenv("OMOTE_API_TOKEN_FILE", str(tmp_path / "gone"))
    with pytest.raises(PipelineError, match=r"OMOTE_API_TOKEN_FILE.*cannot be read"):
        ApiSettings.from_environment()
