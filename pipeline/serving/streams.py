"""What a user may ask of the running system, and how it answers: cameras that come and go, and how each stream does."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from pipeline.edges.backlog import Keep
from pipeline.edges.status import State
from pipeline.errors import PipelineError, SourceError
from pipeline.redact import redact

STREAM_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
SECRETS = "OMOTE_CAMERA_SECRETS"
# Who may add a camera chooses the host that gets the value, so no other variable can be had this way.
VARIABLE = re.compile(r"\$\{(OMOTE_CAMERA_(?!SECRETS\})[A-Za-z0-9_]+)\}")


class InvalidStreamError(PipelineError):
    """The stream as it is described can never be read."""


class DuplicateStreamError(PipelineError):
    """There is a stream of this id already."""


class UnknownStreamError(PipelineError):
    """There is no stream of this id."""


class TooManyStreamsError(PipelineError):
    """There is no room for one more stream."""


class NotReadyError(PipelineError):
    """A part of the system that the answer needs is away; ask again later."""


class StreamSpec(BaseModel):
    """A camera that somebody wants to be watched.

    Attributes:
        id: Id of the stream: key of its messages, and part of the ids of its tracks.
        url: ``rtsp://`` or ``rtsps://``. A password is never written here: ``${OMOTE_CAMERA_LOBBY}`` stands for the
            value of that variable where the worker runs.
        keep: What gives way where analysis is slower than the camera; see ``RtspSource``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: Annotated[str, Field(pattern=STREAM_ID, examples=["lobby"])]
    url: Annotated[str, Field(min_length=1, max_length=2048, examples=["rtsp://camera.example/1"])]
    keep: Keep = "latest"


class StreamView(BaseModel):
    """How a stream does.

    Attributes:
        id: Id of the stream.
        source: ``rtsp``, or ``kafka`` for one that comes in the video topic.
        state: ``rejected`` is the word for a stream that was not taken.
        reason: Why it is not online, one sentence; empty where it is.
        epoch: Number of its last connection.
        last_pts_ns: Stream time of what was last delivered.
        since: Wall clock at which the state began.
        worker: Name of the worker that has it.
        frames: Frames delivered by this worker since it began.
        dropped: Units left out, by reason.
    """

    model_config = ConfigDict(frozen=True)
    id: str = Field(examples=["lobby"])
    source: Literal["kafka", "rtsp"]
    state: State
    reason: str = Field(default="", examples=["nothing listens at this host and port"])
    epoch: int = Field(default=0, examples=[3])
    last_pts_ns: int = Field(default=0, examples=[61_480_000_000])
    since: datetime
    worker: str = Field(default="", examples=["camera-lobby"])
    frames: int = Field(default=0, examples=[1537])
    dropped: dict[str, int] = Field(default={}, examples=[{"late": 24}])


class WorkerView(BaseModel):
    """How a worker does.

    Attributes:
        name: ``partition-0``, or ``camera-lobby``.
        state: ``starting`` until it reads for the first time, or again after it died; ``waiting`` where something
            it needs is away and it tries again by itself.
        reason: Why it waits, one sentence; while it tries again, why it had to.
        pid: Its process.
        node: Id of the node that it runs on.
        idle_s: Seconds since it last made progress: a wait for video that is not there yet is progress, too.
    """

    model_config = ConfigDict(frozen=True)
    name: str = Field(examples=["camera-lobby"])
    state: Literal["starting", "running", "waiting"]
    reason: str = Field(default="", examples=["no Kafka answers at localhost:9092"])
    pid: int = Field(default=0, examples=[4711])
    node: str = ""
    idle_s: float = 0.0


