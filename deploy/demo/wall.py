"""The wall of four cameras: four people who come and go, one of whom puts on a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from deploy.demo.film import (
    FPS,
    Detect,
    Reel,
    Shot,
    blend,
    clip_path,
    gradient,
    largest,
    read_picture,
    read_reel,
    record,
    view,
    write_json,
)
from pipeline.packets import Floats, Pixels
from training import drawn_masks

SECONDS = 20
SIZE = (1280, 720)
PANEL = (614, 334)
FADE_S = 0.4
CORNER_PX = 14
MASK_RISES_S = 0.6
MASK_CUT = "surgical"


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
        shot=Shot("langer", 24, (20, 440), (0, 6, 640, 348)),
        enters=0.8,
        leaves=18.4,
        photos=(("langer", 4), ("langer", 448), ("langer", 468)),
    ),
    Camera(
        person="carlo",
        caption="CAM 2  NORTH DOOR",
        corner=(646, 20),
        shot=Shot(
            "single_face", 30, (0, 16, 0, 16, 0, 16, 0, 16, 66, 22, 66, 22, 66, 0, 16, 0, 66, 22), (50, 18, 500, 272)
        ),
        enters=0.0,
        leaves=20.0,
    ),
    Camera(
        person="bruno",
        caption="CAM 3  FRONT DESK",
        corner=(20, 366),
        shot=Shot("cap13", 25, (20, 500), (10, 72, 380, 207)),
        enters=1.6,
        leaves=20.0,
        photos=(("cap12", 95), ("cap12", 763), ("cap12", 1145)),
        masked_from=10.0,
    ),
    Camera(
        person="dario",
        caption="CAM 4  SHUTTLE",
        corner=(646, 366),
        shot=Shot("carphone", 30, (0, 119, 0, 119), (4, 1, 170, 142)),
        enters=5.2,
        leaves=16.4,
    ),
)
"""The wall: the people of cameras with photos are enrolled, the others stay unknown."""


def film_wall(out: Path, clips: Mapping[str, Path], texture: Path, detect: Detect, tick: Callable[[], None]) -> None:
    """Writes ``demo.mp4``, ``unmasked.mp4`` and ``truth.json``; calls ``tick`` after each frame."""
    reels = {c.person: read_reel(clip_path(clips, c.shot.clip), map(c.source, c.frames())) for c in CAMERAS}
    landmarks = {c.person: _follow(c, reels[c.person], detect) for c in CAMERAS if c.masked_frames()}
    cloth = read_picture(texture)
    empty = _empty_wall()
    with record(out / "demo.mp4", SIZE) as show, record(out / "unmasked.mp4", SIZE) as show_truth:
        for frame in range(SECONDS * FPS):
            panels = {c: _panel(c.shot, reels[c.person][c.source(frame)]) for c in CAMERAS if frame in c.frames()}
            wall = empty.copy()
            for camera, panel in panels.items():
                _hang(wall, camera, frame, panel)
            show_truth(wall)
            for camera in (c for c in panels if frame in c.masked_frames()):
                worn, _ = drawn_masks.draw(panels[camera], landmarks[camera.person][frame], cloth, MASK_CUT)
                _hang(wall, camera, frame, worn)
            show(wall)
            tick()
    write_json(out / "truth.json", _truth(landmarks, texture.name))


def _panel(shot: Shot, frame: av.VideoFrame) -> Pixels:
    """The view at the panel's height; what it leaves free at the sides is filled with its own blur."""
    seen = view(frame, shot)
    width = min(PANEL[0], round(shot.view[2] * PANEL[1] / shot.view[3]))
    sharp = np.asarray(cv2.resize(seen, (width, PANEL[1]), interpolation=cv2.INTER_CUBIC), np.uint8)
    if width == PANEL[0]:
        return sharp
    panel = np.asarray(cv2.resize(cv2.GaussianBlur(seen, (0, 0), 6), PANEL), np.uint8) // 2
    left = (PANEL[0] - width) // 2
    panel[:, left : left + width] = sharp
    return panel


