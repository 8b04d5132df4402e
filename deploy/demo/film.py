"""What every picture of the demo is made with: shots of clips, blending, and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from pipeline.errors import SourceError
from pipeline.packets import Floats, Pixels

Detection = tuple[Floats, Floats]
"""Box (4,) xyxy and landmarks (5, 2) xy of a face, pixels."""
Detect = Callable[[Pixels], Sequence[Detection]]
Reel = Mapping[int, av.VideoFrame]
"""Frames of a clip by number."""

FPS = 25
# The AVX-512 code of x264 was seen to write other bytes from run to run; without it the files are always the same.
X264 = {"crf": "20", "preset": "veryfast", "g": "50", "x264-params": "asm=sse4.2"}
BACKGROUND = ((58, 66, 82), (24, 27, 34))  # RGB, top and bottom


@dataclass(frozen=True, slots=True)
class Shot:
    """A way through a clip.

    Attributes:
        clip: Name of the clip.
        rate: Source frames played per second.
        path: Source frames visited in turn, played forwards or backwards in between.
        view: x, y, width and height in source pixels of what is shown.
    """

    clip: str
    rate: float
    path: tuple[int, ...]
    view: tuple[int, int, int, int]

    def frame(self, seconds: float) -> int:
        """Source frame shown ``seconds`` after the start; the path's end is held."""
        lengths = np.abs(np.diff(self.path))
        travelled = np.concatenate([[0], np.cumsum(lengths)])
        return round(float(np.interp(seconds * self.rate, travelled, self.path)))


def clip_path(clips: Mapping[str, Path], name: str) -> Path:
    """Where a clip lies.

    Raises:
        SourceError: It does not.
    """
    if name in clips and clips[name].is_file():
        return clips[name]
    message = f"clip {name!r} is missing; run `omote models pull`"
    raise SourceError(message)


def read_picture(path: Path) -> Pixels:
    """A picture file as (H, W, 3) uint8 RGB.

    Raises:
        SourceError: It is not one.
    """
    picture = cv2.imread(str(path))
    if picture is None:
        message = f"picture {path.name!r} cannot be read; run `omote models pull`"
        raise SourceError(message)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def read_reel(path: Path, wanted: Iterable[int]) -> Reel:
    """The wanted frames of a clip, not yet turned to RGB, which would take twice the memory.

    Raises:
        SourceError: The clip cannot be read, or is too short.
    """
    left, reel = set(wanted), {}
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in left:
                    reel[number] = frame
                if len(reel) == len(left):
                    break
    except av.FFmpegError as error:
        message = f"clip {path.name!r} cannot be read ({error}); run `omote models pull`"
        raise SourceError(message) from error
    if missing := sorted(left - reel.keys()):
        message = f"clip {path.name!r} has no frame {missing[0]}; run `omote models pull`"
        raise SourceError(message)
    return reel


def view(frame: av.VideoFrame, shot: Shot) -> Pixels:
    """What the shot shows of a frame."""
    x, y, width, height = shot.view
    return as_rgb(frame)[y : y + height, x : x + width]


def as_rgb(frame: av.VideoFrame) -> Pixels:
    """The frame as (H, W, 3) uint8 RGB."""
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def largest(faces: Sequence[Detection], clip: str) -> Detection:
    """The largest of the faces found in a clip.

    Raises:
        SourceError: None was found.
    """
    if not faces:
        message = f"no face was found in clip {clip!r}; run `omote models pull` and `omote doctor`"
        raise SourceError(message)
    return max(faces, key=lambda face: float(np.prod(face[0][2:] - face[0][:2])))


def blend(below: Pixels, above: Pixels, opacity: Floats) -> None:
    """Lays ``above`` over ``below`` in place; both (H, W, 3), ``opacity`` (H, W) float32 in [0, 1]."""
    below[:] = cv2.blendLinear(above, np.ascontiguousarray(below), opacity, 1 - opacity)


def gradient(size: tuple[int, int]) -> Pixels:
    """The plain background, (H, W, 3) for a ``size`` of width and height."""
    top, bottom = np.asarray(BACKGROUND, np.float32)
    share = np.linspace(0, 1, size[1], dtype=np.float32)[:, None, None]
    return np.broadcast_to((1 - share) * top + share * bottom, (size[1], size[0], 3)).astype(np.uint8, order="C")


@contextmanager
def record(path: Path, size: tuple[int, int]) -> Iterator[Callable[[Pixels], None]]:
    """A function that appends (H, W, 3) uint8 RGB pictures to an H.264 file, which appears when it is whole."""
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=X264)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on any number of cores

        def show(picture: Pixels) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))

        yield show
        container.mux(stream.encode())
    part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Writes numbers and names in a form that people can read too."""
    path.write_text(json.dumps(content, indent=1) + "\n")
