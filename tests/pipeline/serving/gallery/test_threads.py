"""Whatever one namespace asks, the others are answered in a moment; and nobody works for who has gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
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
from tests.support.gallery import base64_of, drawing

RED = (200, 20, 30)
SLOW_S = 0.4
Ask = Callable[..., Awaitable[httpx.Response]]


class Tenants:
    """Two namespaces behind one API; whatever is asked of the first takes its time."""

    def __init__(self, slow: GalleryService, quick: GalleryService, keys: ApiKeys) -> None:
        services = {each.desk.store.namespace: each for each in (slow, quick)}
        self.slow, settings = slow, GallerySettings(light_threads=4, most_waiting=16, most_thorough=2)
        self.app = gallery_api(services.__getitem__, Access(keys), settings)
        self.keys = [keys.new("door", "admin", namespace=name)[0] for name in services]

    def both(self, asked: Callable[[Ask, Ask], Awaitable[Any]]) -> Any:
        """What ``asked`` gives that is told how to ask the slow one, and the quick one."""

        async def run() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://api.example/api") as client:
                asks = [self._asking(client, key) for key in self.keys]
                return await asked(*asks)

        return asyncio.run(run())

    @staticmethod
    def _asking(client: httpx.AsyncClient, key: str) -> Ask:
        return lambda method, path, **more: client.request(method, path, headers={"x-api-key": key}, **more)


@pytest.fixture
def tenants(open_gallery: Callable[..., GalleryService], redis_url: str) -> Iterator[Tenants]:
    keys = ApiKeys(SecretStr(redis_url))
    made = Tenants(*(open_gallery(namespace=f"t{uuid4().hex[:10]}") for _ in range(2)), keys)
    yield made
    made.app.state.serving.threads.close()
    keys.close()


def slowed(answer: Any = None) -> Callable[..., Any]:
    return lambda *args, **more: (time.sleep(SLOW_S), answer)[1]


async def seconds(asked: Awaitable[httpx.Response]) -> float:
    """How long an answer takes."""
    began = time.perf_counter()
    assert (await asked).status_code == 200
    return time.perf_counter() - began


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
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch, method: str, path: str, does: str, sent: dict[str, Any]
) -> None:
    monkeypatch.setattr(tenants.slow, does, slowed([]))

    async def asked(slow: Ask, quick: Ask) -> tuple[list[httpx.Response], float]:
        many = asyncio.gather(*(slow(method, path, **sent) for _ in range(5)))
        await asyncio.sleep(0.1)
        took_s = max(await seconds(detect(quick)), await seconds(detect(slow)))
        return await many, took_s

    answers, took_s = tenants.both(asked)
    again = [answer for answer in answers if answer.status_code == 503]
    assert took_s < SLOW_S
    assert len(again) == 3  # one is worked for, one waits
    assert all(int(answer.headers["retry-after"]) > 0 for answer in again)


async def waited(many: list[Awaitable[Any]], one: Awaitable[httpx.Response]) -> float:
    """Seconds until ``one`` is answered that is asked after ``many``."""
    before = asyncio.gather(*many)
    await asyncio.sleep(0.1)
    took_s = await seconds(one)
    await before
    return took_s


def test_another_gallery_is_looked_through_meanwhile(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenants.slow, "verify_audit", slowed([]))
    verify = "GET", "/v2/audit/verify"
    assert tenants.both(lambda slow, quick: waited([slow(*verify) for _ in range(2)], quick(*verify))) < SLOW_S


def test_nobody_waits_behind_all_pictures_of_another(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenants.slow, "detect", slowed([]))
    wait_s = tenants.both(lambda slow, quick: waited([detect(slow) for _ in range(8)], detect(quick)))
    assert wait_s < 2 * SLOW_S  # eight by two threads take twice as long


def test_nobody_waits_behind_the_deletions_of_another(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    """An erasure waits seconds for a matcher that is late."""
    monkeypatch.setattr(tenants.slow, "erase", slowed())
    asked = [("DELETE", f"/v2/subjects/s{number}") for number in range(8)]
    assert tenants.both(lambda slow, quick: waited([slow(*e) for e in asked], quick("GET", "/v2/subjects"))) < SLOW_S


def test_nobody_looks_at_a_picture_for_who_has_gone(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(tenants.slow, "detect", lambda *args, **more: (time.sleep(SLOW_S), looked.append(1), [])[2])
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
            return told.pop(0)

        async def send(message: Message) -> None:
            del message

        await tenants.app(scope, receive, send)

    async def asked(slow: Ask, quick: Ask) -> None:
        del quick
        await asyncio.gather(detect(slow), detect(slow), hung_up())

    tenants.both(asked)
    assert len(looked) == 2
