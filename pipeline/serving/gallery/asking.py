"""How a request becomes a question to a gallery: who asks is checked first, then a thread answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from pipeline.edges.redis_api_keys import ApiKey, Service
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, Role
from pipeline.serving.gallery.access import EXTENSION, Access, Rule
from pipeline.serving.gallery.bodies import limited
from pipeline.serving.gallery.pulse import Pulse
from pipeline.serving.gallery.settings import GallerySettings

Answer = TypeVar("Answer")
Question = Callable[[GalleryService, Caller], Answer]
BUSY_S = 5


@dataclass(slots=True)
class Threads:
    """Where questions are answered: those with pictures by a few threads, so that the others never wait for them."""

    settings: GallerySettings
    pictures: ThreadPoolExecutor = field(init=False)
    light: ThreadPoolExecutor = field(init=False)
    waiting: int = 0
    held_bytes: int = 0

    def __post_init__(self) -> None:
        self.pictures = ThreadPoolExecutor(self.settings.picture_threads, "gallery-picture")
        self.light = ThreadPoolExecutor(self.settings.light_threads, "gallery-light")

    @contextmanager
    def place(self, rule: Rule) -> Iterator[Callable[[int], None]]:
        """A place among those who wait with a picture; gives what is to be told of each part of the body that came.

        Raises:
            HTTPException: There is none left, or the bodies of all together are too long.
        """
        taken, held = int(rule.body == "upload"), 0

        def hold(size: int) -> None:
            nonlocal held
            if self.held_bytes + size > self.settings.in_flight_bytes:
                message = "the API holds as many pictures as it can; ask again in a moment"
                raise HTTPException(503, message, {"Retry-After": str(BUSY_S)})
            held += size
            self.held_bytes += size

        if taken and self.waiting >= self.settings.most_waiting:
            message = f"{self.waiting} requests with pictures wait already; ask again in a moment"
            raise HTTPException(503, message, {"Retry-After": str(BUSY_S)})
        self.waiting += taken
        try:
            yield hold
        finally:
            self.waiting -= taken
            self.held_bytes -= held

    def close(self) -> None:
        """Begin nothing new; what runs ends by itself."""
        for pool in (self.pictures, self.light):
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Serving:
    """What the routes of one API work with."""

    service_for: Callable[[str], GalleryService]
    access: Access
    settings: GallerySettings
    threads: Threads
    pulse: Pulse

    @classmethod
    def of(cls, request: Request) -> Serving:
        """That of the API that was asked."""
        return cast("Serving", request.app.state.serving)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that may be asked.

    Attributes:
        serving: What answers it.
        key: By whose key.
        caller: Who asks, and why.
    """

    serving: Serving
    key: ApiKey
    caller: Caller

    async def quickly(self, question: Question[Answer]) -> Answer:
        """The answer to a question that waits for Redis at most."""
        return await self._answer(self.serving.threads.light, question)

    async def slowly(self, question: Question[Answer]) -> Answer:
        """The answer to a question that takes a core for a while: one about pictures, or about all templates."""
        return await self._answer(self.serving.threads.pictures, question)

    async def _answer(self, pool: ThreadPoolExecutor, question: Question[Answer]) -> Answer:
        def answer() -> Answer:
            return question(self.serving.service_for(self.key.namespace), self.caller)

        return await asyncio.get_running_loop().run_in_executor(pool, answer)


class GalleryRoute(APIRoute):
    """A route that knows who asks before it reads a body, and that never reads a long one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()
        rule = Rule.model_validate((self.openapi_extra or {})[EXTENSION])

        async def guarded(request: Request) -> Response:
            serving = Serving.of(request)
            key, caller = await serving.access.admit(request, rule)
            request.state.asked = Asked(serving, key, caller)
            settings = serving.settings
            most = settings.upload_bytes if rule.body == "upload" else settings.body_bytes
            with serving.threads.place(rule) as hold:
                return await handle(Request(request.scope, limited(request.receive, most, settings.body_s, hold)))

        return guarded


def opens(roles: frozenset[Role], service: Service | None = None, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a route says of who may ask it, and of its body.

    Args:
        roles: Who may.
        service: Which of CompreFace's services it is one of.
        body: What OpenAPI says of its body, where that may be long.
    """
    rule = Rule(roles=roles, service=service, body="upload" if body else "light")
    return {**rule.declared(), **(body or {})}


def _asked(request: Request) -> Asked:
    return cast("Asked", request.state.asked)


Asking = Annotated[Asked, Depends(_asked)]
