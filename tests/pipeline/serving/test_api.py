"""The API: what each route answers, whom it lets in, and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.serving.api import api
from pipeline.serving.streams import NotReadyError, StreamPage, Streams, StreamSpec, StreamView, WorkerView
from tests.support.api_client import Client, problem
from tests.support.memory_streams import MemoryStreams, camera

TOKEN = SecretStr("let-me-in")
LOBBY = {"id": "lobby", "url": "rtsp://camera.example/1"}


@pytest.fixture
def streams() -> MemoryStreams:
    return MemoryStreams(camera("yard"), camera("site/gate", "offline", reason="gone"), room=4)


@pytest.fixture
def client(streams: MemoryStreams) -> Client:
    return Client(api(streams))


@pytest.fixture
def guarded(streams: MemoryStreams) -> Client:
    return Client(api(streams, TOKEN))


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
