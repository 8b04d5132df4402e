"""Who may use the gallery's API: keys kept in Redis by their hash alone, and remembered while Redis is away."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, Field, SecretStr

from pipeline.edges.redis_link import RedisLink
from pipeline.gallery.errors import AwayError, UnknownError
from pipeline.gallery.subjects import NAMESPACE, Kept, Name, Role

Service = Literal["recognition", "verification", "detection"]
SERVICES: tuple[Service, ...] = get_args(Service)

HASH = "omote:api-keys"  # of every namespace, for a key says which one it is for
SHOWN = re.compile(r"omk_([0-9a-f]{16})_[0-9a-f]{64}")  # id, and 256 bits that nobody guesses
FRESH_S, REMEMBERED_S, AWAY_S, PATIENCE_S = 2.0, 30.0, 1.0, 1.0


class ApiKey(Kept):
    """What a key lets its owner do.

    Attributes:
        id: Its public part, 16 hexadecimal digits.
        name: Who has it; the audit log knows them by it.
        role: What they may do.
        namespace: In which gallery.
        services: Which of CompreFace's services it opens; what is not theirs needs a role only.
        purpose: Why they ask, where a request does not say.
        per_minute: Most requests in a minute.
        expires: From when on it opens nothing.
        created: When it was made.
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    name: Name
    role: Role
    namespace: Annotated[str, Field(pattern=NAMESPACE)] = "main"
    services: tuple[Service, ...] = Field(default=SERVICES, max_length=3)
    purpose: Annotated[str, Field(max_length=256)] = ""
    per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 600
    expires: AwareDatetime | None = None
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


class _Stored(ApiKey):
    sha256: str = Field(repr=False)

    def opens_for(self, shown: str) -> bool:
        """Whether ``shown`` is this key; how long that takes says nothing about it."""
        return hmac.compare_digest(self.sha256, _hash(shown)) and not self.expired

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)

    def public(self) -> ApiKey:
        return ApiKey.model_validate(self.model_dump(exclude={"sha256"}))


class ApiKeys:
    """The keys of every namespace. Safe to use from many threads.

    A key that was found is not asked for again for two seconds, so a revoked one opens nothing after that. While Redis
    is away one that was found in the last thirty seconds still opens.
    """

    def __init__(self, url: SecretStr, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is asked before the first call.

        Args:
            url: Where Redis is.
            clock: Seconds that only grow.

        Raises:
            AwayError: The URL is none of Redis.
        """
        self._link, self._clock = RedisLink(url, AwayError, patience_s=PATIENCE_S, text=True), clock
        self._remembered: dict[str, tuple[float, _Stored]] = {}
        self._away_until = -1.0

    def new(
        self,
        name: str,
        role: Role,
        *,
        namespace: str = "main",
        services: Sequence[Service] = SERVICES,
        purpose: str = "",
        per_minute: int = 600,
        expires: datetime | None = None,
    ) -> tuple[str, ApiKey]:
        """Make a key; its text is told this once and never again.

        Raises:
            pydantic.ValidationError: One of the values cannot be.
            AwayError: It is not known whether the key was kept.
        """
        number = secrets.token_hex(8)
        shown = f"omk_{number}_{secrets.token_hex(32)}"
        told = {"name": name, "role": role, "namespace": namespace, "services": tuple(services)}
        limits = {"purpose": purpose, "per_minute": per_minute, "expires": expires}
        key = _Stored.model_validate({"id": number, **told, **limits, "sha256": _hash(shown)})
        with self._link.errors():
            self._link.client.hset(HASH, number, key.model_dump_json())
        return shown, key.public()

    def list(self, namespace: str = "") -> list[ApiKey]:
        """Every key of a namespace, or of all, oldest first.

        Raises:
            AwayError: Redis does not say.
        """
        with self._link.errors():
            found = self._link.client.hvals(HASH)
        keys = [_Stored.model_validate_json(text).public() for text in found]
        return sorted((key for key in keys if namespace in {"", key.namespace}), key=lambda key: (key.created, key.id))

    def revoke(self, number: str, namespace: str = "") -> ApiKey:
        """Take a key back; within seconds it opens nothing, in any process.

        Args:
            number: Id of the key.
            namespace: Only if it is one of this namespace.

        Raises:
            UnknownError: There is none.
            AwayError: It is not known whether it was taken back.
        """
        key = self._read(number)
        if key is None or namespace not in {"", key.namespace}:
            message = f"there is no API key {number[:16]!r}"
            raise UnknownError(message)
        with self._link.errors():
            self._link.client.hdel(HASH, number)
        self._remembered.pop(number, None)
        return key.public()

    def fresh(self, shown: str) -> ApiKey | None:
        """The key that ``shown`` is, if nobody needs to be asked for it."""
        return self._recalled(shown, FRESH_S)

    def find(self, shown: str) -> ApiKey | None:
        """The key that ``shown`` is; None if there is none, it was revoked, or it is past its time.

        Raises:
            AwayError: Redis does not answer, and the key is not remembered.
        """
        match = SHOWN.fullmatch(shown)
        if match is None:
            return None
        if self._clock() < self._away_until:
            if remembered := self._recalled(shown, REMEMBERED_S):
                return remembered
            message = "Redis does not answer, and this API key is not remembered; ask again in a moment"
            raise AwayError(message)
        try:
            key = self._read(match[1])
        except AwayError:
            self._away_until = self._clock() + AWAY_S
            if remembered := self._recalled(shown, REMEMBERED_S):
                return remembered
            raise
        if key is None:
            self._remembered.pop(match[1], None)
        elif key.opens_for(shown):
            self._remembered[key.id] = (self._clock(), key)
            return key.public()
        return None

    def answer(self) -> None:
        """Come back if Redis answers.

        Raises:
            AwayError: It does not.
        """
        with self._link.errors():
            self._link.client.ping()

    def close(self) -> None:
        """End the connections."""
        self._link.close()

    def _read(self, number: str) -> _Stored | None:
        with self._link.errors():
            text = self._link.client.hget(HASH, number)
        return None if text is None else _Stored.model_validate_json(text)

    def _recalled(self, shown: str, age_s: float) -> ApiKey | None:
        match = SHOWN.fullmatch(shown)
        found_s, key = self._remembered.get(match[1], (0.0, None)) if match else (0.0, None)
        if key is None or self._clock() - found_s > age_s or not key.opens_for(shown):
            return None
        return key.public()


def _hash(shown: str) -> str:
    """A plain hash does: what it hides has 256 random bits, so that nobody can try them all."""
    return sha256(shown.encode()).hexdigest()
