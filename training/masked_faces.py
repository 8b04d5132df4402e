"""The data set of the mask state: every face with a drawn mask and without one, as a detector would crop it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from operators.align import TEMPLATE
from pipeline.packets import Floats, Pixels
from training.cloths import Wardrobe, one_of, read_wardrobe
from training.drawn_masks import KINDS, draw, draw_template
from training.faces import Part, read_faces
from training.occluders import degrade, occlude, occlude_masked, realign

SIDE = 64


@dataclass(frozen=True, slots=True)
class MaskedFaces:
    """Labelled crops.

    Attributes:
        pixels: (N, 64, 64, 3) uint8 RGB, what the net sees of a crop.
        masked: (N,) bool.
        kinds: (N,) names: the kind of the mask, or ``photographed`` and its template; without a mask ``bare`` or
            ``occluded``.
    """

    pixels: Pixels
    masked: NDArray[np.bool_]
    kinds: NDArray[np.str_]


def draw_faces(data: Path, part: Part, rounds: int, seed: int) -> Iterator[tuple[Pixels, bool, str]]:
    """Crops, (128, 128, 3) uint8 RGB, of every face of a part, with their label and kind.

    Args:
        data: The folder of the training data.
        part: Whose faces and which masks.
        rounds: How often every face is drawn, each time once with a mask and once without.
        seed: The same seed draws the same crops.
    """
    wardrobe = read_wardrobe(data, part)
    rng = np.random.default_rng(seed)
    for face in read_faces(data, part):
        for make in (_with_mask, _without) * rounds:
            crop, masked, kind = make(face.pixels, wardrobe, rng)
            yield degrade(realign(crop, rng), rng), masked, kind


def pack(crops: Iterable[tuple[Pixels, bool, str]]) -> MaskedFaces:
    """The crops in memory, at the size at which the net looks at them."""
    small = [(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), *rest) for crop, *rest in crops]
    pixels, masked, kinds = zip(*small, strict=True)
    return MaskedFaces(np.array(pixels, np.uint8), np.array(masked, np.bool_), np.array(kinds, np.str_))


def _with_mask(face: Pixels, wardrobe: Wardrobe, rng: Generator) -> tuple[Pixels, bool, str]:
    if rng.random() < 0.3:
        face = occlude_masked(face, wardrobe.cloth(rng), rng)
    if rng.random() < 0.4:
        name, template = wardrobe.template(rng)
        return draw_template(face, _turned(rng), template, rng)[0], True, f"photographed {name}"
    kind = one_of(sorted(KINDS), rng)
    return draw(face, _turned(rng), wardrobe.cloth(rng), kind, rng)[0], True, kind


def _without(face: Pixels, wardrobe: Wardrobe, rng: Generator) -> tuple[Pixels, bool, str]:
    if rng.random() < 0.35:
        return face, False, "bare"
    return occlude(face, wardrobe.cloth(rng), rng), False, "occluded"


def _turned(rng: Generator) -> Floats:
    """The landmarks of a crop as if the head were turned a little, so that the mask sits askew."""
    turn = np.array([[0], [0], [2.5], [1], [1]]) * rng.normal(0, 1, 2)
    return (TEMPLATE + turn + rng.normal(0, 0.7, (5, 2))).astype(np.float32)
