"""Compose the demo out of packaged clips: a wall of four cameras, and two people who cross.

Written into a folder:

* ``demo.mp4``: four cameras, four people who come and go; one of them puts on a drawn mask halfway.
* ``unmasked.mp4``: the same pictures without the mask, the truth for restoration and identity.
* ``truth.json``: who is seen where and when, where the mask lies, who is enrolled.
* ``crossing.mp4`` and ``crossing.json``: two people who cross, one hidden by the other for a moment.
* ``enrol/<person>/<n>.jpg``: photos of the two people the gallery knows, of moments the demo does not show.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from training import drawn_masks

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Detection = tuple[Floats, Floats]  # box (4,) xyxy and landmarks (5, 2) xy, pixels
Detect = Callable[[Pixels], Sequence[Detection]]
Progress = Callable[[int, int], None]  # frames done, frames in all

FPS = 25
SECONDS = 20
WALL = (1280, 720)
PANEL = (614, 334)
FADE_S = 0.4
CORNER_PX = 14
MASK_RISES_S = 0.6
MASK_STYLE = "surgical"
CROSSING = (960, 540)
CROSSING_S = 6
TILE_PX = 260
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


@dataclass(frozen=True, slots=True)
class Camera:
    """One panel of the wall and the person in it.

    Attributes:
        person: Invented name.
        caption: Name of the camera, shown in its corner.
        corner: x and y of the panel's upper left corner in the wall.
        shot: What it shows.
        enters: Second at which the picture fades in.
        leaves: Second at which it has faded out.
        photos: Clip and frame of the photos for the gallery; none for a person who stays unknown.
        masked_from: Second at which the person puts on a mask; None for never.
    """

    person: str
    caption: str
    corner: tuple[int, int]
    shot: Shot
    enters: float
    leaves: float
    photos: tuple[tuple[str, int], ...] = ()
    masked_from: float | None = None

    def frames(self) -> range:
        """Frames of the wall in which the person is seen."""
        return range(round(self.enters * FPS), round(self.leaves * FPS))

    def masked_frames(self) -> range:
        """Frames of the wall in which the mask is seen or on its way up."""
        last = self.frames().stop
        return range(last if self.masked_from is None else round(self.masked_from * FPS), last)

    def source(self, frame: int) -> int:
        """Frame of the clip that the wall's ``frame`` shows."""
        return self.shot.frame(frame / FPS - self.enters)


CAMERAS = (
    Camera(
        person="akari",
        caption="CAM 1  ATRIUM",
        corner=(20, 20),
        shot=Shot("clip_langer", 24, (20, 440), (0, 6, 640, 348)),
        enters=0.8,
        leaves=18.4,
        photos=(("clip_langer", 4), ("clip_langer", 448), ("clip_langer", 468)),
    ),
    Camera(
        person="carlo",
        caption="CAM 2  NORTH DOOR",
        corner=(646, 20),
        shot=Shot("clip_single_face", 30, (0, 16, 0, 16, 0, 16, 0, 16, 66, 22, 66, 22, 66, 0, 16, 0, 66, 22), (50, 18, 500, 272)),
        enters=0.0,
        leaves=20.0,
    ),
    Camera(
        person="bruno",
        caption="CAM 3  FRONT DESK",
        corner=(20, 366),
        shot=Shot("clip_cap13", 25, (20, 500), (10, 72, 380, 207)),
        enters=1.6,
        leaves=20.0,
        photos=(("clip_cap12", 95), ("clip_cap12", 763), ("clip_cap12", 1145)),
        masked_from=10.0,
    ),
    Camera(
        person="dario",
        caption="CAM 4  SHUTTLE",
        corner=(646, 366),
        shot=Shot("clip_carphone", 30, (0, 119, 0, 119), (0, 0, 176, 144)),
        enters=5.2,
        leaves=16.4,
    ),
)
"""The wall: the people of cameras with photos are enrolled, the others stay unknown."""


