"""Writes drawn frames as one MP4 that keeps their presentation times."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from pipeline.edges import Sink
from pipeline.errors import SinkError
from pipeline.packets import DrawnFrame, Pixels

CLOCK = 90_000  # ticks a second of the file's time base
NOMINAL_FPS = 30  # for the encoder's level and rate control only; frames keep their own times


class AnnotatedVideo(Sink[DrawnFrame]):
    """H.264 in MP4, opened at the first frame, whose size it takes.

    Later frames of another size are fitted into it between black bars. The file grows in fragments, so
    that what was written can be played even after a kill; ``close`` turns it into a plain MP4. Time
    never runs backwards in it: frames of a later connection or stream follow those before.

    Args:
        path: File to write; its folder is made where it is missing.
        crf: Quality, 0 (lossless) to 51; 6 more halve the size.
        preset: x264's name of its trade of speed against size.
        threads: Threads of the encoder; it runs beside the nets, hence 1.
    """

    def __init__(self, path: str, crf: int = 21, preset: str = "veryfast", threads: int = 1) -> None:
        self._path = Path(path)
        self._options = {
            "crf": str(crf),
            "preset": preset,
            "threads": str(threads),
            "bf": "0",
            "g": str(2 * NOMINAL_FPS),
        }
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._failure: SinkError | None = None
        self._last, self._offset = -1, 0

    def write(self, batch: Sequence[DrawnFrame]) -> None:
        """Encode the frames.

        Raises:
            SinkError: The file cannot be made, or the disk is full.
        """
        for frame in batch:
            if self._failure is not None:
                raise self._failure
            try:
                self._encode(frame)
            except OSError as error:  # FFmpeg's errors are OSErrors too
                self._failure = self._given_up(error)
                raise self._failure from error

    def flush(self) -> None:
        """Nothing to do: a few frames stay in the encoder, which looks ahead, until ``close`` writes them."""

    def close(self) -> None:
        """Write what the encoder still holds and finish the file; without a frame there is no file.

        Raises:
            SinkError: The disk is full.
        """
        if self._container is None or self._stream is None:
            return
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = self._stream = None
        except OSError as error:
            raise self._given_up(error) from error

    def _encode(self, frame: DrawnFrame) -> None:
        if self._container is None or self._stream is None:
            self._container, self._stream = self._open(frame.image)
        image = _fitted(frame.image, self._stream.width, self._stream.height)
        planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), np.uint8)
        picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        picture.pts, picture.time_base = self._tick(frame.pts_ns), Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(picture))

    def _tick(self, pts_ns: int) -> int:
        """The frame's time in the file: its own, or a frame's length past the last where time would run backwards."""
        tick = pts_ns * CLOCK // 1_000_000_000 + self._offset
        if tick <= self._last:
            self._offset += self._last + CLOCK // NOMINAL_FPS - tick
            tick = self._last + CLOCK // NOMINAL_FPS
        self._last = tick
        return tick

    def _open(self, first: Pixels) -> tuple[OutputContainer, VideoStream]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        container = av.open(
            str(self._path), "w", format="mp4", options={"movflags": "hybrid_fragmented", "flush_packets": "1"}
        )
        stream = container.add_stream("libx264", rate=NOMINAL_FPS, options=self._options)
        stream.height, stream.width = (max(2, side - side % 2) for side in first.shape[:2])
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, CLOCK)
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU601, ColorRange.MPEG
        container.start_encoding()
        return container, stream

    def _given_up(self, error: OSError) -> SinkError:
        """The error in words. The file is left as it is, for FFmpeg crashes when it finishes a broken one."""
        self._container = self._stream = None
        reason = error.strerror or error
        return SinkError(f"cannot write the video {self._path}: {reason}; make room or choose another path")


def _fitted(image: Pixels, width: int, height: int) -> Pixels:
    """``image`` at the size of the video: as it is, without its odd last row or column, or between black bars."""
    rows, columns = image.shape[:2]
    if 0 <= rows - height < 2 and 0 <= columns - width < 2:
        return np.ascontiguousarray(image[:height, :width])
    scale = min(width / columns, height / rows)
    inner = max(1, round(columns * scale)), max(1, round(rows * scale))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    fitted = np.zeros((height, width, 3), np.uint8)
    fitted[top : top + inner[1], left : left + inner[0]] = cv2.resize(image, inner, interpolation=cv2.INTER_AREA)
    return fitted
