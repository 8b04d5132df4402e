"""The gallery's API in one piece: CompreFace's paths, our own, and what both have in common."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import SinkError
from pipeline.gallery.desk import AUDITING, READING
from pipeline.gallery.service import GalleryService
from pipeline.serving.gallery.access import EXTENSION, Access
from pipeline.serving.gallery.asking import GalleryRoute, Serving, opens
from pipeline.serving.gallery.compreface import collection
from pipeline.serving.gallery.compreface_faces import recognition
from pipeline.serving.gallery.pulse import Pulse
from pipeline.serving.gallery.settings import GallerySettings
from pipeline.serving.gallery.threads import Threads
from pipeline.serving.gallery.v2_faces import faces
from pipeline.serving.gallery.v2_subjects import subjects
from pipeline.serving.gallery.v2_trust import public, trust
from pipeline.serving.problems import Problem, answer_with_problems

TAGS = {
    "CompreFace: collection": "The subjects and faces of a collection, as CompreFace has them.",
    "CompreFace: faces": "Recognition, verification and detection, as CompreFace has them.",
    "subjects": "Who is known, and who wants to be forgotten.",
    "faces": "Faces of pictures, vectors, and enrolled faces.",
    "unknown people": "Who was seen in streams and is not known.",
    "matches": "Who was seen in streams and is known.",
    "trust": "What is allowed, promised, proved and logged.",
    "keys": "Who may ask.",
    "health": "For whoever looks after the API; wants no key.",
    "problems": "What the types of problems mean.",
}
SCHEMES = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "As CompreFace's clients do."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same key, as others do."},
}
PURPOSE = {
    "name": "X-Purpose",
    "in": "header",
    "description": "Why it is asked; goes to the audit log. Where it is not there, the purpose of the key.",
    "schema": {"type": "string", "maxLength": 256, "pattern": "^[ -~]*$"},
}
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
KEEP_ALIVE_S, GOODBYE_S = 30, 10

description = APIRouter(route_class=GalleryRoute)


@description.get("/openapi.json", include_in_schema=False, openapi_extra=opens(READING | AUDITING))
async def describe(request: Request) -> dict[str, Any]:
    """The description of the API, for whoever has a key to it."""
    app: FastAPI = request.app
    return app.openapi()


class GalleryApi(FastAPI):
    """The API; its description says who may ask what."""

    def openapi(self) -> dict[str, Any]:
        """The description in OpenAPI 3.1."""
        if self.openapi_schema is None:
            self.openapi_schema = _described(super().openapi())
        return self.openapi_schema


def gallery_api(
    service_for: Callable[[str], GalleryService], access: Access, settings: GallerySettings | None = None
) -> FastAPI:
    """The API over galleries.

    Args:
        service_for: Finds the gallery of a namespace; asked on a thread for each request, so it is to remember.
        access: Who is let in.
        settings: How much it takes on at once.
    """
    given = settings or GallerySettings()
    threads, pulse = Threads(given), Pulse(access.keys.answer)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        threads.close()
        pulse.close()

    app = GalleryApi(
        title="omote gallery",
        summary="Who is known: enrol, find, prove, forget.",
        description="Scores under `/api/v2` are cosines. Errors there are problems of RFC 9457; under `/api/v1` they "
        "are CompreFace's. Every question that is let in is logged, with who asked and why.",
        version="2.0.0",
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.serving = Serving(service_for, access, given, threads, pulse)
    for router in (collection, recognition):
        app.include_router(router, prefix="/api/v1")
    for router in (faces, subjects, trust):
        app.include_router(router, prefix="/api/v2")
    app.include_router(public)
    app.include_router(description)
    answer_with_problems(app)
    app.add_middleware(Private)
    return app


def door(settings: GallerySettings) -> socket.socket:
    """What the API listens at by itself.

    Raises:
        SinkError: It cannot listen there.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        message = f"cannot listen at {settings.host}:{settings.port}: {os.strerror(error.errno or 0)}; choose a --port"
        raise SinkError(message) from error


def server(app: FastAPI, settings: GallerySettings) -> uvicorn.Server:
    """What serves the API by itself, over TLS where the settings hold a certificate.

    It logs no addresses, for keys and names stand in them. It reads HTTP with h11, for that ends a connection whose
    headers are endless; httptools keeps them all, whoever sends them.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http="h11",
            ws="none",
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.private_key,
            access_log=False,
            server_header=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GOODBYE_S,
        )
    )


class Private:
    """Tells whoever is on the way to keep nothing of what is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""

        async def send_private(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(PRIVATE)
            await send(message)

        await self._app(scope, receive, send_private)


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """The description with its keys and purposes, and without statuses that nobody ever sees."""
    parts = schema["components"]
    parts["securitySchemes"] = SCHEMES
    for unused in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(unused, None)
    parts["schemas"].setdefault("Problem", Problem.model_json_schema(ref_template="#/components/schemas/{model}"))
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path.startswith("/api/v1"):
                operation["responses"].pop("422", None)
            rule = operation.get(EXTENSION)
            if rule is not None and not rule.get("key_in_path"):
                operation["security"] = [{name: []} for name in SCHEMES]
                operation.setdefault("parameters", []).append(PURPOSE)
    return schema
