"""Plays a source as video messages: once or in a loop, as fast as can be or at the pace at which it was taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count, groupby

from pipeline.edges import Source
from pipeline.edges.video_cutting import STEP_NS
from pipeline.edges.video_messages import CONTAINERS, VideoMessage
from pipeline.packets import Chunk

Opener = Callable[[], Source]
Cutter = Callable[[Iterable[Chunk]], Iterator[VideoMessage]]


def played(opener: Opener, cutter: Cutter, loops: int = 1) -> Iterator[VideoMessage]:
    """The messages of a source, ``loops`` times on end as one stream; for ever if 0.

    Raises:
        SourceError: The source cannot be opened or read.
    """
    numbers, shift_ns = count(), 0
    for _ in range(loops) if loops else count():
        extent = Extent()
        with closing(opener()) as source:
            for message in cutter(extent.watching(source)):
                yield replace(message, seq=next(numbers), pts_ns=message.pts_ns + shift_ns)
        shift_ns += extent.end_ns


class Extent:
    """How far stream time goes."""

    def __init__(self) -> None:
        self._last_ns = self._before_ns = -STEP_NS

    @property
    def end_ns(self) -> int:
        """When the picture after the last would be shown."""
        step_ns = self._last_ns - self._before_ns
        return self._last_ns + (step_ns if 0 < step_ns < 10 * STEP_NS else STEP_NS)

    def watching(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """``chunks`` as they are."""
        for chunk in chunks:
            times = sorted({unit.pts_ns for unit in chunk.units if unit.pts_ns is not None} | {self._last_ns})
            self._before_ns, self._last_ns = times[-2:] if len(times) > 1 else (self._before_ns, times[-1])
            yield chunk


def recorded(messages: Iterable[VideoMessage], *, realtime: bool) -> Iterator[VideoMessage]:
    """Messages of a recording as if it were taken now; the last one says that it is the last.

    With ``realtime`` each comes when its last picture would have been taken, else at once.
    """
    began_ns, length_ns = time.time_ns(), 0
    start_ns: int | None = None
    for message, following in _with_next(messages):
        start_ns = message.pts_ns if start_ns is None else start_ns
        length_ns = following.pts_ns - message.pts_ns if following else length_ns
        taken_ns = began_ns + message.pts_ns - start_ns
        if realtime:
            whole = length_ns if message.content_type in CONTAINERS else 0
            time.sleep(max(0, taken_ns + whole - time.time_ns()) / 1e9)
        capture_ns = taken_ns if realtime else time.time_ns()
        yield replace(message, capture_ns=capture_ns, eos=following is None)


def live(messages: Iterable[VideoMessage]) -> Iterator[VideoMessage]:
    """Messages of a camera: numbered anew in each connection, taken now where nobody says when."""
    for _, connection in groupby(messages, key=lambda message: message.epoch):
        for seq, message in enumerate(connection):
            yield replace(message, seq=seq, capture_ns=message.capture_ns or time.time_ns())


def _with_next(messages: Iterable[VideoMessage]) -> Iterator[tuple[VideoMessage, VideoMessage | None]]:
    before: VideoMessage | None = None
    for message in messages:
        if before is not None:
            yield before, message
        before = message
    if before is not None:
        yield before, None
