"""What the supervisor must not forget, on a real Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Thread
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pipeline.edges.redis_link import redis_url
from pipeline.edges.redis_registry import Registry, RegistryError
from pipeline.servers.redis_server import RedisServer


@pytest.fixture
def registry(redis_url: str) -> Iterator[Registry]:
    opened = Registry(SecretStr(redis_url), f"{uuid4().hex}.")
    yield opened
    opened.close()


def test_a_value_is_kept_once_and_forgotten_once(registry: Registry) -> None:
    assert [registry.add("lobby", "one"), registry.add("lobby", "two")] == [True, False]
    assert registry.values() == {"lobby": "one"}
    assert [registry.remove("lobby"), registry.remove("lobby")] == [True, False]
    assert registry.values() == {}


def test_two_systems_with_different_prefixes_do_not_see_each_other(registry: Registry, redis_url: str) -> None:
    other = Registry(SecretStr(redis_url), "other.")
    registry.add("lobby", "one")
    assert other.values() == {}
    other.close()


def test_no_number_is_given_twice_however_many_ask_at_once(registry: Registry, redis_url: str) -> None:
    given: list[int] = []

    def ask() -> None:
        given.extend(registry.next_number("lobby") for _ in range(50))

    askers = [Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(given) == list(range(1, 201))
    assert registry.next_number("gate") == 1


def test_a_redis_that_is_away_is_told_within_seconds_and_used_again_when_it_is_back(
    mortal_redis: RedisServer, registry: Registry
) -> None:
    registry.add("lobby", "one")
    mortal_redis.kill()
    since = time.monotonic()
    with pytest.raises(RegistryError, match="does not answer"):
        registry.values()
    assert time.monotonic() - since < 5
    mortal_redis.start()
    registry.add("gate", "two")
    assert "gate" in registry.values()


def test_an_address_that_is_none_of_redis_is_refused_without_its_password() -> None:
    with pytest.raises(RegistryError, match="is no Redis URL") as refused:
        Registry(SecretStr("http://user:hunter2@host"))
    assert "hunter2" not in str(refused.value)


def test_the_address_comes_from_the_environment_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://there:1/0")
    assert redis_url().get_secret_value() == "redis://there:1/0"
    assert redis_url("redis://here:2/0").get_secret_value() == "redis://here:2/0"
