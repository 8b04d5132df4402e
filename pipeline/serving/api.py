"""The HTTP interface of the running system: cameras come and go, and everybody sees how each stream does."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, SecretStr
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from pipeline.edges.status import State
from pipeline.serving import problems
from pipeline.serving.api_settings import ApiSettings
from pipeline.serving.problems import Problem, answer_with_problems, declared
from pipeline.serving.streams import (
    NotReadyError,
    StreamPage,
    Streams,
    StreamSpec,
    StreamView,
    WorkerView,
    checked,
)

__all__ = ["ApiSettings", "api"]

BODY_BYTES = 64 * 1024
ANSWER_S, READY_S = 10.0, 2.0  # how long an answer may take, and one that says that the system is ready

Answer = TypeVar("Answer")
Id = Annotated[str, Path(description="Id of the stream; a slash in it is written %2F.", examples=["lobby"])]


@dataclass(frozen=True, slots=True)
class Desk:
    """What the routes of one API work with."""

    streams: Callable[[], Streams]
    token: SecretStr | None
    answer_s: float
    ready_s: float

    async def ask(self, question: Callable[[Streams], Awaitable[Answer]], within_s: float | None = None) -> Answer:
        """The answer of the streams to a question.

        Raises:
            NotReadyError: There was none within ``within_s``, or the time that this API allows.
        """
        limit_s = self.answer_s if within_s is None else within_s
        try:
            async with asyncio.timeout(limit_s):
                streams = await asyncio.to_thread(self.streams)  # looking up an actor may block
                return await question(streams)
        except TimeoutError as error:
            message = f"the supervisor gave no answer within {limit_s:g} s; it may still do what it was asked for"
            raise NotReadyError(message) from error


class Guarded(APIRoute):
    """A route that wants the token before it reads a body, and that never reads a long one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            _admit(request)
            return await handle(Request(request.scope, _limited(request.receive)))

        return guarded


class Health(BaseModel):
    """That all is well; where it is not, the answer is a problem."""

    status: Literal["live", "ready"]


class WorkerList(BaseModel):
    """Every worker, by name."""

    workers: list[WorkerView]


BEARER = HTTPBearer(auto_error=False, description="The token of the API, where it was started with one.")
LOCATION = {"description": "Address of the stream.", "schema": {"type": "string"}}

guarded = APIRouter(
    prefix="/v1",
    route_class=Guarded,
    dependencies=[Security(BEARER)],
    responses=declared(problems.UNAUTHORIZED, problems.NOT_READY, problems.UNEXPECTED),
)
public = APIRouter()


@guarded.post(
    "/streams",
    tags=["streams"],
    summary="Add a camera",
    response_description="The camera is being watched.",
    status_code=201,
    responses={
        **declared(
            problems.NO_JSON,
            problems.DUPLICATE_STREAM,
            problems.TOO_LARGE,
            problems.INVALID_STREAM,
            problems.INVALID_REQUEST,
            problems.TOO_MANY_STREAMS,
            problems.NOT_READY,
        ),
        201: {"headers": {"Location": LOCATION}},
    },
)
async def add_stream(spec: StreamSpec, request: Request, response: Response) -> StreamView:
    """Begin to watch a camera. The answer does not wait for its first picture: see the state of the stream."""
    stream = checked(spec)
    view = await _desk(request).ask(lambda streams: streams.add(stream))
    response.headers["Location"] = request.url_for("get_stream", stream=view.id).path
    return view


