"""Two hundred clients at once: nobody is refused, and who asks for little does not wait behind pictures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from pipeline.edges.redis_api_keys import ApiKeys
from pipeline.gallery.service import GalleryService
from pipeline.servers.redis_server import RedisServer
from pipeline.serving.gallery.access import Access
from pipeline.serving.gallery.app import gallery_api
from tests.support.gallery import Api, DrawnFaces, drawing

RED = (200, 20, 30)
CLIENTS, PICTURE_S = 200, 0.02


class SlowFaces(DrawnFaces):
    """Takes its time, as nets do."""

    def of(self, picture: Any, least_score: float = 0.0) -> Any:
        time.sleep(PICTURE_S)
        return super().of(picture, least_score)


@pytest.fixture
def slow(open_gallery: Callable[..., GalleryService], redis_url: str) -> Iterator[Api]:
    service, keys = open_gallery(SlowFaces()), ApiKeys(SecretStr(redis_url))
    yield Api(gallery_api(lambda name: service, Access(keys)), keys, service)
    keys.close()


def all_at_once(api: Api, ask: Callable[[httpx.AsyncClient, int], Any]) -> list[tuple[int, float]]:
    """Status and seconds of the answer to each of two hundred clients."""

    async def timed(client: httpx.AsyncClient, number: int, began: float) -> tuple[int, float]:
        answer = await ask(client, number)
        return answer.status_code, time.perf_counter() - began

    async def ask_all() -> list[tuple[int, float]]:
        transport = httpx.ASGITransport(api.app, raise_app_exceptions=False)
        headers = {"x-api-key": api.key("operator")}
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example", headers=headers) as client:
            began = time.perf_counter()
            return await asyncio.gather(*(timed(client, number, began) for number in range(CLIENTS)))

    return asyncio.run(ask_all())


def test_two_hundred_clients_are_all_answered(slow: Api) -> None:
    assert slow.enrol("ada", RED).status_code == 201
    data = drawing(RED)

    async def ask(client: httpx.AsyncClient, number: int) -> httpx.Response:
        if number % 2:
            return await client.get("/api/v2/subjects")
        return await client.post("/api/v2/faces/detect?recognize=1", files={"file": data})

    answers = all_at_once(slow, ask)
    assert {status for status, _ in answers} == {200}
    pictures, light = (sorted(took for _, took in answers[start::2]) for start in (0, 1))
    assert pictures[-1] > CLIENTS / 2 / 2 * PICTURE_S * 0.9  # two at a time
    assert light[len(light) // 2] < pictures[-1] / 2


def test_two_hundred_enrolments_of_one_subject_are_all_there(slow: Api) -> None:
    vectors = [[float(number == place) for place in range(512)] for number in range(CLIENTS)]

    async def ask(client: httpx.AsyncClient, number: int) -> httpx.Response:
        given = {"vectors": [vectors[number]], "model": "mobilefacenet"}
        return await client.post(f"/api/v2/subjects/person{number % 20}/vectors", json=given)

    answers = all_at_once(slow, ask)
    assert {status for status, _ in answers} <= {201, 409}  # one who is changed by too many at once is asked again
    made = sum(status == 201 for status, _ in answers)
    assert made >= CLIENTS * 0.9
    assert slow.service.desk.store.count() == (20, made)


def test_while_redis_is_away_all_are_told_to_come_again(
    open_gallery: Callable[..., GalleryService], mortal_redis: RedisServer
) -> None:
    service, keys = open_gallery(url=mortal_redis.url), ApiKeys(SecretStr(mortal_redis.url))
    api = Api(gallery_api(lambda name: service, Access(keys)), keys, service)
    assert api.enrol("ada", RED).status_code == 201
    mortal_redis.kill()

    async def ask(client: httpx.AsyncClient, number: int) -> httpx.Response:
        return await client.get(f"/api/v2/subjects?after={number}")

    answers = all_at_once(api, ask)
    assert {status for status, _ in answers} == {503}
    mortal_redis.start()
    assert api.ask("GET", "/v2/subjects").json()["subjects"][0]["id"] == "ada"
    keys.close()
