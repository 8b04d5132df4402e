"""Cuts video into messages for a broker: as it is where its key frames allow it, else encoded anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from itertools import chain, pairwise
from typing import Any

import av
import av.error
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace

from pipeline.decoding import decoder_of, packet_of
from pipeline.edges.annex_b import annex_b
from pipeline.edges.video_messages import ACCESS_UNIT, CONTAINERS, JPEG, VideoMessage
from pipeline.errors import SourceError
from pipeline.packets import Chunk, Codec, Unit

CLOCK = 90_000  # ticks a second, of MPEG-TS and of what we encode
ENCODER = {"preset": "veryfast", "crf": "18", "bf": "0", "g": "1000000", "sc_threshold": "0", "threads": "1"}
FRAGMENTS = {"movflags": "empty_moov+default_base_moof+frag_keyframe"}
COLOURS, RANGE = Colorspace.ITU601, ColorRange.MPEG  # of what we encode, and said in it
JPEG_QUALITY = 92
STEP_NS = 40_000_000


@dataclass(frozen=True, slots=True)
class Piece:
    """Encoded pictures that belong together, and what is known of them."""

    codec: Codec
    epoch: int
    units: tuple[Unit, ...]
    capture_ns: int

    @property
    def start_ns(self) -> int:
        """Presentation time of its first picture."""
        return min((unit.pts_ns for unit in self.units if unit.pts_ns is not None), default=0)


def fits(chunks: Iterable[Chunk], content_type: str, seconds: float) -> bool:
    """Whether the video can be cut as it is: H.264 or, for JPEG, pictures; upright; short and closed groups."""
    found = False
    for piece in _groups(chunks):
        found = True
        if content_type == JPEG:
            return not piece.codec.rotation and all(unit.data[:2] == b"\xff\xd8" for unit in piece.units)
        if not _closed(piece, content_type) or _lasts(piece, piece) > 2e9 * max(seconds, 1):
            return False
    return found


def cut(chunks: Iterable[Chunk], content_type: str, seconds: float = 1.0) -> Iterator[VideoMessage]:
    """The video as it is, cut before key frames into messages of about ``seconds``.

    Raises:
        SourceError: A group of pictures cannot stand alone; see `fits`.
    """
    seq = 0
    for piece in _pieces(_groups(chunks), seconds if content_type in CONTAINERS else 0):
        if content_type != JPEG and not _closed(piece, content_type):
            text = f"the video is no {content_type} as it is: its groups of pictures are not closed; use --reencode"
            raise SourceError(text)
        for message in _as_it_is(piece, content_type):
            yield replace(message, seq=seq)
            seq += 1


def recut(chunks: Iterable[Chunk], content_type: str, seconds: float = 1.0) -> Iterator[VideoMessage]:
    """The video encoded anew as H.264 or JPEG, in messages of ``seconds``, each of which stands alone.

    Raises:
        SourceError: It cannot be decoded.
    """
    seq = 0
    for batch in _scenes(decoded(chunks), seconds):
        encode = {ACCESS_UNIT: _access_units, JPEG: _jpegs}.get(content_type, _container)
        for message in encode(batch, content_type):
            yield replace(message, seq=seq)
            seq += 1


def _groups(chunks: Iterable[Chunk]) -> Iterator[Piece]:
    """Groups of pictures: each begins with a key frame, and none crosses an epoch or a change of codec."""
    held: list[Unit] = []
    of: Chunk | None = None
    capture_ns = 0
    for chunk in chunks:
        for unit in chunk.units:
            changed = of is not None and (of.epoch, of.codec) != (chunk.epoch, chunk.codec)
            if of and held and (unit.keyframe or changed):
                yield Piece(of.codec, of.epoch, tuple(held), capture_ns)
                held = []
            if held or unit.keyframe:  # what comes before the first key frame cannot be decoded
                of, capture_ns = chunk, capture_ns if held else _captured(chunk, unit)
                held.append(unit)
    if of and held:
        yield Piece(of.codec, of.epoch, tuple(held), capture_ns)


def _captured(chunk: Chunk, unit: Unit) -> int:
    return chunk.capture_ns and chunk.capture_ns + (chunk.pts_ns if unit.pts_ns is None else unit.pts_ns) - chunk.pts_ns


def _pieces(groups: Iterable[Piece], seconds: float) -> Iterator[Piece]:
    """Groups put together until they last ``seconds``."""
    held: Piece | None = None
    for group in groups:
        if held and (group.codec, group.epoch) == (held.codec, held.epoch) and _lasts(held, group) <= seconds * 1e9:
            held = replace(held, units=held.units + group.units)
            continue
        if held:
            yield held
        held = group
    if held:
        yield held


def _lasts(held: Piece, group: Piece) -> float:
    """Stream time from the start of ``held`` to the end of ``group``, were it added; it is as long as its span."""
    times = [unit.pts_ns for unit in group.units if unit.pts_ns is not None] or [group.start_ns]
    step = (max(times) - min(times)) / max(len(times) - 1, 1)
    return max(times) + step - held.start_ns


def _closed(piece: Piece, content_type: str) -> bool:
    """Whether the pictures can be decoded without those before and, one by one, without delay."""
    times = [unit.pts_ns for unit in piece.units if unit.pts_ns is not None]
    ordered = content_type != ACCESS_UNIT or all(a <= b for a, b in pairwise(times))
    led = bool(times) and min(times) < times[0]  # pictures shown before the key frame refer to the group before
    return piece.codec.name == "h264" and not piece.codec.rotation and ordered and not led


def _as_it_is(piece: Piece, content_type: str) -> Iterator[VideoMessage]:
    about = VideoMessage("", piece.epoch, 0, piece.start_ns, content_type, b"", capture_ns=piece.capture_ns)
    if content_type in CONTAINERS:
        codec = piece.codec
        about = replace(about, codec=codec.name, width=codec.width, height=codec.height)
        yield replace(about, data=_muxed(piece, CONTAINERS[content_type]), frames=len(piece.units))
        return
    for unit in piece.units:
        data = unit.data if content_type == JPEG else annex_b(unit.data, piece.codec, keyframe=unit.keyframe)
        pts_ns = piece.start_ns if unit.pts_ns is None else unit.pts_ns
        capture_ns = piece.capture_ns and piece.capture_ns + pts_ns - piece.start_ns
        yield replace(about, data=data, pts_ns=pts_ns, keyframe=unit.keyframe, capture_ns=capture_ns)


def _muxed(piece: Piece, container_format: str) -> bytes:
    file = BytesIO()
    codec = piece.codec
    options = FRAGMENTS if container_format == "mp4" else {}
    with av.open(file, "w", format=container_format, options=options) as container:
        tick = Fraction(1, CLOCK)
        stream = container.add_mux_stream("h264", width=codec.width, height=codec.height, time_base=tick)
        before_ns = piece.start_ns - STEP_NS
        for unit in piece.units:
            packet = av.Packet(annex_b(unit.data, codec, keyframe=unit.keyframe))
            pts_ns = before_ns + STEP_NS if unit.pts_ns is None else unit.pts_ns
            packet.pts, packet.dts = (_ticks(pts_ns if t is None else t, piece) for t in (pts_ns, unit.dts_ns))
            packet.time_base, packet.stream, packet.is_keyframe = tick, stream, unit.keyframe
            container.mux(packet)
            before_ns = pts_ns
    return file.getvalue()


def _ticks(time_ns: int, piece: Piece) -> int:
    """Time in the container. It begins a second late, so that no decoding time is negative."""
    return round((time_ns - piece.start_ns) * CLOCK / 1e9) + CLOCK


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, upright, with even sides."""

    frame: av.VideoFrame
    epoch: int
    pts_ns: int
    capture_ns: int