@guarded.get(
    "/streams",
    tags=["streams"],
    summary="List the streams",
    response_description="How each of them does.",
    responses=declared(problems.INVALID_REQUEST),
)
async def list_streams(
    request: Request,
    state: Annotated[list[State], Query(default_factory=list, description="Only streams in one of these states.")],
    after: Annotated[str, Query(max_length=4096, description="Only streams whose id comes after this one.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="Most streams to give.")] = 100,
) -> StreamPage:
    """Every stream, by id: cameras that were added, and streams of the video topic that were seen."""
    found = await _desk(request).ask(lambda streams: streams.streams())
    wanted = sorted((view for view in found if not state or view.state in state), key=lambda view: view.id)
    rest = [view for view in wanted if view.id > after]
    return StreamPage(
        streams=rest[:limit],
        total=len(wanted),
        next=rest[limit - 1].id if len(rest) > limit else None,
    )


@guarded.get(
    "/streams/{stream:path}",
    tags=["streams"],
    summary="Show a stream",
    response_description="How it does.",
    responses=declared(problems.UNKNOWN_STREAM, problems.INVALID_REQUEST),
)
async def get_stream(stream: Id, request: Request) -> StreamView:
    """How one stream does."""
    return await _desk(request).ask(lambda streams: streams.stream(stream))


@guarded.delete(
    "/streams/{stream:path}",
    tags=["streams"],
    summary="Remove a camera",
    response_description="The camera is no longer watched.",
    status_code=204,
    response_class=Response,
    responses=declared(problems.UNKNOWN_STREAM, problems.INVALID_REQUEST),
)
async def remove_stream(stream: Id, request: Request) -> None:
    """Stop watching a camera, once what is on its way is delivered."""
    await _desk(request).ask(lambda streams: streams.remove(stream))


@guarded.get("/workers", tags=["workers"], summary="List the workers", response_description="How each of them does.")
async def list_workers(request: Request) -> WorkerList:
    """Every worker, by name: one for each partition of the video topic, and one for each camera."""
    return WorkerList(workers=await _desk(request).ask(lambda streams: streams.workers()))


@public.get("/health/live", tags=["health"], summary="Is the API alive?", response_description="It is.")
async def live() -> Health:
    """Whether this process answers; nobody else is asked."""
    return Health(status="live")


@public.get(
    "/health/ready",
    tags=["health"],
    summary="Does the system work?",
    response_description="It does.",
    responses=declared(problems.NOT_READY),
)
async def ready(request: Request) -> Health:
    """Whether the supervisor answers, and at least one worker runs."""
    desk = _desk(request)
    workers = await desk.ask(lambda streams: streams.workers(), desk.ready_s)
    if not any(worker.state == "running" for worker in workers):
        reason = next((f": {worker.name} waits, {worker.reason}" for worker in workers if worker.reason), "")
        message = f"none of {len(workers)} workers runs{reason}" if workers else "there is no worker yet"
        raise NotReadyError(message)
    return Health(status="ready")


@public.get(
    "/problems/{name}",
    tags=["problems"],
    summary="Explain a type of problems",
    response_description="What it means.",
    response_model_exclude_none=True,
    responses=declared(problems.NOT_FOUND, problems.INVALID_REQUEST),
)
async def explain_problem(name: str, request: Request) -> Problem:
    """What a kind of problem means; its `type` leads here."""
    if name not in problems.NAMED:
        raise HTTPException(404)
    problem = problems.NAMED[name].problem()
    return problem.model_copy(update={"type": request.scope.get("root_path", "") + problem.type})


def api(
    streams: Streams | Callable[[], Streams],
    token: SecretStr | None = None,
    *,
    answer_s: float = ANSWER_S,
    ready_s: float = READY_S,
) -> FastAPI:
    """The API over ``streams``.

    Args:
        streams: What the supervisor does, or how to find it: a callable is asked again at each request, on a
            thread, and may raise `NotReadyError`.
        token: What a client must show; anybody is let in if None. Health needs none.
        answer_s: How long the supervisor may take for an answer.
        ready_s: The same, for ``/health/ready``.
    """
    app = FastAPI(
        title="omote",
        summary="Cameras that come and go, and how each stream does.",
        description="Every error is a problem of RFC 9457; `type` says of which kind, and leads to what it means.",
        version="1.0.0",
        openapi_tags=[
            {"name": "streams", "description": "Cameras and streams of the video topic."},
            {"name": "workers", "description": "What reads the streams."},
            {"name": "health", "description": "For whoever looks after the API; needs no token."},
            {"name": "problems", "description": "What the types of problems mean; needs no token."},
        ],
        generate_unique_id_function=lambda route: route.name,
        redoc_url=None,
        redirect_slashes=False,
    )
    find = streams if callable(streams) else lambda: streams
    app.state.desk = Desk(find, token, answer_s, ready_s)
    app.include_router(guarded)
    app.include_router(public)
    answer_with_problems(app)
    return app


def _desk(request: Request) -> Desk:
    return cast("Desk", request.app.state.desk)


def _admit(request: Request) -> None:
    """Let nobody in without the token; how long a comparison takes says nothing about it."""
    token = _desk(request).token
    if token is None:
        return
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    right = secrets.compare_digest(shown.strip().encode("latin-1"), token.get_secret_value().encode())
    if scheme.lower() != "bearer" or not right:
        raise HTTPException(401, headers={"WWW-Authenticate": 'Bearer realm="omote"'})


def _limited(receive: Receive) -> Receive:
    """``receive`` as long as the body is not too long, however it is sent."""
    left = BODY_BYTES

    async def limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            text = f"the body is longer than {BODY_BYTES} bytes"
            raise HTTPException(413, text)
        return message

    return limited
