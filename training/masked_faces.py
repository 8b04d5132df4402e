"""The data set of the mask state: every face once with a drawn mask and once without, as a detector would crop it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from operators.align import TEMPLATE
from pipeline.packets import Floats, Pixels
from training.drawn_masks import KINDS, Template, draw, draw_template, read_templates, read_textures
from training.faces import Part, read_faces
from training.occluders import degrade, occlude, occlude_masked, realign

SIDE = 64
KEPT_BACK: dict[Part, tuple[str, ...]] = {  # what training never sees; all else is seen in training alone
    "train": (),
    "calibrate": ("gas", "check_04", "floral_15", "floral_16", "fruits_23", "others_25"),
    "test": ("KN95", "cloth", "check_05", "check_06", "floral_17", "floral_18", "fruits_24", "others_26"),
}
PLAIN = np.array(  # white, black, two blues, red, skin
    [[240, 240, 238], [28, 28, 30], [120, 170, 215], [60, 90, 150], [150, 40, 45], [190, 150, 120]]
)
OneOf = TypeVar("OneOf")


@dataclass(frozen=True, slots=True)
class Wardrobe:
    """The cloths and the photographed masks that one part of the data may wear."""

    textures: dict[str, Pixels]
    templates: dict[str, Template]


@dataclass(frozen=True, slots=True)
class MaskedFaces:
    """Labelled crops.

    Attributes:
        pixels: (N, 64, 64, 3) uint8 RGB, what the net sees of a crop.
        masked: (N,) bool.
        kinds: (N,) names: the kind or the template of the mask; ``bare`` or ``occluded`` without one.
    """

    pixels: Pixels
    masked: NDArray[np.bool_]
    kinds: NDArray[np.str_]


def read_wardrobe(data: Path, part: Part) -> Wardrobe:
    """The wardrobe of a part: no template family and no texture is in two of them."""
    textures, templates = read_textures(data / "masks" / "textures"), read_templates(data / "masks")
    return Wardrobe(
        {name: texture for name, texture in textures.items() if _belongs(name, part)},
        {name: template for name, template in templates.items() if _belongs(name, part)},
    )


def draw_faces(data: Path, part: Part, seed: int) -> Iterator[tuple[Pixels, bool, str]]:
    """Two crops, (128, 128, 3) uint8 RGB, of every face of a part, with their label and kind.

    Args:
        data: The folder of the training data.
        part: Whose faces and which masks.
        seed: The same seed draws the same crops.
    """
    wardrobe = read_wardrobe(data, part)
    rng = np.random.default_rng(seed)
    for face in read_faces(data, part):
        for crop, masked, kind in (_with_mask(face.pixels, wardrobe, rng), _without(face.pixels, wardrobe, rng)):
            yield degrade(realign(crop, rng), rng), masked, kind


def pack(crops: Iterable[tuple[Pixels, bool, str]]) -> MaskedFaces:
    """The crops in memory, at the size at which the net looks at them."""
    small = [(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), *rest) for crop, *rest in crops]
    pixels, masked, kinds = zip(*small, strict=True)
    return MaskedFaces(np.array(pixels, np.uint8), np.array(masked, np.bool_), np.array(kinds, np.str_))


def _belongs(name: str, part: Part) -> bool:
    if part == "train":
        return not any(name.startswith(kept) for kept in KEPT_BACK["calibrate"] + KEPT_BACK["test"])
    return name.startswith(KEPT_BACK[part])


def _with_mask(face: Pixels, wardrobe: Wardrobe, rng: Generator) -> tuple[Pixels, bool, str]:
    if rng.random() < 0.3:
        face = occlude_masked(face, _cloth(wardrobe, rng), rng)
    if rng.random() < 0.4:
        name = _one_of(sorted(wardrobe.templates), rng)
        return draw_template(face, _turned(rng), wardrobe.templates[name], rng)[0], True, name
    kind = _one_of(sorted(KINDS), rng)
    return draw(face, _turned(rng), _cloth(wardrobe, rng), kind, rng)[0], True, kind


def _without(face: Pixels, wardrobe: Wardrobe, rng: Generator) -> tuple[Pixels, bool, str]:
    if rng.random() < 0.35:
        return face, False, "bare"
    return occlude(face, _cloth(wardrobe, rng), rng), False, "occluded"


def _turned(rng: Generator) -> Floats:
    """The landmarks of a crop as if the head were turned a little, so that the mask sits askew."""
    turn = np.array([[0], [0], [2.5], [1], [1]]) * rng.normal(0, 1, 2)
    return (TEMPLATE + turn + rng.normal(0, 0.7, (5, 2))).astype(np.float32)


def _cloth(wardrobe: Wardrobe, rng: Generator) -> Pixels:
    """A texture of the wardrobe, or a plain cloth with a weave."""
    if rng.random() < 0.55:
        return wardrobe.textures[_one_of(sorted(wardrobe.textures), rng)]
    colour = PLAIN[rng.integers(len(PLAIN))] if rng.random() < 0.6 else rng.uniform(10, 245, 3)
    noise = rng.normal(0, rng.uniform(0, 30), (48, 64, 3)).astype(np.float32)
    weave = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 6))
    return np.clip(colour + weave, 0, 255).astype(np.uint8)


def _one_of(things: Sequence[OneOf], rng: Generator) -> OneOf:
    return things[int(rng.integers(len(things)))]
