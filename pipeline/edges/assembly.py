"""Turns the messages of one partition into chunks, in order within each stream, and knows what may be committed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.edges.video_messages import (
    ACCESS_UNIT,
    CONTAINERS,
    BrokerChunk,
    Message,
    Poison,
    VideoMessage,
    chunks,
    pictures,
    read,
    together,
)
from pipeline.errors import SourceError
from pipeline.packets import Codec

SINGLES = 8  # messages of one picture that make a chunk
LONGEST_GOP_MS = 60_000  # a stream that is silent for longer holds up no offset
FORGOTTEN = 100_000  # messages of others after which a stream is forgotten, so that names do not pile up for ever


@dataclass(slots=True)
class Progress:
    """How far one stream is.

    Attributes:
        position: Messages before this offset were analysed by whoever was here before.
        seen: Offset of the last message.
        epoch: Epoch of the last chunk.
        waiting: Single pictures that are not a chunk yet, oldest first.
        since_s: When the oldest of them came, by the clock of the assembly.
        replay: Access units since the last key frame that were analysed before.
        key: Offset and time of the last key frame that later access units may refer to; None if none may.
        lost: Whether the next access unit cannot be decoded, for its key frame is not there.
        dropped: Pictures left out since the last chunk.
    """

    position: int = 0
    seen: int = 0
    epoch: int = 0
    waiting: list[tuple[VideoMessage, Message]] = field(default_factory=list)
    since_s: float = 0.0
    replay: list[tuple[VideoMessage, Message]] = field(default_factory=list)
    key: tuple[int, int] | None = None
    lost: bool = True
    dropped: int = 0

    @property
    def holds(self) -> bool:
        """Whether any of its messages may be needed again."""
        return bool(self.waiting or self.key)


class Assembly:
    """The messages of one partition on their way to chunks.

    A container becomes chunks at once. Single pictures are put together by their ``seq``, 8 in a chunk, so that
    the same messages always make the same chunks.

    Attributes:
        drops: Pictures left out, by stream and reason: ``behind`` or ``no key frame``.
    """

    def __init__(
        self,
        positions: Mapping[str, int] | None = None,
        units: int = 16,
        alone: Collection[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            positions: Offset by stream before which everything was analysed already.
            units: Most encoded units in a chunk.
            alone: Offsets of single pictures that make a chunk each, for one of them did harm to its companions.
            clock: Seconds, for how long a picture has waited.
        """
        self._units, self._singles, self._alone, self._clock = units, min(units, SINGLES), alone, clock
        self._streams = {stream: Progress(position, position) for stream, position in (positions or {}).items()}
        self._holding: dict[str, Progress] = {}  # streams that may hold up the watermark
        self._next = self._now_ms = self._swept = 0
        self.drops: Counter[tuple[str, str]] = Counter()

    def take(self, message: Message) -> Iterator[BrokerChunk]:
        """What ``message`` completes. A message that cannot be read is given as `Poison`."""
        # What is given now may be older than the message: as long as that is not given, too, it must be read again.
        self._next, self._now_ms = message.offset, max(self._now_ms, message.time_ms)
        progress = self._holding[message.stream] = self._of(message)
        try:
            video = read(message)
            if video.content_type in CONTAINERS:
                yield from self._container(video, message, progress)
            else:
                yield from self._single(video, message, progress)
        except SourceError as error:
            if message.offset >= progress.position:
                yield from self._given(progress)
                yield self._poison(message, progress.epoch, str(error))
        self._next = message.offset + 1
        if not progress.holds:
            del self._holding[message.stream]

    def settle(self, waited_s: float = 0.0) -> Iterator[BrokerChunk]:
        """What has waited for companions for at least ``waited_s``, without them."""
        for progress in self._holding.values():
            if self._clock() - progress.since_s >= waited_s:
                yield from self._given(progress)
        self._holding = {stream: progress for stream, progress in self._holding.items() if progress.holds}

    @property
    def waits(self) -> bool:
        """Whether a picture waits for companions."""
        return any(progress.waiting for progress in self._holding.values())

    def leave_out(self, messages: Sequence[Message]) -> None:
        """Count messages that nobody has the time to look at."""
        for message in messages:
            progress = self._of(message)
            self._next = max(self._next, message.offset + 1)
            if message.offset >= progress.position:
                self._drop(progress, message, "behind")

    def _container(self, video: VideoMessage, message: Message, progress: Progress) -> Iterator[BrokerChunk]:
        if message.offset < progress.position:
            return
        made = chunks(video, message, self._units)
        yield from self._given(progress)
        progress.key, progress.lost = None, True
        for chunk in made:
            yield self._finished(chunk, progress)

    def _single(self, video: VideoMessage, message: Message, progress: Progress) -> Iterator[BrokerChunk]:
        moving = video.content_type == ACCESS_UNIT
        if message.offset < progress.position:
            if moving:
                _remember(video, message, progress)
            return
        if moving and progress.lost and not video.keyframe and not progress.replay:
            self._drop(progress, message, "no key frame")
            return
        alone = message.offset in self._alone
        if progress.waiting and (alone or _apart(progress.waiting[-1][0], video)):
            yield from self._given(progress)
        if progress.replay and not video.keyframe:
            yield self._replayed(progress)
        progress.replay.clear()
        if moving:
            _hold(video, message, progress)
        if not progress.waiting:
            progress.since_s = self._clock()
        progress.waiting.append((video, message))
        full = alone or len(progress.waiting) >= self._singles or video.seq % self._singles == self._singles - 1
        if full or video.eos:
            yield from self._given(progress)

    def _given(self, progress: Progress) -> Iterator[BrokerChunk]:
        if not progress.waiting:
            return
        videos, messages = zip(*progress.waiting, strict=True)
        progress.waiting.clear()
        yield self._finished(together(videos, messages), progress)

    def _replayed(self, progress: Progress) -> BrokerChunk:
        """What was analysed before and is referred to by what comes now."""
        videos, messages = zip(*progress.replay, strict=True)
        _hold(videos[0], messages[0], progress)
        chunk = replace(
            together(videos, messages),
            position=progress.position,
            messages=(),
            watermark=self._watermark(),
            partial=True,
            replayed=True,
        )
        progress.replay.clear()
        return chunk

    def _finished(self, chunk: BrokerChunk, progress: Progress) -> BrokerChunk:
        dropped, progress.dropped, progress.epoch = progress.dropped, 0, chunk.epoch
        self._next = max(self._next, chunk.position)
        return replace(chunk, dropped=dropped, watermark=self._watermark())

    def _poison(self, message: Message, epoch: int, reason: str) -> Poison:
        self._next = message.offset + 1
        return Poison(
            message.stream,
            epoch,
            0,
            0,
            Codec(""),
            (),
            position=message.offset + 1,
            messages=(message,),
            watermark=self._watermark(),
            reason=reason,
        )

    def _of(self, message: Message) -> Progress:
        """How far the stream of a message is; those that came no more are forgotten from time to time."""
        if message.offset - self._swept > FORGOTTEN:
            self._swept = message.offset
            silent = [n for n, p in self._streams.items() if message.offset - p.seen > FORGOTTEN and not p.waiting]
            for stream in silent:
                del self._streams[stream]
                self._holding.pop(stream, None)
        progress = self._streams.setdefault(message.stream, Progress())
        progress.seen = message.offset
        return progress

    def _watermark(self) -> int:
        """Everything before it is done with, once all that was given is."""
        holds = [self._next]
        for progress in self._holding.values():
            holds += [message.offset for _, message in progress.waiting[:1]]
            if progress.key and self._now_ms - progress.key[1] < LONGEST_GOP_MS:
                holds.append(progress.key[0])
        return min(holds)

    def _drop(self, progress: Progress, message: Message, reason: str) -> None:
        try:
            count = pictures(read(message))
        except SourceError:
            count = 1
        progress.dropped += count
        self.drops[message.stream, reason] += count


