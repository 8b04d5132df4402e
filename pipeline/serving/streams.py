"""What a user may ask of the running system, and how it answers: cameras that come and go, and how each stream does."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import PipelineError

STREAM_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

State = Literal["online", "reconnecting", "offline", "rejected"]


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
    keep: Literal["lossless", "latest", "adaptive"] = "latest"


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
    id: str
    source: Literal["kafka", "rtsp"]
    state: State
    reason: str = ""
    epoch: int = 0
    last_pts_ns: int = 0
    since: datetime
    worker: str = ""
    frames: int = 0
    dropped: dict[str, int] = {}


class WorkerView(BaseModel):
    """How a worker does.

    Attributes:
        name: ``partition-0``, or ``camera-lobby``.
        state: ``starting`` until it reads for the first time, or again after it died; ``waiting`` where something
            it needs is away and it tries again by itself.
        reason: Why it waits, one sentence.
        pid: Its process.
        node: Id of the node that it runs on.
        idle_s: Seconds since it last made progress: a wait for video that is not there yet is progress, too.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    state: Literal["starting", "running", "waiting"]
    reason: str = ""
    pid: int = 0
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
