"""Video as messages of a broker: what the headers say, and how a message becomes chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from typing import Literal

import av
import av.error
import numpy as np

from pipeline.edges.units import codec_of, unit_of
from pipeline.errors import SourceError
from pipeline.packets import Chunk, Codec, Origin, Unit
from pipeline.reading import understood

ContentType = Literal["video/mp4", "video/mp2t", "video/h264;unit=au", "image/jpeg"]
CONTAINERS = {"video/mp4": "mp4", "video/mp2t": "mpegts"}
ACCESS_UNIT, JPEG = "video/h264;unit=au", "image/jpeg"
BEGINNINGS = {ACCESS_UNIT: (b"\0\0\1", b"\0\0\0\1"), JPEG: (b"\xff\xd8",)}  # a container is opened to see
CONTENT_TYPES = (*CONTAINERS, ACCESS_UNIT, JPEG)
NUMBERS = ("epoch", "seq", "pts-ns", "frames", "width", "height", "dlq-origin-time")
SCHEMA = "omote.video/1.0"  # what the headers of a video message mean

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the broker gave it, and where it lies.

    Attributes:
        topic: Its topic.
        partition: Its partition.
        offset: Its offset in the partition.
        key: Its key, if it has one.
        value: Its bytes.
        headers: Names and values.
        time_ms: Its timestamp, milliseconds since 1970; 0 where it has none.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    time_ms: int = 0

    @property
    def said(self) -> dict[str, str]:
        """The headers by name."""
        return {name: content.decode(errors="replace") for name, content in self.headers}

    @property
    def stream(self) -> str:
        """Id of its stream; empty where nobody said."""
        return self.said.get("stream-id") or (self.key or b"").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class BrokerChunk(Chunk):
    """A chunk that came through a broker; its ``position`` is the offset after its last message, in its own stream.

    Attributes:
        messages: What it was made of, for the dead-letter topic.
        watermark: Offset from which the partition must be read again once this chunk is committed. It lags behind
            ``position`` while messages of other streams wait, or while pictures refer to an earlier key frame.
        partial: Whether more of its message follows, or it is replayed: nothing may be committed yet.
    """

    source: Origin = "kafka"
    messages: tuple[Message, ...] = ()
    watermark: int = 0
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Poison(BrokerChunk):
    """A message that cannot be read: no units, and the ``reason``. It belongs in the dead-letter topic."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class VideoMessage:
    """What one message of the video topic means.

    Attributes:
        stream: Id of the stream; the key of the message.
        epoch: Epoch of the stream.
        seq: Number of the message in its epoch.
        pts_ns: Presentation time of its first picture.
        content_type: A self-contained ``video/mp4`` or ``video/mp2t`` chunk that begins with a key frame, one
            H.264 access unit (Annex B, no B-frames), or one JPEG.
        data: The encoded bytes.
        keyframe: Whether decoding may start with it.
        eos: Whether the stream is over after it.
        capture_ns: Wall clock of the capture, nanoseconds since 1970; 0 where it is not known.
        frames: Encoded pictures in it; 0 if unknown. A container that holds fewer was cut off on its way.
        codec: Name of the codec in a container; empty if unknown.
        width: Width in pixels, 0 if unknown.
        height: Height in pixels, 0 if unknown.
    """

    stream: str
    epoch: int
    seq: int
    pts_ns: int
    content_type: str
    data: bytes
    keyframe: bool = True
    eos: bool = False
    capture_ns: int = 0
    frames: int = 0
    codec: str = ""
    width: int = 0
    height: int = 0

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Headers of the Kafka message."""
        said = {
            "schema": SCHEMA,
            "content-type": self.content_type,
            "stream-id": self.stream,
            "epoch": self.epoch,
            "seq": self.seq,
            "pts-ns": self.pts_ns,
            "keyframe": int(self.keyframe),
            "eos": int(self.eos),
        }
        known = {name: value for name in ("frames", "codec", "width", "height") if (value := getattr(self, name))}
        return [(name, str(value).encode()) for name, value in {**said, **known}.items()]


def read(message: Message) -> VideoMessage:
    """The message as its headers describe it.

    Raises:
        SourceError: A header is missing or wrong, or of a version from the future, or there is no value.
    """
    said, stream = message.said, message.stream
    content_type = said.get("content-type", "video/mp2t")
    for name in ("schema", "ce_dataschema"):
        if said.get(name, "").startswith("omote."):  # what others call their schemas is their own affair
            understood(said[name], (SCHEMA,))
    if not stream:
        text = "the message has neither a key nor a header `stream-id`, so nobody knows whose video it is"
        raise SourceError(text)
    if content_type not in CONTENT_TYPES:
        text = f"content-type {content_type!r} is not one of {', '.join(CONTENT_TYPES)}"
        raise SourceError(text)
    if not message.value:
        text = f"the message of stream {stream!r} is empty"
        raise SourceError(text)
    if not message.value.startswith(BEGINNINGS.get(content_type, b"")):
        text = f"the message of stream {stream!r} is no {content_type}"
        raise SourceError(text)
    numbers = {name: _number(said, name) for name in NUMBERS}
    return VideoMessage(
        stream,
        numbers["epoch"],
        numbers["seq"],
        numbers["pts-ns"],
        content_type,
        message.value,
        keyframe=said.get("keyframe", "1") == "1",
        eos=said.get("eos", "0") == "1",
        capture_ns=(numbers["dlq-origin-time"] or message.time_ms) * 1_000_000,
        frames=numbers["frames"],
        codec=said.get("codec", ""),
        width=numbers["width"],
        height=numbers["height"],
    )


def _number(said: Mapping[str, str], name: str) -> int:
    given = said.get(name, "0")
    try:
        return int(np.int64(given))
    except (ValueError, OverflowError) as error:
        message = f"header {name!r} must be a whole number of 64 bits, got {given[:40]!r}"
        raise SourceError(message) from error


def chunks(video: VideoMessage, message: Message, size: int = 16) -> list[BrokerChunk]:
    """The chunks in a container, of at most ``size`` units; all but the last are ``partial``.

    Raises:
        SourceError: A container that cannot be opened, holds no picture, or was cut off.
    """
    codec, found = _demuxed(video)
    cut = list(_cut(found, size))
    common = BrokerChunk(
        video.stream,
        video.epoch,
        video.seq,
        video.pts_ns,
        codec,
        (),
        position=message.offset + 1,
        messages=(message,),
        partial=True,
    )
    made = [
        replace(common, pts_ns=_first(batch, video), units=batch, capture_ns=_capture(batch, video)) for batch in cut
    ]
    return [*made[:-1], replace(made[-1], partial=False, closed=True, last=video.eos)]


def _first(batch: Sequence[Unit], video: VideoMessage) -> int:
    return video.pts_ns if batch[0].pts_ns is None else batch[0].pts_ns


def _capture(batch: Sequence[Unit], video: VideoMessage) -> int:
    return video.capture_ns and video.capture_ns + _first(batch, video) - video.pts_ns


def together(videos: Sequence[VideoMessage], messages: Sequence[Message]) -> BrokerChunk:
    """Messages of one picture each, of one epoch and one content type, as one chunk."""
    first, last = videos[0], videos[-1]
    return BrokerChunk(
        first.stream,
        first.epoch,
        first.seq,
        first.pts_ns,
        Codec("still" if first.content_type == JPEG else "h264"),
        tuple(Unit(each.data, each.pts_ns, each.pts_ns, each.keyframe) for each in videos),
        closed=last.eos,
        last=last.eos,
        position=messages[-1].offset + 1,
        capture_ns=first.capture_ns,
        messages=tuple(messages),
    )


def pictures(video: VideoMessage) -> int:
    """How many encoded pictures a message holds, as far as it can be told without its headers' help."""
    if video.content_type not in CONTAINERS:
        return 1
    try:
        return video.frames or len(_demuxed(video)[1])
    except SourceError:
        return 1