def _remember(video: VideoMessage, message: Message, progress: Progress) -> None:
    """Keep an access unit that was analysed before, as far as later ones may refer to it."""
    if video.keyframe:
        progress.replay.clear()
    if video.keyframe or progress.replay:
        progress.replay.append((video, message))


def _hold(video: VideoMessage, message: Message, progress: Progress) -> None:
    """Remember where decoding could start again."""
    progress.lost = False
    if video.keyframe:
        progress.key = (message.offset, message.time_ms)
    if video.eos:
        progress.key, progress.lost = None, True


def _apart(before: VideoMessage, after: VideoMessage) -> bool:
    return (before.epoch, before.content_type) != (after.epoch, after.content_type)


def newest(messages: Sequence[Message], patience_ms: float) -> tuple[list[Message], list[Message]]:
    """``messages`` of one partition parted into those to analyse and those to leave out, each in order.

    A stream whose messages span more than ``patience_ms`` keeps those from its last key frame on.
    """
    of: dict[str, list[Message]] = {}
    for message in messages:
        of.setdefault(message.stream, []).append(message)
    left_out = {m.offset for own in of.values() if own[-1].time_ms - own[0].time_ms > patience_ms for m in _late(own)}
    return [m for m in messages if m.offset not in left_out], [m for m in messages if m.offset in left_out]


def _late(own: Sequence[Message]) -> Sequence[Message]:
    keys = [index for index, message in enumerate(own) if message.said.get("keyframe", "1") == "1"]
    return own[: keys[-1]] if keys else ()
