"""What goes wrong in the API, as RFC 9457 problem JSON: one shape for everything, and never a password in it.

A problem that is ours has a type, ``/problems/<name>``, where the API says what it means; one for which HTTP itself has
a word, such as 404 for an unknown path, has the type ``about:blank``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from pipeline.gallery.errors import (
    AwayError,
    DuplicateError,
    ForbiddenError,
    GalleryError,
    InvalidError,
    PictureError,
    RefusedError,
    UnknownError,
)
from pipeline.redact import redact
from pipeline.serving.streams import (
    DuplicateStreamError,
    InvalidStreamError,
    NotReadyError,
    TooManyStreamsError,
    UnknownStreamError,
)

MEDIA_TYPE = "application/problem+json"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MOST_FIELDS, FIELD_LENGTH, LONGEST = 20, 100, 1000  # a body of nothing but mistakes gets no long answer


class WrongField(BaseModel):
    """A part of the request that cannot be as it is.

    Attributes:
        field: Where it is, such as ``body.url``.
        detail: What is wrong with it.
    """

    field: str = Field(examples=["body.url"])
    detail: str = Field(examples=["Field required"])


class Problem(BaseModel):
    """Why a request was refused, or failed (RFC 9457).

    Attributes:
        type: What kind of problem this is; the same for all of its kind.
        title: The kind in a few words.
        status: Status of the response.
        detail: What is wrong this time, and the way out: one sentence.
        instance: Path of the request.
        errors: The fields that are wrong, where it is them.
    """

    model_config = ConfigDict(frozen=True)
    type: str = Field(default="about:blank", examples=["/problems/duplicate-stream"])
    title: str = Field(examples=["There is a stream of this id already"])
    status: int = Field(examples=[409])
    detail: str = Field(examples=["there is a stream 'lobby' already; remove it first"])
    instance: str | None = Field(default=None, examples=["/v1/streams"])
    errors: list[WrongField] | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem; ``name`` is empty where the status says it all."""

    status: int
    name: str
    title: str
    meaning: str
    retry_s: int = 0

    @property
    def type(self) -> str:
        """Reference of the kind, from the root of the API."""
        return f"/problems/{self.name}" if self.name else "about:blank"

    def problem(self) -> Problem:
        """The kind explained, as a problem that nobody has."""
        return Problem(type=self.type, title=self.title, status=self.status, detail=self.meaning)


def _plain(status: int, meaning: str) -> Kind:
    return Kind(status, "", HTTPStatus(status).phrase, meaning)


INVALID_STREAM = Kind(
    422,
    "invalid-stream",
    "The stream can never be read",
    "The address is none of RTSP, or holds a password or a variable that it must not hold.",
)
INVALID_REQUEST = Kind(
    422,
    "invalid-request",
    "The request is not understood",
    "Fields are missing, unknown, or of another kind or size than the schema says; `errors` lists them.",
)
DUPLICATE_STREAM = Kind(
    409,
    "duplicate-stream",
    "There is a stream of this id already",
    "An id belongs to one stream at a time; remove the other stream, or choose another id.",
)
UNKNOWN_STREAM = Kind(
    404,
    "unknown-stream",
    "There is no stream of this id",
    "No camera of this id was added, and no stream of this id was seen in the video topic.",
)
TOO_MANY_STREAMS = Kind(
    503,
    "too-many-streams",
    "There is no room for one more stream",
    "The cluster cannot hold another worker now; the streams that are there go on as before.",
    retry_s=60,
)
NOT_READY = Kind(
    503,
    "not-ready",
    "A part of the system is away",
    "What the answer needs does not answer now; ask again later.",
    retry_s=5,
)
GALLERY_UNKNOWN = Kind(
    404,
    "gallery-unknown",
    "The gallery has none of this name",
    "There is no subject, face, cluster, key or receipt of this name in the gallery that the API key is for.",
)
GALLERY_DUPLICATE = Kind(
    409,
    "gallery-duplicate",
    "The gallery has one already",
    "There is a subject of this name, or the same face under another name; choose another name, or merge the two.",
)
GALLERY_PICTURE = Kind(
    422,
    "gallery-picture",
    "The picture does not serve",
    "It cannot be read, is too small or too large, moves, or its faces are not what was asked for.",
)
GALLERY_INVALID = Kind(
    422,
    "gallery-invalid",
    "This can be nothing in a gallery",
    "A name, a vector, a time or a setting that no gallery can hold.",
)
GALLERY_FORBIDDEN = Kind(
    403,
    "gallery-forbidden",
    "This may not be done",
    "The role of the API key, the purpose or the consent of the subject does not allow it. It was logged.",
)
GALLERY_REFUSED = Kind(
    409,
    "gallery-refused",
    "What the gallery holds does not allow it",
    "It would be allowed, but not with what is in the gallery now.",
)
GALLERY_AWAY = Kind(
    503,
    "gallery-away",
    "The gallery does not answer",
    "Redis is away. Nothing is known to be written; ask again in a moment.",
    retry_s=2,
)
GALLERY_SHUT = Kind(
    503,
    "gallery-shut",
    "The gallery does not open",
    "Its keys cannot be read, or do not open what it holds: while keys are changed for a moment, else until somebody "
    "who looks after it gives it the right ones.",
    retry_s=2,
)
UNAUTHORIZED = _plain(401, "This address wants the header `Authorization: Bearer <token>` with the token of the API.")
NOT_FOUND = _plain(404, "There is nothing at this address; /openapi.json says what there is.")
NOT_ALLOWED = _plain(405, "This address has no such method; the header `Allow` lists those it has.")
NO_JSON = _plain(400, "The body is no JSON that can be read.")
TOO_LARGE = _plain(413, "The body is larger than a request may be.")
FORBIDDEN = _plain(403, "The API key's role, or its services, do not include this.")
TOO_SLOW = _plain(408, "The body did not arrive in time.")
NO_KIND = _plain(415, "The body is of a type that this address does not take.")
TOO_MANY = _plain(429, "The API key has asked more often than it may in a minute.")
UNEXPECTED = _plain(500, "Something went wrong inside; the log of the API says what.")

