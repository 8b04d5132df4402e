"""What the supervisor must not forget, kept in Redis: named values, and counters that only grow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from pipeline.errors import PipelineError
from pipeline.redact import redact

DEFAULT_URL = "redis://localhost:6379/0"
PATIENCE_S = 2.0


class RegistryError(PipelineError):
    """Redis does not answer, or not as it should; ask again later."""


def redis_url(given: str = "") -> SecretStr:
    """Where Redis is: ``given``, or the environment's ``REDIS_URL``; it may hold a password."""
    return SecretStr(given or os.environ.get("REDIS_URL") or DEFAULT_URL)


class Registry:
    """Values by name and counters by name, for one prefix; every call answers or fails within seconds."""

    def __init__(self, url: SecretStr, prefix: str = "omote.") -> None:
        """Nothing is asked before the first call.

        Raises:
            RegistryError: The URL is none of Redis.
        """
        self._shown, self._prefix = redact(url.get_secret_value()), prefix
        try:
            self._redis = redis.Redis.from_url(
                url.get_secret_value(),
                socket_timeout=PATIENCE_S,
                socket_connect_timeout=PATIENCE_S,
                retry=Retry(NoBackoff(), 1),
                decode_responses=True,
            )
        except ValueError as error:
            message = f"{self._shown!r} is no Redis URL; give redis://host:6379/0 or rediss://host:6379/0"
            raise RegistryError(message) from error

    def add(self, name: str, value: str) -> bool:
        """Keep a value; False if there is one of this name already.

        Raises:
            RegistryError: It is not known whether it was kept.
        """
        with self._errors():
            return bool(self._redis.hsetnx(f"{self._prefix}cameras", name, value))

    def remove(self, name: str) -> bool:
        """Forget a value; False if there was none.

        Raises:
            RegistryError: It is not known whether it was forgotten.
        """
        with self._errors():
            return bool(self._redis.hdel(f"{self._prefix}cameras", name))

    def values(self) -> dict[str, str]:
        """Every value, by name.

        Raises:
            RegistryError: Redis does not say.
        """
        with self._errors():
            found = self._redis.hgetall(f"{self._prefix}cameras")
            return {str(name): str(value) for name, value in found.items()}

    def next_number(self, name: str) -> int:
        """The next number of a counter, from 1; nobody is given the same number twice.

        Raises:
            RegistryError: Redis does not say.
        """
        with self._errors():
            return int(self._redis.hincrby(f"{self._prefix}epochs", name, 1))

    def close(self) -> None:
        """End the connection."""
        self._redis.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            message = f"Redis at {self._shown} does not answer: {redact(str(error))}"
            raise RegistryError(message) from error
