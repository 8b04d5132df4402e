"""Video as messages of a broker: what the headers say, and how a message becomes chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Literal

import av
import av.error

from pipeline.errors import SourceError
from pipeline.packets import Chunk, Codec, Unit

ContentType = Literal["video/mp4", "video/mp2t", "video/h264;unit=au", "image/jpeg"]
CONTAINERS = {"video/mp4": "mp4", "video/mp2t": "mpegts"}
CONTENT_TYPES = (*CONTAINERS, "video/h264;unit=au", "image/jpeg")

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class VideoMessage:
    """One message of the video topic.

    Attributes:
        stream: Id of the stream; the key of the message.
        epoch: Epoch of the stream.
        seq: Number of the message in its epoch.
        pts_ns: Presentation time of its first picture.
        content_type: A self-contained ``video/mp4`` or ``video/mp2t`` chunk that begins with a key frame, one
            H.264 access unit, or one JPEG.
        data: The encoded bytes.
        keyframe: Whether decoding may start with it.
        eos: Whether the stream is over after it.
        capture_ns: Wall clock of the capture, nanoseconds since 1970; 0 where it is not known.
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

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Headers of the Kafka message."""
        said = {
            "content-type": self.content_type,
            "stream-id": self.stream,
            "epoch": str(self.epoch),
            "seq": str(self.seq),
            "pts-ns": str(self.pts_ns),
            "keyframe": str(int(self.keyframe)),
            "eos": str(int(self.eos)),
        }
        return [(name, value.encode()) for name, value in said.items()]


def read(key: bytes | None, value: bytes | None, headers: Headers, capture_ns: int) -> VideoMessage:
    """The message as its headers describe it.

    Raises:
        SourceError: A header is missing or wrong, or there is no value.
    """
    said = {name: content.decode(errors="replace") for name, content in headers}
    stream = said.get("stream-id") or (key or b"").decode(errors="replace")
    content_type = said.get("content-type", "video/mp2t")
    if not stream:
        message = "the message has neither a key nor a header `stream-id`, so nobody knows whose video it is"
        raise SourceError(message)
    if content_type not in CONTENT_TYPES:
        message = f"content-type {content_type!r} is not one of {', '.join(CONTENT_TYPES)}"
        raise SourceError(message)
    if not value:
        message = f"the message of stream {stream!r} is empty"
        raise SourceError(message)
    epoch, seq, pts_ns = (_number(said, name) for name in ("epoch", "seq", "pts-ns"))
    keyframe, eos = said.get("keyframe", "1") == "1", said.get("eos", "0") == "1"
    return VideoMessage(stream, epoch, seq, pts_ns, content_type, value, keyframe, eos, capture_ns)


def _number(said: Mapping[str, str], name: str) -> int:
    try:
        return int(said.get(name, "0"))
    except ValueError as error:
        message = f"header {name!r} must be a whole number, got {said[name]!r}"
        raise SourceError(message) from error


def chunks(message: VideoMessage, position: int, size: int = 16) -> list[Chunk]:
    """The chunks in ``message``, of at most ``size`` units; only the last one moves the stream to ``position``.

    Raises:
        SourceError: A container that cannot be opened or holds no picture.
    """
    codec, units = _units(message)
    cut = list(_cut(units, size))
    end = len(cut) - 1
    return [
        Chunk(
            message.stream,
            message.epoch,
            message.seq,
            batch[0].pts_ns or message.pts_ns,
            codec,
            batch,
            closed=number == end and message.content_type in CONTAINERS,
            last=number == end and message.eos,
            position=position if number == end else position - 1,
            capture_ns=message.capture_ns,
        )
        for number, batch in enumerate(cut)
    ]


def _cut(units: Sequence[Unit], size: int) -> Iterator[tuple[Unit, ...]]:
    rest = iter(units)
    while batch := tuple(islice(rest, size)):
        yield batch


def _units(message: VideoMessage) -> tuple[Codec, list[Unit]]:
    if message.content_type == "image/jpeg":
        return Codec("still"), [Unit(message.data, message.pts_ns, message.pts_ns, keyframe=True)]
    if message.content_type in CONTAINERS:
        return _demuxed(message)
    return Codec("h264"), [Unit(message.data, message.pts_ns, message.pts_ns, message.keyframe)]


def _demuxed(message: VideoMessage) -> tuple[Codec, list[Unit]]:
    try:
        with av.open(BytesIO(message.data), format=CONTAINERS[message.content_type]) as container:
            if not container.streams.video:
                text = f"message {message.seq} of stream {message.stream!r} has no video in its {message.content_type}"
                raise SourceError(text)
            video = container.streams.video[0]
            context = video.codec_context
            codec = Codec(context.name, context.extradata or b"", context.width, context.height, context.pix_fmt or "")
            tick = float((video.time_base or 0) * 1_000_000_000)
            raw = [packet for packet in container.demux(video) if packet.size]
    except av.error.FFmpegError as error:
        text = f"message {message.seq} of stream {message.stream!r} is no {message.content_type}: {error.strerror}"
        raise SourceError(text) from error
    times = [round(p.pts * tick) for p in raw if p.pts is not None]
    shift = message.pts_ns - min(times, default=0)
    return codec, [
        Unit(
            bytes(p),
            None if p.pts is None else round(p.pts * tick) + shift,
            None if p.dts is None else round(p.dts * tick) + shift,
            p.is_keyframe,
            p.is_corrupt,
        )
        for p in raw
    ]