def decoded(chunks: Iterable[Chunk]) -> Iterator[Picture]:
    """The pictures of one stream, in the order in which they are shown; what is damaged is left out."""
    decoder: VideoCodecContext | None = None
    of: tuple[int, Codec] | None = None
    pts_ns = -STEP_NS
    for chunk in chunks:
        if of != (chunk.epoch, chunk.codec):
            decoder = None if chunk.codec.name == "still" else decoder_of(chunk.codec)
            of = (chunk.epoch, chunk.codec)
        units = chain(chunk.units, (None,) if chunk.closed or chunk.last else ())
        for frame in chain.from_iterable(_frames(unit, chunk.codec, decoder) for unit in units):
            pts_ns = pts_ns + STEP_NS if frame.pts is None else frame.pts
            if pts_ns >= 0:  # an edit list hides what comes before
                capture_ns = chunk.capture_ns and chunk.capture_ns + pts_ns - chunk.pts_ns
                yield Picture(_upright(frame, chunk.codec.rotation), chunk.epoch, pts_ns, capture_ns)
        if chunk.closed:
            of = None


def _frames(unit: Unit | None, codec: Codec, decoder: VideoCodecContext | None) -> list[av.VideoFrame]:
    """What a unit gives; what the decoder still holds if it is None; nothing if it is damaged."""
    if decoder is None:
        image = None if unit is None else cv2.imdecode(np.frombuffer(unit.data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if unit is None or image is None:
            return []
        frame = av.VideoFrame.from_ndarray(np.asarray(image, np.uint8), format="rgb24")
        frame.pts = unit.pts_ns
        return [frame]
    try:
        return decoder.decode(packet_of(unit) if unit else None)
    except av.error.FFmpegError:
        return []


def _upright(frame: av.VideoFrame, rotation: int) -> av.VideoFrame:
    """The frame turned, without its odd last row or column."""
    width, height = frame.width - frame.width % 2, frame.height - frame.height % 2
    if not rotation and (width, height) == (frame.width, frame.height):
        return frame
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)[:height, :width]
    turned = np.ascontiguousarray(np.rot90(image, -rotation // 90))
    return av.VideoFrame.from_ndarray(turned, format="rgb24")


def _scenes(pictures: Iterable[Picture], seconds: float) -> Iterator[list[Picture]]:
    """Pictures of ``seconds`` of stream time, of one size and one epoch."""
    held: list[Picture] = []
    for picture in pictures:
        if held and (_kind(picture) != _kind(held[0]) or picture.pts_ns - held[0].pts_ns >= seconds * 1e9):
            yield held
            held = []
        held.append(picture)
    if held:
        yield held


def _kind(picture: Picture) -> tuple[int, int, int]:
    return picture.epoch, picture.frame.width, picture.frame.height


def _about(picture: Picture, content_type: str) -> VideoMessage:
    return VideoMessage("", picture.epoch, 0, picture.pts_ns, content_type, b"", capture_ns=picture.capture_ns)


def _container(batch: Sequence[Picture], content_type: str) -> Iterator[VideoMessage]:
    file, first = BytesIO(), batch[0]
    options = FRAGMENTS if content_type == "video/mp4" else {}
    with av.open(file, "w", format=CONTAINERS[content_type], options=options) as container:
        stream = container.add_stream("libx264", rate=30, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = first.frame.width, first.frame.height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, CLOCK)
        stream.codec_context.colorspace, stream.codec_context.color_range = COLOURS, RANGE
        for picture in batch:
            container.mux(stream.encode(_timed(picture, first)))
        container.mux(stream.encode(None))
    about = replace(_about(first, content_type), codec="h264", width=stream.width, height=stream.height)
    yield replace(about, data=file.getvalue(), frames=len(batch))


def _access_units(batch: Sequence[Picture], content_type: str) -> Iterator[VideoMessage]:
    first = batch[0]
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = first.frame.width, first.frame.height, "yuv420p"
    encoder.time_base, encoder.colorspace, encoder.color_range = Fraction(1, CLOCK), COLOURS, RANGE
    encoder.options = {**ENCODER, "tune": "zerolatency"}
    frames = chain((_timed(picture, first) for picture in batch), (None,))
    packets = chain.from_iterable(encoder.encode(frame) for frame in frames)
    for picture, packet in zip(batch, packets, strict=True):
        about = _about(picture, content_type)
        yield replace(
            about, data=annex_b(bytes(packet), Codec("h264"), keyframe=packet.is_keyframe), keyframe=packet.is_keyframe
        )


def _timed(picture: Picture, first: Picture) -> av.VideoFrame:
    """The picture as the encoder takes it, its time counted from the first."""
    frame = picture.frame.reformat(format="yuv420p", dst_colorspace=COLOURS, dst_color_range=RANGE)
    frame.pts, frame.time_base = round((picture.pts_ns - first.pts_ns) * CLOCK / 1e9), Fraction(1, CLOCK)
    frame.pict_type = av.video.frame.PictureType.NONE
    return frame


def _jpegs(batch: Sequence[Picture], content_type: str) -> Iterator[VideoMessage]:
    for picture in batch:
        image = picture.frame.to_ndarray(format="bgr24")
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        yield replace(_about(picture, content_type), data=data.tobytes())