class Streams(Protocol):
    """What the supervisor does for its users; the API and the command line know no more of it."""

    async def add(self, spec: StreamSpec) -> StreamView:
        """Begin to watch a camera.

        Raises:
            InvalidStreamError: The URL is none of RTSP, or holds a password.
            DuplicateStreamError: There is a stream of this id.
            TooManyStreamsError: There is no room; the others go on as before.
            NotReadyError: The registry is away.
        """

    async def remove(self, stream: str) -> None:
        """Stop watching a camera, once what is on its way is delivered.

        Raises:
            UnknownStreamError: No camera of this id was added.
            NotReadyError: The registry is away.
        """

    async def streams(self) -> list[StreamView]:
        """Every stream, by id: cameras that were added, and streams of the video topic that were seen."""

    async def stream(self, stream: str) -> StreamView:
        """One of them.

        Raises:
            UnknownStreamError: There is none of this id.
        """

    async def workers(self) -> list[WorkerView]:
        """Every worker, by name."""


class StreamPage(BaseModel):
    """Some of the streams, by id.

    Attributes:
        streams: Not more of them than were asked for.
        total: How many there are on all pages.
        next: Give it as ``after`` for the next page; None on the last one.
    """

    model_config = ConfigDict(frozen=True)
    streams: list[StreamView]
    total: int
    next: str | None = None


def checked(spec: StreamSpec) -> StreamSpec:
    """``spec``, where its address can be one of a camera; nothing is opened, and no variable is looked up.

    Raises:
        InvalidStreamError: It cannot, or it holds what belongs into a variable. The sentence never holds the
            address, for nobody knows what somebody has written there.
    """
    if reason := _wrong(spec.url):
        message = f"stream {spec.id!r}: {reason}"
        raise InvalidStreamError(message)
    return spec


def expanded(url: str) -> str:
    """``url`` with the values of its variables; the result is a secret.

    ``${OMOTE_CAMERA_LOBBY}`` is what the file of that name holds in the folder ``OMOTE_CAMERA_SECRETS``, or else the
    variable of the environment. It may be the whole address, or ``user:password`` of it, percent-encoded.

    Raises:
        InvalidStreamError: A variable has no value, or with them this is no RTSP address. The sentence names
            the variables, never a value.
    """
    found = VARIABLE.sub(lambda match: _secret(match[1]), url)
    if not _is_rtsp(found):
        names = ", ".join(VARIABLE.findall(url)) or "none"
        message = f"the address is none of RTSP once its variables ({names}) have their values; give rtsp://host/path"
        raise InvalidStreamError(message)
    return found


def _wrong(url: str) -> str:
    """Why this can be no address of a camera; empty if it can."""
    bare = re.sub(r"://:?@", "://", VARIABLE.sub("", url))  # what stands here for everybody to see
    if "${" in bare:
        return "variables in an address have names that begin with OMOTE_CAMERA_, such as ${OMOTE_CAMERA_LOBBY}"
    if not url.isprintable() or re.search(r'[\s"<>]', url):
        return "the address holds a space or another character that must be written with %, such as %20"
    if redact(bare) != bare:
        return (
            "the address holds a user or password; put user:password into a variable where the workers run, and "
            "write ${OMOTE_CAMERA_LOBBY} in their place, or the whole address into one (in a shell in single quotes; "
            "an @ in a path is written %40)"
        )
    if not VARIABLE.fullmatch(url) and not _is_rtsp(VARIABLE.sub("1", url)):
        return "the address is none of RTSP; give rtsp://host:554/path or rtsps://host:322/path"
    return ""


def _is_rtsp(url: str) -> bool:
    from pipeline.edges.rtsp import RtspSource  # noqa: PLC0415  (FFmpeg is slow to load)

    try:
        RtspSource(url, "stream")  # opens nothing before it is iterated over
    except SourceError:
        return False
    return True


def _secret(name: str) -> str:
    folder = os.environ.get(SECRETS)
    try:
        if folder and (file := Path(folder, name)).is_file():
            return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        message = f"the file {name} in {folder} cannot be read"
        raise InvalidStreamError(message) from None  # what could not be decoded is part of the cause
    if value := os.environ.get(name):
        return value
    also = f", and {folder} holds no file of that name" if folder else ""
    message = f"the variable {name} is not set where the worker runs{also}"
    raise InvalidStreamError(message)