def _cut(found: Sequence[Unit], size: int) -> Iterator[tuple[Unit, ...]]:
    rest = iter(found)
    while batch := tuple(islice(rest, size)):
        yield batch


def _demuxed(message: VideoMessage) -> tuple[Codec, list[Unit]]:
    name = f"message {message.seq} of stream {message.stream!r}"
    try:
        with av.open(BytesIO(message.data), "r", format=CONTAINERS[message.content_type]) as container:
            if not container.streams.video:
                text = f"{name} has no video in its {message.content_type}"
                raise SourceError(text)
            video = container.streams.video[0]
            codec = codec_of(video)
            found = [unit_of(packet) for packet in container.demux(video) if packet.size]
    except (av.error.FFmpegError, ValueError) as error:
        text = f"{name} is no {message.content_type}: {getattr(error, 'strerror', None) or error}"
        raise SourceError(text) from error
    if len(found) < max(message.frames, 1):
        text = f"{name} holds {len(found)} of its {message.frames or 'unknown number of'} pictures; it was cut off"
        raise SourceError(text)
    return codec, _shifted(found, message.pts_ns)


def _shifted(found: Sequence[Unit], start_ns: int) -> list[Unit]:
    """The units in stream time: a container counts from wherever it likes."""
    shift = start_ns - min((unit.pts_ns for unit in found if unit.pts_ns is not None), default=0)
    return [
        replace(
            unit,
            pts_ns=None if unit.pts_ns is None else unit.pts_ns + shift,
            dts_ns=None if unit.dts_ns is None else unit.dts_ns + shift,
        )
        for unit in found
    ]
