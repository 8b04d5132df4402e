"""Whether Redis answers, told to anybody at no cost to those who use the gallery."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from pipeline.edges.redis_api_keys import ApiKeys
from pipeline.gallery.errors import AwayError
from pipeline.gallery.service import GalleryService
from pipeline.servers.redis_server import RedisServer
from pipeline.serving.gallery import pulse
from pipeline.serving.gallery.access import Access
from pipeline.serving.gallery.app import gallery_api
from pipeline.serving.gallery.pulse import Pulse
from tests.support.gallery import Api

ANONYMOUS = 100


class Redis:
    """Answers, or is away, or takes its time; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked, self.away, self.thawed = 0, False, threading.Event()
        self.thawed.set()

    def ask(self) -> None:
        self.asked += 1
        self.thawed.wait(30)
        if self.away:
            message = "away"
            raise AwayError(message)


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def beating(redis: Redis) -> Iterator[Pulse]:
    found = Pulse(redis.ask)
    yield found
    redis.thawed.set()
    found.close()


def all_of(beating: Pulse, count: int) -> list[bool]:
    async def ask() -> list[bool]:
        return await asyncio.gather(*(beating.beats() for _ in range(count)))

    return asyncio.run(ask())


def test_however_many_want_to_know_redis_is_asked_once_a_second(
    beating: Pulse, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all_of(beating, ANONYMOUS) == [True] * ANONYMOUS
    redis.away = True
    assert all_of(beating, 1) == [True]
    assert redis.asked == 1
    monkeypatch.setattr(pulse, "EVERY_S", 0.0)
    assert all_of(beating, 1) == [False]
    assert redis.asked == 2


def test_nobody_waits_for_a_redis_that_takes_its_time(beating: Pulse, redis: Redis) -> None:
    redis.thawed.clear()
    began = time.perf_counter()
    assert all_of(beating, ANONYMOUS) == [False] * ANONYMOUS
    assert time.perf_counter() - began < 2 * pulse.PATIENCE_S
    assert redis.asked == 1
    redis.thawed.set()
    assert all_of(beating, 1) == [True]


def test_a_crowd_before_the_door_keeps_nobody_waiting_while_redis_is_frozen(
    open_gallery: Callable[..., GalleryService], mortal_redis: RedisServer
) -> None:
    service, keys = open_gallery(url=mortal_redis.url), ApiKeys(SecretStr(mortal_redis.url))
    api = Api(gallery_api(lambda name: service, Access(keys)), keys, service)
    headers = {"x-api-key": api.key("reader")}

    async def ask() -> tuple[float, list[httpx.Response]]:
        transport = httpx.ASGITransport(api.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
            crowd: list[Any] = [asyncio.create_task(client.get("/health/ready")) for _ in range(ANONYMOUS)]
            strangers = {"x-api-key": f"omk_{'0' * 16}_{'0' * 64}"}
            crowd += [asyncio.create_task(client.get("/api/v2/subjects", headers=strangers)) for _ in range(ANONYMOUS)]
            await asyncio.sleep(0.1)
            began = time.perf_counter()
            answer = await client.get("/api/v2/subjects", headers=headers)
            return time.perf_counter() - began, [answer, *await asyncio.gather(*crowd)]

    assert api.bare("GET", "/api/v2/subjects", headers=headers).status_code == 200  # the key is known
    mortal_redis.freeze()
    took_s, answers = asyncio.run(ask())
    mortal_redis.thaw()
    assert {answer.status_code for answer in answers[1 : 1 + ANONYMOUS]} == {200}
    assert {answer.status_code for answer in answers[1 + ANONYMOUS :]} == {503}
    assert answers[0].status_code == 503
    assert took_s < 4.5  # two answers of Redis that do not come, and some
    keys.close()
