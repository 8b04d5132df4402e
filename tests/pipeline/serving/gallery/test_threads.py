"""Whatever one namespace asks, the others are answered in a moment; and nobody works for who has gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import Message

from pipeline.edges.redis_api_keys import ApiKeys
from pipeline.gallery.service import GalleryService
from pipeline.serving.gallery.access import Access
from pipeline.serving.gallery.app import gallery_api
from pipeline.serving.gallery.settings import GallerySettings
from pipeline.serving.gallery.threads import Threads
from tests.support.gallery import base64_of, drawing

RED = (200, 20, 30)
PATIENCE_S = 30  # so that nothing hangs; no test waits for a time
Ask = Callable[..., Awaitable[httpx.Response]]


class Tenants:
    """Two namespaces behind one API; whatever is asked of the first takes its time."""

    def __init__(self, slow: GalleryService, quick: GalleryService, keys: ApiKeys, settings: GallerySettings) -> None:
        services = {each.desk.store.namespace: each for each in (slow, quick)}
        self.slow = slow
        self.app = gallery_api(services.__getitem__, Access(keys), settings)
        self.keys = [keys.new("door", "admin", namespace=name)[0] for name in services]

    def both(self, asked: Callable[[Ask, Ask], Awaitable[Any]]) -> Any:
        """What ``asked`` gives that is told how to ask the slow one, and the quick one."""

        async def run() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://api.example/api")
            async with asyncio.timeout(PATIENCE_S), client:
                asks = [self._asking(client, key) for key in self.keys]
                return await asked(*asks)

        return asyncio.run(run())

    @staticmethod
    def _asking(client: httpx.AsyncClient, key: str) -> Ask:
        return lambda method, path, **more: client.request(method, path, headers={"x-api-key": key}, **more)


class Held:
    """A call that takes until it is told to end."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self._may_end = threading.Semaphore(0)

    def __call__(self, *args: Any, **more: Any) -> list[Any]:
        self.begun.append(1)
        self._may_end.acquire()
        return []

    async def at_work(self, calls: int = 1) -> None:
        """Wait until so many have begun."""
        while len(self.begun) < calls:
            await asyncio.sleep(0.01)

    def end(self, calls: int = 100) -> None:
        """So many may end."""
        self._may_end.release(calls)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.end()


@pytest.fixture
def tenants(
    request: pytest.FixtureRequest, open_gallery: Callable[..., GalleryService], redis_url: str
) -> Iterator[Tenants]:
    keys = ApiKeys(SecretStr(redis_url))
    settings = getattr(request, "param", GallerySettings(light_threads=4, most_waiting=16, most_thorough=2))
    made = Tenants(*(open_gallery(namespace=f"t{uuid4().hex[:10]}") for _ in range(2)), keys, settings)
    yield made
    made.app.state.serving.threads.close()
    keys.close()


def detect(ask: Ask) -> Awaitable[httpx.Response]:
    return ask("POST", "/v2/faces/detect", files={"file": drawing(RED)})


@pytest.mark.parametrize(
    ("method", "path", "does", "sent"),
    [
        ("GET", "/v2/audit/verify", "verify_audit", {}),
        ("GET", "/v2/audit?subject=ada", "audit", {}),
        ("GET", "/v2/erasures/none", "erasure", {}),
        ("GET", "/v2/unknowns/clusters", "clusters", {}),
        ("POST", "/v2/unknowns/clusters/none/assign", "assign", {"json": {"subject": "ada"}}),
        ("POST", "/v2/unknowns/clusters/none/ignore", "ignore", {}),
        ("POST", "/v2/calibrate", "calibrate", {"json": {}}),
        ("POST", "/v2/reembed?model=m", "reembed", {}),
        ("DELETE", "/v2/reembed?model=m", "drop_model", {}),
        ("DELETE", "/v1/recognition/subjects", "erase_all", {}),
        ("DELETE", "/v1/recognition/faces", "erase_all", {}),
    ],
)
def test_what_looks_at_a_whole_gallery_stops_nobody(
    tenants: Tenants,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    does: str,
    sent: dict[str, Any],
) -> None:
    monkeypatch.setattr(tenants.slow, does, held)

    async def asked(slow: Ask, quick: Ask) -> list[httpx.Response]:
        many = [asyncio.ensure_future(slow(method, path, **sent)) for _ in range(5)]
        await held.at_work()
        again = [await answer for answer in islice(asyncio.as_completed(many), 3)]  # one is worked for, one waits
        assert [(await detect(ask)).status_code for ask in (quick, slow)] == [200, 200]
        assert len(held.begun) == 1
        held.end()
        await asyncio.gather(*many)
        return again

    again = tenants.both(asked)
    assert [answer.status_code for answer in again] == [503] * 3
    assert all(int(answer.headers["retry-after"]) > 0 for answer in again)
    assert len(held.begun) == 2