KINDS: dict[type[Exception], Kind] = {
    InvalidStreamError: INVALID_STREAM,
    DuplicateStreamError: DUPLICATE_STREAM,
    UnknownStreamError: UNKNOWN_STREAM,
    TooManyStreamsError: TOO_MANY_STREAMS,
    NotReadyError: NOT_READY,
    RequestValidationError: INVALID_REQUEST,
    UnknownError: GALLERY_UNKNOWN,
    DuplicateError: GALLERY_DUPLICATE,
    PictureError: GALLERY_PICTURE,
    InvalidError: GALLERY_INVALID,
    ForbiddenError: GALLERY_FORBIDDEN,
    RefusedError: GALLERY_REFUSED,
    AwayError: GALLERY_AWAY,
    GalleryError: GALLERY_SHUT,
}
NAMED = {kind.name: kind for kind in KINDS.values()}
PLAIN = {kind.status: kind for kind in (UNAUTHORIZED, NOT_FOUND, NOT_ALLOWED, TOO_LARGE)}


def answer_with_problems(app: FastAPI) -> None:
    """Let every error that leaves a route of ``app``, or is met on the way to one, be a problem."""
    for raised in KINDS:
        app.add_exception_handler(raised, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def declared(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """What a route says in OpenAPI about the problems that it can answer with."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        examples = {each.name or str(each.status): _example(each) for each in kinds if each.status == kind.status}
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
        found[kind.status] = {
            "description": HTTPStatus(kind.status).phrase,
            "content": {MEDIA_TYPE: content},
            "headers": _declared_headers(kind),
        }
    return found


def _example(kind: Kind) -> dict[str, Any]:
    return {"summary": kind.title, "value": kind.problem().model_dump(exclude_none=True)}


def _declared_headers(kind: Kind) -> dict[str, Any]:
    wait = ("Retry-After", "Seconds to wait.")
    names = {401: ("WWW-Authenticate", "How to show who asks."), 429: wait, 503: wait}
    if kind.status not in names:
        return {}
    name, meaning = names[kind.status]
    return {name: {"description": meaning, "schema": {"type": "string"}}}


async def _refused(request: Request, error: Exception) -> Response:
    kind = next(KINDS[each] for each in type(error).__mro__ if each in KINDS)
    if isinstance(error, RequestValidationError):
        wrong = [_wrong_field(each) for each in error.errors()[:MOST_FIELDS]]
        return _response(request, kind, "; ".join(f"{each.field}: {each.detail}" for each in wrong[:3]), wrong)
    headers = {"Retry-After": str(kind.retry_s)} if kind.retry_s else {}
    return _response(request, kind, str(error), headers=headers)


async def _http(request: Request, error: Exception) -> Response:
    """Errors of Starlette and FastAPI; where they say no more than the phrase of their status, we do."""
    status, said, headers = error.status_code, error.detail, error.headers  # type: ignore[attr-defined]
    kind = PLAIN.get(status) or _plain(status, said)
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": ", ".join(_allowed(request))}
    return _response(request, kind, kind.meaning if said == kind.title else said, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Methods of the address; the error itself names those of one route only."""
    routes = request.app.router.routes
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    return [method for method, scope in scopes.items() if any(r.matches(scope)[0] is Match.FULL for r in routes)]


async def _unexpected(request: Request, error: Exception) -> Response:
    """The server logs the error; who asked learns nothing of it."""
    del error
    return _response(request, UNEXPECTED, UNEXPECTED.meaning)


def _wrong_field(error: dict[str, Any]) -> WrongField:
    """What pydantic says of a field, without what was in it."""
    place = ".".join(str(step) for step in error["loc"])
    return WrongField(field=_shown(place)[:FIELD_LENGTH], detail=_shown(error["msg"]))


def _response(
    request: Request,
    kind: Kind,
    detail: str,
    errors: list[WrongField] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    problem = Problem(
        type=request.scope.get("root_path", "") + kind.type if kind.name else kind.type,
        title=kind.title,
        status=kind.status,
        detail=_shown(detail),
        instance=quote(_shown(request.scope["path"])),
        errors=errors,
    )
    return Response(json.dumps(problem.model_dump(exclude_none=True)), kind.status, headers, MEDIA_TYPE)


def _shown(text: str) -> str:
    """``text`` as others may see it: not long, no password, and no half of a character, which is no Unicode.

    What is cut off begins at a blank, for half of an address may hold a password that nobody recognises.
    """
    short = text if len(text) <= LONGEST else text[:LONGEST].rpartition(" ")[0] + "…"
    return redact(short).encode("utf-8", "replace").decode()
