"""What the supervisor must not forget, kept in Redis: named values, and counters that only grow."""

from __future__ import annotations

from pydantic import SecretStr

from pipeline.edges.redis_link import RedisLink
from pipeline.errors import PipelineError


class RegistryError(PipelineError):
    """Redis does not answer, or not as it should; ask again later."""


class Registry:
    """Values by name and counters by name, for one prefix; every call answers or fails within seconds."""

    def __init__(self, url: SecretStr, prefix: str = "omote.") -> None:
        """Nothing is asked before the first call.

        Raises:
            RegistryError: The URL is none of Redis.
        """
        self._link, self._prefix = RedisLink(url, RegistryError, text=True), prefix

    def add(self, name: str, value: str) -> bool:
        """Keep a value; False if there is one of this name already.

        Raises:
            RegistryError: It is not known whether it was kept.
        """
        with self._link.errors():
            return bool(self._link.client.hsetnx(f"{self._prefix}cameras", name, value))

    def remove(self, name: str) -> bool:
        """Forget a value; False if there was none.

        Raises:
            RegistryError: It is not known whether it was forgotten.
        """
        with self._link.errors():
            return bool(self._link.client.hdel(f"{self._prefix}cameras", name))

    def values(self) -> dict[str, str]:
        """Every value, by name.

        Raises:
            RegistryError: Redis does not say.
        """
        with self._link.errors():
            found = self._link.client.hgetall(f"{self._prefix}cameras")
            return {str(name): str(value) for name, value in found.items()}

    def next_number(self, name: str) -> int:
        """The next number of a counter, from 1; nobody is given the same number twice.

        Raises:
            RegistryError: Redis does not say.
        """
        with self._link.errors():
            return int(self._link.client.hincrby(f"{self._prefix}epochs", name, 1))

    def close(self) -> None:
        """End the connection."""
        self._link.close()