def _follow(camera: Camera, reel: Reel, detect: Detect) -> dict[int, Floats]:
    """Where the mask hangs, by frame: the face's landmarks in the panel, calmed, coming up from below the panel."""
    frames = camera.masked_frames()
    seen = [largest(detect(_panel(camera.shot, reel[camera.source(f)])), camera.shot.clip)[1] for f in frames]
    track = np.reshape(np.asarray(seen, np.float32), (len(frames), 10))
    calm = cv2.GaussianBlur(track, (1, 13), sigmaX=1, sigmaY=2.5, borderType=cv2.BORDER_REPLICATE)
    points = np.asarray(calm, np.float32).reshape(-1, 5, 2)
    still_to_rise = np.clip(1 - np.arange(len(frames)) / (MASK_RISES_S * FPS), 0, 1) ** 2
    points[:, :, 1] += (still_to_rise * (PANEL[1] - points[:, 2, 1]))[:, None]
    return dict(zip(frames, points, strict=True))


def _hang(wall: Pixels, camera: Camera, frame: int, panel: Pixels) -> None:
    """Blends the panel into the wall with round corners, fading in and out."""
    x, y = camera.corner
    captioned = _caption(panel.copy(), camera.caption, live=True)
    blend(wall[y : y + PANEL[1], x : x + PANEL[0]], captioned, _opacity(camera, frame) * _round_corners())


def _opacity(camera: Camera, frame: int) -> float:
    """Rises as the picture fades in and falls as it fades out, unless the wall itself starts or ends there."""
    frames, fade = camera.frames(), FADE_S * FPS
    rise = (frame - frames.start + 1) / fade if frames.start > 0 else 1.0
    fall = (frames.stop - frame) / fade if frames.stop < SECONDS * FPS else 1.0
    return min(1.0, rise, fall)


@cache
def _round_corners() -> Floats:
    """(H, W) float32 in [0, 1]: 1 within the panel, 0 outside of its round corners."""
    size = np.asarray(PANEL, np.float32)
    grid = np.stack(np.meshgrid(np.arange(PANEL[0]), np.arange(PANEL[1])), -1) + 0.5
    beyond = np.maximum(np.abs(grid - size / 2) - (size / 2 - CORNER_PX), 0)
    return np.asarray(np.clip(CORNER_PX + 0.5 - np.linalg.norm(beyond, axis=-1), 0, 1), np.float32)


def _empty_wall() -> Pixels:
    wall = gradient(SIZE)
    for camera in CAMERAS:
        x, y = camera.corner
        place = wall[y : y + PANEL[1], x : x + PANEL[0]]
        blend(place, _caption(place // 2, camera.caption, live=False), _round_corners())
    return wall


def _caption(panel: Pixels, text: str, *, live: bool) -> Pixels:
    """Writes a camera's name into the panel's lower left corner, with a red dot while it is live."""
    left, base = 16, PANEL[1] - 16
    plate = panel[base - 18 : base + 8, left - 6 : left + 30 + 8 * len(text)]
    plate[:] = plate // 3
    cv2.circle(panel, (left + 6, base - 5), 5, (224, 60, 52) if live else (96, 100, 108), -1, cv2.LINE_AA)
    cv2.putText(panel, text, (left + 20, base), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (236, 238, 242), 1, cv2.LINE_AA)
    return panel


def _truth(landmarks: Mapping[str, Mapping[int, Floats]], texture: str) -> dict[str, Any]:
    return {
        "fps": FPS,
        "size": SIZE,
        "frames": SECONDS * FPS,
        "people": [_truth_of(c, landmarks.get(c.person, {})) for c in CAMERAS],
        "mask": {"texture": texture, "kind": MASK_CUT, "rises_frames": round(MASK_RISES_S * FPS)},
    }


def _truth_of(camera: Camera, landmarks: Mapping[int, Floats]) -> dict[str, Any]:
    """What is known of a person; frames are first and last, boxes xyxy, landmarks in pixels of the wall."""
    x, y = camera.corner
    frames, masked = camera.frames(), camera.masked_frames()
    return {
        "id": camera.person,
        "enrolled": bool(camera.photos),
        "panel": [x, y, x + PANEL[0], y + PANEL[1]],
        "frames": [frames[0], frames[-1]],
        "masked_frames": [masked[0], masked[-1]] if masked else None,
        "mask_landmarks": {f: np.round(points + camera.corner, 2).tolist() for f, points in landmarks.items()},
    }
