"""Turn encoded units into pictures; a damaged unit costs itself and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import av
import av.error
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext

from pipeline.decoding import decoder_of, packet_of
from pipeline.errors import SourceError
from pipeline.operator import KeyedOperator
from pipeline.packets import Chunk, Codec, Frame, Pixels, Unit


@dataclass(frozen=True, slots=True)
class DecodeState:
    """Where a stream stands.

    Attributes:
        epoch: Epoch of the last chunk; another one starts the numbers anew.
        pictures: Pictures decoded so far in this epoch.
        frames: Frames given so far in this epoch.
        lost: Damaged units since the last frame.
        pts_ns: Presentation time of the last picture.
        step_ns: Distance of the last two, for pictures that come without a time.
    """

    epoch: int = 0
    pictures: int = 0
    frames: int = 0
    lost: int = 0
    pts_ns: int = -40_000_000
    step_ns: int = 40_000_000


class Decode(KeyedOperator[Chunk, Frame, DecodeState]):
    """Decodes with FFmpeg, keeps presentation times, turns rotated pictures upright.

    Stills (JPEG, PNG, ...) are decoded by OpenCV, which honours their EXIF orientation.
    """

    def __init__(self, every: int = 1, threads: int = 1, max_pixels: int = 4096 * 2304) -> None:
        """Decoders are opened at the first chunk of each stream.

        Args:
            every: Give every n-th picture only.
            threads: Threads of a decoder. More than one delays frames by as many.
            max_pixels: Larger pictures are refused.
        """
        self._every, self._threads, self._max_pixels = every, threads, max_pixels
        self._decoders: dict[str, tuple[Codec, VideoCodecContext]] = {}

    def start(self, stream: str) -> DecodeState:
        return DecodeState()

    def __call__(self, state: DecodeState, batch: Sequence[Chunk]) -> tuple[DecodeState, Iterable[Frame]]:
        """Frames of ``batch`` in order of presentation.

        Raises:
            SourceError: A codec that this FFmpeg does not know, or pictures larger than ``max_pixels``.
        """
        frames: list[Frame] = []
        for chunk in batch:
            if chunk.epoch != state.epoch and chunk.units:
                state = DecodeState(epoch=chunk.epoch)
                self._decoders.pop(chunk.stream, None)
            if chunk.replayed:
                self._replay(chunk)
                continue
            state = self._decode(replace(state, lost=state.lost + chunk.dropped), chunk, frames)
        return state, frames

    def close(self) -> None:
        self._decoders.clear()

    def _replay(self, chunk: Chunk) -> None:
        """Give the decoder what it must have seen; what comes of it was told before, and so was what fails in it."""
        for unit in chunk.units:
            with suppress(SourceError):
                self._moving(chunk, unit)

    def _decode(self, state: DecodeState, chunk: Chunk, frames: list[Frame]) -> DecodeState:
        still = chunk.codec.name == "still"
        for unit in chunk.units:
            pictures = self._still(unit) if still else self._moving(chunk, unit)
            state = self._take(state, chunk, pictures, frames)
        if chunk.closed and not still:
            state = self._take(state, chunk, self._rest(chunk), frames)
        return state

    def _take(
        self, state: DecodeState, chunk: Chunk, pictures: list[tuple[Pixels, int | None]] | None, frames: list[Frame]
    ) -> DecodeState:
        """Append what is to be analysed; ``pictures`` is None for a unit that was lost."""
        if pictures is None:
            return replace(state, lost=state.lost + 1)
        for image, given_ns in pictures:
            pts_ns = state.pts_ns + state.step_ns if given_ns is None else given_ns
            if pts_ns < 0:  # an edit list hides it: it was decoded for its successors only
                continue
            wanted = state.pictures % self._every == 0
            if wanted:
                capture_ns = chunk.capture_ns and chunk.capture_ns + pts_ns - chunk.pts_ns
                at = (chunk.stream, chunk.epoch, state.frames, pts_ns)
                frames.append(Frame(*at, image, state.lost, capture_ns, chunk.source))
            state = replace(
                state,
                pictures=state.pictures + 1,
                frames=state.frames + wanted,
                lost=0 if wanted else state.lost,
                pts_ns=pts_ns,
                step_ns=pts_ns - state.pts_ns if pts_ns > state.pts_ns else state.step_ns,
            )
        return state

    def _still(self, unit: Unit) -> list[tuple[Pixels, int | None]] | None:
        if not unit.data:
            return None
        try:
            image = cv2.imdecode(np.frombuffer(unit.data, np.uint8), cv2.IMREAD_COLOR_RGB)
        except cv2.error:  # a header that claims more pixels than OpenCV would ever read
            return None
        if image is None:
            return None
        self._check_size(image.shape[1], image.shape[0])
        return [(np.asarray(image, np.uint8), unit.pts_ns)]

    def _moving(self, chunk: Chunk, unit: Unit) -> list[tuple[Pixels, int | None]] | None:
        if unit.damaged or not unit.data:
            return None
        return self._pictures(chunk, packet_of(unit))

    def _rest(self, chunk: Chunk) -> list[tuple[Pixels, int | None]]:
        """What the decoder still holds; the next chunk meets a new decoder."""
        held = self._pictures(chunk, None) or []
        self._decoders.pop(chunk.stream, None)
        return held

    def _pictures(self, chunk: Chunk, packet: av.Packet[Any] | None) -> list[tuple[Pixels, int | None]] | None:
        try:
            decoded = self._decoder(chunk).decode(packet)
        except av.error.FFmpegError:
            return None
        whole = [frame for frame in decoded if not frame.is_corrupt]
        if decoded and not whole:
            return None
        return [(self._upright(frame, chunk.codec.rotation), frame.pts) for frame in whole]

    def _upright(self, frame: av.VideoFrame, rotation: int) -> Pixels:
        self._check_size(frame.width, frame.height)
        image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        return np.ascontiguousarray(np.rot90(image, -rotation // 90)) if rotation else image

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            message = (
                f"a picture of {width}x{height} is larger than the {self._max_pixels} pixels that decode takes; "
                "raise its `max_pixels` or scale the video down"
            )
            raise SourceError(message)

    def _decoder(self, chunk: Chunk) -> VideoCodecContext:
        codec, decoder = self._decoders.get(chunk.stream, (None, None))
        if decoder is None or codec != chunk.codec:
            decoder = decoder_of(chunk.codec, self._threads)
            self._decoders[chunk.stream] = (chunk.codec, decoder)
        return decoder
