"""How a request becomes a question to a gallery: who asks is checked first, then a thread answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from pipeline.edges.redis_api_keys import ApiKey, Service
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, Role
from pipeline.serving.gallery.access import EXTENSION, Access, Rule
from pipeline.serving.gallery.bodies import Sent, limited
from pipeline.serving.gallery.pulse import Pulse
from pipeline.serving.gallery.settings import GallerySettings
from pipeline.serving.gallery.threads import Threads

Answer = TypeVar("Answer")
Question = Callable[[GalleryService, Caller], Answer]


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
        gone: Whether they have hung up.
    """

    serving: Serving
    key: ApiKey
    caller: Caller
    gone: Callable[[], Awaitable[bool]]

    async def quickly(self, question: Question[Answer]) -> Answer:
        """The answer to a question that waits for Redis at most."""
        return await self.serving.threads.light.answer(self.key.namespace, self._answering(question))

    async def slowly(self, question: Question[Answer]) -> Answer:
        """The answer to a question about a picture, which takes a core for a moment; none for who hung up meanwhile."""
        return await self.serving.threads.pictures.answer(self.key.namespace, self._answering(question), self.gone)

    async def thoroughly(self, question: Question[Answer]) -> Answer:
        """The answer to a question about everything that the gallery holds."""
        return await self.serving.threads.thorough.answer(self.key.namespace, self._answering(question))

    def _answering(self, question: Question[Answer]) -> Callable[[], Answer]:
        return lambda: question(self.serving.service_for(self.key.namespace), self.caller)


class GalleryRoute(APIRoute):
    """A route that knows who asks before it reads a body, and that never reads a long one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()
        rule = Rule.model_validate((self.openapi_extra or {})[EXTENSION])

        async def guarded(request: Request) -> Response:
            serving = Serving.of(request)
            key, caller = await serving.access.admit(request, rule)
            request.state.asked = Asked(serving, key, caller, request.is_disconnected)
            settings = serving.settings
            most = settings.upload_bytes if rule.body == "upload" else settings.body_bytes
            with serving.threads.place(rule, key.namespace) as hold:
                return await handle(Sent(request.scope, limited(request.receive, most, settings.body_s, hold)))

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