@pytest.mark.parametrize("tenants", [GallerySettings()], indirect=True)
def test_who_names_unknown_people_waits_while_a_gallery_is_looked_through(
    tenants: Tenants, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty-one wait for the one that is worked for; only who comes after them is asked to come again."""
    for does in ("verify_audit", "audit", "assign", "ignore"):
        monkeypatch.setattr(tenants.slow, does, held)
    cluster, named = "/v2/unknowns/clusters/none", {"json": {"subject": "ada"}}

    async def asked(slow: Ask, quick: Ask) -> list[httpx.Response]:
        del quick
        many = [asyncio.ensure_future(slow("GET", "/v2/audit/verify"))]
        many += [asyncio.ensure_future(slow("POST", f"{cluster}/assign", **named)) for _ in range(11)]
        many += [asyncio.ensure_future(slow("POST", f"{cluster}/ignore")) for _ in range(11)]
        many += [asyncio.ensure_future(slow("GET", "/v2/audit?subject=ada")) for _ in range(10)]
        assert (await next(asyncio.as_completed(many))).status_code == 503
        held.end()
        return await asyncio.gather(*many)

    answers = tenants.both(asked)
    assert [answer.status_code for answer in answers].count(503) == 1
    assert len(held.begun) == 32


async def during(held: Held, calls: int, many: list[Awaitable[httpx.Response]], one: Awaitable[httpx.Response]) -> int:
    """The status of the answer to ``one``, asked and answered while so many ``calls`` for ``many`` are at work."""
    before = asyncio.gather(*many)
    await held.at_work(calls)
    answer = await one
    held.end()
    await before
    return answer.status_code


def test_another_gallery_is_looked_through_meanwhile(
    tenants: Tenants, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants.slow, "verify_audit", held)
    verify = "GET", "/v2/audit/verify"
    assert tenants.both(lambda slow, quick: during(held, 1, [slow(*verify), slow(*verify)], quick(*verify))) == 200


def test_nobody_waits_behind_the_deletions_of_another(
    tenants: Tenants, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure waits seconds for a matcher that is late."""
    monkeypatch.setattr(tenants.slow, "erase", held)
    asked = [("DELETE", f"/v2/subjects/s{number}") for number in range(8)]
    listed = "GET", "/v2/subjects"
    assert tenants.both(lambda slow, quick: during(held, 2, [slow(*each) for each in asked], quick(*listed))) == 200


def test_nobody_waits_behind_all_pictures_of_another(held: Held) -> None:
    threads = Threads(GallerySettings(picture_threads=2))

    async def asked() -> str:
        many = asyncio.gather(*(threads.pictures.answer("slow", held) for _ in range(8)))
        one = asyncio.ensure_future(threads.pictures.answer("quick", lambda: "its turn"))
        await asyncio.sleep(0)  # now all have asked
        held.end(1)
        answer = await asyncio.wait_for(one, PATIENCE_S)
        held.end()
        await many
        return answer

    assert asyncio.run(asked()) == "its turn"
    threads.close()


def test_nobody_looks_at_a_picture_for_who_has_gone(
    tenants: Tenants, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants.slow, "detect", held)
    body = b'{"file": "%s"}' % base64_of(drawing(RED)).encode()
    key = tenants.keys[0]

    async def hung_up() -> None:
        """A request of whoever sends a picture and waits for no answer."""
        told: list[Message] = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
        headers = [(b"x-api-key", key.encode()), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/v2/faces/detect",
            "query_string": b"",
            "headers": headers,
        }

        async def receive() -> Message:
            held.end()  # those before may end, now that this one waits
            return told.pop(0)

        async def send(message: Message) -> None:
            del message

        await tenants.app(scope, receive, send)

    async def asked(slow: Ask, quick: Ask) -> None:
        del quick
        two = asyncio.gather(detect(slow), detect(slow))
        await held.at_work(2)
        await hung_up()
        await two

    tenants.both(asked)
    assert len(held.begun) == 2
