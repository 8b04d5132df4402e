"""The one way to reach Redis: short waits, errors that name it without its password, and atomic changes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import RedisError
from redis.retry import Retry

from pipeline.errors import PipelineError
from pipeline.redact import redact

DEFAULT_URL = "redis://localhost:6379/0"
PATIENCE_S = 2.0

Word = bytes | str | int | float

# Guards first: nothing is written unless all of them hold. Then every write, and a line in the log for each change.
# A step has a name of its own: one that comes again, for its answer was lost, is not done again.
STEP = """
local before = redis.call('GET', KEYS[3])
if before then return tonumber(before) end
local at = 2
local function command()
  local words = tonumber(ARGV[at])
  local from = at + 1
  at = from + words
  return redis.call(unpack(ARGV, from, at - 1))
end
local guards = tonumber(ARGV[at])
at = at + 1
for _ = 1, guards do
  local found = tostring(command())
  if found ~= ARGV[at] then return -1 end
  at = at + 1
end
local writes = tonumber(ARGV[at])
at = at + 1
for _ = 1, writes do command() end
local version = tonumber(redis.call('GET', KEYS[1]) or '0')
for n = at, #ARGV, 2 do
  version = redis.call('INCR', KEYS[1])
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], version .. '-0', ARGV[n], ARGV[n + 1])
end
redis.call('SET', KEYS[3], version, 'EX', 60)
return version
"""

# One answer instead of one for each key: the client spends far longer on an answer than the server does.
FIELDS = """
local found = {}
for n, key in ipairs(KEYS) do found[n] = redis.call('HMGET', key, unpack(ARGV)) end
return found
"""


def redis_url(given: str = "") -> SecretStr:
    """Where Redis is: ``given``, or the environment's ``REDIS_URL``; it may hold a password."""
    return SecretStr(given or os.environ.get("REDIS_URL") or DEFAULT_URL)


class RedisLink:
    """Connections to one Redis, for many threads; every call answers or fails within seconds.

    Attributes:
        client: Redis-py's; its types leave open whether an answer is text, so it has none here.
    """

    def __init__(
        self,
        url: SecretStr,
        error: type[PipelineError],
        *,
        patience_s: float = PATIENCE_S,
        tries: int = 2,
        text: bool = False,
        name: str = "",
    ) -> None:
        """Nothing is asked before the first call.

        Args:
            url: Where it is, with its password.
            error: What becomes of the errors of Redis.
            patience_s: How long one answer may take.
            tries: How often to ask where the connection is lost; once where asking again would do a thing twice.
            text: Whether the client gives strings.
            name: What Redis calls the connections, for `wake`.

        Raises:
            PipelineError: The URL is none of Redis.
        """
        self._shown, self._error = redact(url.get_secret_value()), error
        options: dict[str, Any] = {
            "socket_timeout": patience_s,
            "socket_connect_timeout": min(patience_s, PATIENCE_S),
            "retry": Retry(NoBackoff(), tries - 1, (Lost,)),  # who does not answer in time is not asked again
            "health_check_interval": 30,
            "decode_responses": text,
            "client_name": name or None,
            "protocol": 2,  # answers have the same shape whatever the server and the client's version
        }
        try:
            self.client: Any = redis.Redis.from_url(url.get_secret_value(), **options)
        except ValueError as wrong:
            message = f"{self._shown!r} is no Redis URL; give redis://host:6379/0 or rediss://host:6379/0"
            raise error(message) from wrong

    @contextmanager
    def errors(self) -> Iterator[None]:
        """The errors of Redis as ours, each one sentence."""
        try:
            yield
        except RedisError as error:
            message = f"Redis at {self._shown} does not answer: {redact(str(error))}"
            raise self._error(message) from error

    def fields(self, keys: Sequence[str], names: Sequence[str]) -> list[list[Any]]:
        """The fields ``names`` of each of a few hundred hashes, in one go; None for what is not there.

        Raises:
            PipelineError: Redis does not answer.
        """
        if not keys:
            return []
        with self.errors():
            found: list[list[Any]] = self.client.eval(FIELDS, len(keys), *keys, *names)
        return found

    def wake(self, name: str) -> None:
        """End the calls of the connections ``name`` that wait for something.

        Raises:
            PipelineError: Redis does not answer.
        """
        with self.errors():
            for each in self.client.client_list():
                if each["name"] == name:
                    self.client.client_unblock(each["id"])

    def close(self) -> None:
        """End the connections."""
        self.client.close()


class Step:
    """Writes that happen together or not at all, with a line in the change log for each thing that matchers hold.

    A line's id in the log is the version of the gallery that it makes, so that versions have no gaps.
    """

    def __init__(self, link: RedisLink, version: str, log: str, name: str, log_length: int) -> None:
        self._link, self._keys, self._length = link, [version, log, name], log_length
        self._guards: list[list[Word]] = []
        self._writes: list[list[Word]] = []
        self._lines: list[Word] = []

    def only_if(self, expected: Word | None, command: str, key: str, *words: Word) -> Step:
        """Do nothing unless a command that reads ``key`` gives ``expected``; None stands for nothing there."""
        self._keys.append(key)
        read: list[Word] = [command, key, *words]
        self._guards.append([len(read), *read, "false" if expected is None else expected])
        return self

    def write(self, command: str, key: str, *words: Word) -> Step:
        """A command of Redis that writes ``key``."""
        self._keys.append(key)
        self._writes.append([2 + len(words), command, key, *words])
        return self

    def tell(self, change: str, name: str) -> Step:
        """A line of the change log."""
        self._lines += [change, name]
        return self

    def done(self) -> int | None:
        """Do it; the version of the gallery after it, or None where a guard did not hold.

        Raises:
            PipelineError: Redis does not answer. It is not known whether the step was done.
        """
        words: list[Word] = [
            *(self._length, len(self._guards), *chain.from_iterable(self._guards)),
            *(len(self._writes), *chain.from_iterable(self._writes), *self._lines),
        ]
        with self._link.errors():
            version = int(self._link.client.eval(STEP, len(self._keys), *self._keys, *words))
        return None if version < 0 else version
