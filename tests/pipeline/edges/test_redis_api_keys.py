"""API keys: shown once, kept as a hash, revoked within seconds, and good for a while without Redis."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import redis
from pydantic import SecretStr, ValidationError

from pipeline.edges.redis_api_keys import HASH, ApiKeys
from pipeline.gallery.errors import AwayError, UnknownError
from pipeline.servers.redis_server import RedisServer


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(redis_url: str, clock: Clock) -> Iterator[ApiKeys]:
    opened = ApiKeys(SecretStr(redis_url), clock=clock)
    yield opened
    for key in opened.list():
        opened.revoke(key.id)
    opened.close()


def test_a_key_opens_what_it_was_made_for(keys: ApiKeys) -> None:
    shown, made = keys.new("front desk", "reader", namespace="hotel", services=["detection"], purpose="safety")
    assert re.fullmatch(r"omk_[0-9a-f]{16}_[0-9a-f]{64}", shown)
    found = keys.find(shown)
    assert found == made
    assert (found.name, found.role, found.namespace, found.purpose) == ("front desk", "reader", "hotel", "safety")
    assert found.services == ("detection",)


def test_no_two_keys_are_alike(keys: ApiKeys) -> None:
    made = [keys.new("door", "reader") for _ in range(8)]
    assert len({shown for shown, _ in made}) == len({key.id for _, key in made}) == 8


def test_only_the_hash_is_kept(keys: ApiKeys, redis_url: str) -> None:
    shown, key = keys.new("door", "reader")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        kept = client.hget(HASH, key.id)
    assert shown.split("_")[2] not in kept
    assert shown.split("_")[2] not in repr(key)
    assert "sha256" not in repr(keys.list())


def test_another_text_opens_nothing(keys: ApiKeys) -> None:
    shown, key = keys.new("door", "reader")
    assert keys.find(shown) == key
    wrong = shown[:-1] + ("0" if shown[-1] != "0" else "1")
    for text in ("", "omk_", shown[:-1], shown + "0", wrong, shown.upper(), " " + shown, shown + "\n", "é" * 85):
        assert keys.find(text) is None
        assert keys.fresh(text) is None


def test_a_revoked_key_opens_nothing_after_seconds(keys: ApiKeys, redis_url: str, clock: Clock) -> None:
    shown, key = keys.new("door", "reader")
    assert keys.find(shown)
    other = ApiKeys(SecretStr(redis_url))
    assert other.revoke(key.id) == key
    other.close()
    assert keys.fresh(shown) == key
    clock.now += 2.5
    assert keys.fresh(shown) is None
    assert keys.find(shown) is None


def test_who_revokes_a_key_is_not_let_in_with_it(keys: ApiKeys) -> None:
    shown, key = keys.new("door", "reader")
    assert keys.find(shown)
    keys.revoke(key.id)
    assert keys.fresh(shown) is None
    with pytest.raises(UnknownError, match=key.id):
        keys.revoke(key.id)


def test_keys_belong_to_a_namespace(keys: ApiKeys) -> None:
    _, here = keys.new("door", "reader", namespace="hotel")
    _, there = keys.new("door", "admin", namespace="bank")
    assert keys.list("hotel") == [here]
    assert keys.list() == [here, there]
    with pytest.raises(UnknownError):
        keys.revoke(there.id, "hotel")
    assert keys.list("bank") == [there]


def test_a_key_ends_with_its_time(keys: ApiKeys) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    shown, _ = keys.new("guest", "reader", expires=soon)
    assert keys.find(shown)
    time.sleep(0.25)
    assert keys.fresh(shown) is None
    assert keys.find(shown) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"role": "owner"},
        {"namespace": "../x"},
        {"services": ["shaving"]},
        {"per_minute": 0},
        {"expires": datetime(2030, 1, 1)},  # noqa: DTZ001
    ],
)
def test_a_key_that_cannot_be_is_not_made(keys: ApiKeys, wrong: dict) -> None:
    given = {"name": "door", "role": "reader", **wrong}
    with pytest.raises(ValidationError):
        keys.new(**given)
    assert keys.list() == []


def test_while_redis_is_away_known_keys_open_for_half_a_minute(mortal_redis: RedisServer) -> None:
    clock = Clock()
    keys = ApiKeys(SecretStr(mortal_redis.url), clock=clock)
    shown, key = keys.new("door", "reader")
    stranger, _ = keys.new("stranger", "reader")
    assert keys.find(shown) == key
    mortal_redis.kill()
    clock.now += 5
    assert keys.fresh(shown) is None
    assert keys.find(shown) == key
    began = time.perf_counter()
    assert all(keys.find(shown) for _ in range(50))  # for a second nobody asks in vain again
    assert time.perf_counter() - began < 0.1
    with pytest.raises(AwayError, match="does not answer"):
        keys.find(stranger)
    clock.now += 26
    with pytest.raises(AwayError):
        keys.find(shown)
    with pytest.raises(AwayError):
        keys.new("more", "reader")
    keys.close()
