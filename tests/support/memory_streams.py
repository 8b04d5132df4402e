"""Streams that a list holds instead of a supervisor, for tests of whoever asks."""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline.serving.streams import (
    DuplicateStreamError,
    StreamSpec,
    StreamView,
    TooManyStreamsError,
    UnknownStreamError,
    WorkerView,
)

BEGAN = datetime(2026, 11, 3, 12, 30, tzinfo=UTC)


class MemoryStreams:
    """See ``Streams``; what is in ``broken`` is raised by every method."""

    def __init__(self, *views: StreamView, room: int = 1000) -> None:
        self.found = {view.id: view for view in views}
        self.added: list[StreamSpec] = []
        self.running = [WorkerView(name="partition-0", state="running")]
        self.broken: Exception | None = None
        self._room = room

    async def add(self, spec: StreamSpec) -> StreamView:
        self._answer()
        if spec.id in self.found:
            message = f"there is a stream {spec.id!r} already; remove it first"
            raise DuplicateStreamError(message)
        if len(self.found) >= self._room:
            message = f"there is no room for stream {spec.id!r}"
            raise TooManyStreamsError(message)
        self.added.append(spec)
        self.found[spec.id] = camera(spec.id, "reconnecting", reason="not connected yet")
        return self.found[spec.id]

    async def remove(self, stream: str) -> None:
        await self.stream(stream)
        del self.found[stream]

    async def streams(self) -> list[StreamView]:
        self._answer()
        return [self.found[name] for name in sorted(self.found)]

    async def stream(self, stream: str) -> StreamView:
        self._answer()
        if stream not in self.found:
            message = f"there is no stream {stream!r}"
            raise UnknownStreamError(message)
        return self.found[stream]

    async def workers(self) -> list[WorkerView]:
        self._answer()
        return self.running

    def _answer(self) -> None:
        if self.broken:
            raise self.broken


def camera(name: str, state: str = "online", **more: object) -> StreamView:
    """A camera that does well, unless something else is said."""
    return StreamView.model_validate({"id": name, "source": "rtsp", "state": state, "since": BEGAN, **more})