@dataclass(frozen=True, slots=True)
class Walker:
    """One of the two who cross: moves in a straight line, bobbing a little; later ones pass in front."""

    person: str
    shot: Shot
    start: tuple[float, float]
    end: tuple[float, float]

    def corner(self, frame: int) -> tuple[int, int]:
        """x and y of the tile's upper left corner."""
        share = frame / (CROSSING_S * FPS - 1)
        x, y = ((1 - share) * a + share * b - TILE_PX / 2 for a, b in zip(self.start, self.end, strict=True))
        return round(x), round(y + 6 * np.sin(2 * np.pi * frame / FPS))


WALKERS = (
    Walker("bruno", Shot("clip_cap13", 25, (20, 200), (98, 72, 204, 204)), (135, 262), (825, 262)),
    Walker("carlo", Shot("clip_single_face", 30, (0, 66, 0, 66), (130, 15, 310, 310)), (825, 278), (135, 278)),
)


def compose(
    out: Path, clips: Mapping[str, Path], textures: Sequence[Path], detect: Detect, progress: Progress | None = None
) -> None:
    """Write the demo's files into ``out``; does nothing where they are up to date.

    Args:
        out: Folder to write to; made if it does not exist.
        clips: Files by name: ``clip_langer``, ``clip_single_face``, ``clip_cap12``, ``clip_cap13``, ``clip_carphone``.
        textures: Pictures of cloth for the mask; the first is used.
        detect: Finds the faces in a (H, W, 3) uint8 RGB picture: box and five landmarks each.
        progress: Called with the frames done and the frames in all.

    Raises:
        SourceError: A clip is missing or cannot be read, or no face is found where one must be.
    """
    stamp, mark = out / "stamp", _fingerprint(clips, textures)
    if stamp.exists() and stamp.read_text() == mark:
        return
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    tick = _ticker(progress)
    _film_wall(out, clips, textures, detect, tick)
    _film_crossing(out, clips, detect, tick)
    _take_photos(out / "enrol", clips, detect)
    stamp.write_text(mark)


def _fingerprint(clips: Mapping[str, Path], textures: Sequence[Path]) -> str:
    """What the outputs depend on: the two programs, the clips and the texture."""
    programs = [Path(__file__), Path(drawn_masks.__file__)]
    digest = hashlib.blake2b()
    for path in [*programs, *(_clip(clips, name) for name in sorted(clips)), *textures]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _ticker(progress: Progress | None) -> Callable[[], None]:
    total, done = (SECONDS + CROSSING_S) * FPS, iter(range(1, 1_000_000))
    return lambda: progress(next(done), total) if progress else None


def _clip(clips: Mapping[str, Path], name: str) -> Path:
    if name in clips and clips[name].is_file():
        return clips[name]
    message = f"clip {name!r} is missing; run `omote models pull`"
    raise SourceError(message)


def _reel(path: Path, wanted: Iterable[int]) -> dict[int, av.VideoFrame]:
    """The wanted frames of a clip by number, undeveloped: as RGB they would take twice the memory."""
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


def _developed(frame: av.VideoFrame) -> Pixels:
    return frame.to_ndarray(format="rgb24")


# --- the wall ---------------------------------------------------------------------------------------------------------


def _film_wall(
    out: Path, clips: Mapping[str, Path], textures: Sequence[Path], detect: Detect, tick: Callable[[], None]
) -> None:
    reels = {c.person: _reel(_clip(clips, c.shot.clip), map(c.source, c.frames())) for c in CAMERAS}
    landmarks = {c.person: _landmarks(c, reels[c.person], detect) for c in CAMERAS if c.masked_from is not None}
    texture = _texture(textures)
    with _film(out / "demo.mp4", WALL) as demo, _film(out / "unmasked.mp4", WALL) as unmasked:
        empty = _empty_wall()
        for frame in range(SECONDS * FPS):
            truth, masked = empty.copy(), empty.copy()
            for camera in CAMERAS:
                if frame not in camera.frames():
                    continue
                panel = _panel(camera.shot, reels[camera.person][camera.source(frame)])
                _hang(truth, camera, frame, panel)
                if frame in camera.masked_frames():
                    panel = drawn_masks.draw(panel, landmarks[camera.person][frame], texture, MASK_STYLE)
                _hang(masked, camera, frame, panel)
            demo(masked)
            unmasked(truth)
            tick()
    _write_json(out / "truth.json", _wall_truth(landmarks, textures[0].name))
