"""Two people who cross: one passes in front of the other and hides him for a moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deploy.demo.film import FPS, Detect, Shot, blend, clip_path, gradient, largest, read_reel, record, view, write_json
from pipeline.packets import Floats, Pixels

SIZE = (960, 540)
SECONDS = 4
TILE_PX = 260


@dataclass(frozen=True, slots=True)
class Walker:
    """One of the two who cross: moves in a straight line, bobbing a little; later ones pass in front."""

    person: str
    shot: Shot
    start: tuple[float, float]
    end: tuple[float, float]

    def corner(self, frame: int) -> tuple[int, int]:
        """The tile's upper left corner, x and y."""
        share = frame / (SECONDS * FPS - 1)
        x, y = ((1 - share) * a + share * b - TILE_PX / 2 for a, b in zip(self.start, self.end, strict=True))
        return round(x), round(y + 6 * np.sin(2 * np.pi * frame / FPS))


WALKERS = (
    Walker("bruno", Shot("cap13", 25, (20, 200), (98, 72, 204, 204)), (135, 262), (825, 262)),
    Walker("carlo", Shot("single_face", 30, (0, 66, 0, 66), (130, 15, 310, 310)), (825, 278), (135, 278)),
)


def film_crossing(out: Path, clips: Mapping[str, Path], detect: Detect, tick: Callable[[], None]) -> None:
    """Writes ``crossing.mp4`` and ``crossing.json``; calls ``tick`` after each frame."""
    frames = range(SECONDS * FPS)
    tiles = {w.person: _tiles(w.shot, clips, frames) for w in WALKERS}
    with record(out / "crossing.mp4", SIZE) as show:
        for frame in frames:
            picture = gradient(SIZE)
            for walker in WALKERS:
                x, y = walker.corner(frame)
                blend(picture[y : y + TILE_PX, x : x + TILE_PX], tiles[walker.person][frame], _oval())
            show(picture)
            tick()
    people = [_truth_of(walker, tiles[walker.person], detect) for walker in WALKERS]
    write_json(out / "crossing.json", {"fps": FPS, "size": SIZE, "frames": len(frames), "people": people})


def _tiles(shot: Shot, clips: Mapping[str, Path], frames: range) -> list[Pixels]:
    numbers = [shot.frame(frame / FPS) for frame in frames]
    reel = read_reel(clip_path(clips, shot.clip), numbers)
    views = [view(reel[number], shot) for number in numbers]
    return [np.asarray(cv2.resize(v, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA), np.uint8) for v in views]


def _truth_of(walker: Walker, tiles: Sequence[Pixels], detect: Detect) -> dict[str, Any]:
    """The face's box xyxy in each frame, be it hidden or not, for it was looked for before the tiles were laid."""
    found = [largest(detect(tile), walker.shot.clip)[0] for tile in tiles]
    boxes = [np.round(box + np.tile(walker.corner(frame), 2), 1).tolist() for frame, box in enumerate(found)]
    return {"id": walker.person, "in_front": walker is WALKERS[-1], "boxes": boxes}


@cache
def _oval() -> Floats:
    """(H, W) float32 in [0, 1]: an upright oval with a soft edge."""
    across, down = np.meshgrid(*[np.linspace(-1, 1, TILE_PX)] * 2)
    return np.asarray(np.clip((1 - np.hypot(across / 0.72, down / 0.98)) * 10, 0, 1), np.float32)
