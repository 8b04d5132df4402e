"""Who is let in, for what, and how often: decided before a byte of a body is read."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pipeline.edges.redis_api_keys import ApiKey, ApiKeys, Service
from pipeline.gallery.subjects import Caller, Role

PURPOSE_LENGTH = 256
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="omote gallery"'}
EXTENSION = "x-omote-rule"


class Rule(BaseModel):
    """What a route wants of whoever asks. It stands in OpenAPI, and is read from there.

    Attributes:
        roles: Who may.
        service: Which of CompreFace's services it is one of; none if None.
        body: How long its body may be.
        key_in_path: Whether the key stands in the address, as where a browser shows a picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    roles: frozenset[Role]
    service: Service | None = None
    body: Literal["light", "upload"] = "light"
    key_in_path: bool = False

    def declared(self) -> dict[str, Any]:
        """The rule as an extension of OpenAPI."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        return {EXTENSION: {**said, "roles": sorted(self.roles)}}


@dataclass(slots=True)
class Buckets:
    """Tokens by key: each request takes one, and they come back with time.

    A bucket holds the requests of a minute, so a burst is let through and a flood is not. They are those of this
    process: with n replicas of the API a key has n times as many.
    """

    clock: Callable[[], float] = time.monotonic
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, key: ApiKey) -> float:
        """Take a token; 0, or the seconds until there will be one."""
        now = self.clock()
        left, since = self._left.get(key.id, (float(key.per_minute), now))
        left = min(key.per_minute, left + (now - since) * key.per_minute / 60)
        self._left[key.id] = (max(0.0, left - 1) if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) * 60 / key.per_minute


@dataclass(frozen=True, slots=True)
class Access:
    """The door of the API.

    Attributes:
        keys: Who may come in.
        buckets: How often.
    """

    keys: ApiKeys
    buckets: Buckets = field(default_factory=Buckets)

    async def admit(self, request: Request, rule: Rule) -> tuple[ApiKey, Caller]:
        """Whoever asks, and why.

        Raises:
            HTTPException: They are not let in.
            AwayError: Nobody can say now whether they are.
        """
        key = await self._key(request, rule)
        if wait_s := self.buckets.take(key):
            message = f"the API key {key.name!r} may ask {key.per_minute} times a minute; wait a moment"
            raise HTTPException(429, message, {"Retry-After": str(math.ceil(wait_s))})
        if rule.service is not None and rule.service not in key.services:
            message = f"the API key {key.name!r} opens {', '.join(key.services) or 'no service'}, not {rule.service}"
            raise HTTPException(403, message)
        if key.role not in rule.roles:
            message = f"the role {key.role!r} may not do this; it takes {' or '.join(sorted(rule.roles))}"
            raise HTTPException(403, message)
        return key, Caller(key.name, key.role, _purpose(request) or key.purpose)

    async def _key(self, request: Request, rule: Rule) -> ApiKey:
        shown = _shown(request, rule)
        if not shown:
            message = "show an API key in the header `x-api-key`, or as `Authorization: Bearer <key>`"
            raise HTTPException(401, message, CHALLENGE)
        key = self.keys.fresh(shown) or await asyncio.to_thread(self.keys.find, shown)
        if key is None:
            message = "there is no such API key, or it is over"
            raise HTTPException(401, message, CHALLENGE)
        return key


def _shown(request: Request, rule: Rule) -> str:
    if rule.key_in_path:
        return str(request.path_params.get("api_key", ""))
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    return request.headers.get("x-api-key", "").strip() or (bearer.strip() if scheme.lower() == "bearer" else "")


def _purpose(request: Request) -> str:
    purpose = request.headers.get("x-purpose", "").strip()
    if len(purpose) > PURPOSE_LENGTH or not purpose.isprintable():
        message = f"the header `X-Purpose` takes at most {PURPOSE_LENGTH} printable signs"
        raise HTTPException(400, message)
    return purpose
