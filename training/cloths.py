"""What drawn masks are made of: photographed masks and cloths, kept apart by part of the data, and printed patterns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.packets import Pixels
from training.drawn_masks import Template, read_templates, read_textures
from training.faces import Part

KEPT_BACK: dict[Part, tuple[str, ...]] = {  # beginnings of names; what is not named here is seen in training alone
    "train": (),
    "calibrate": ("gas", "check_04", "floral_15", "floral_16", "fruits_23", "others_25"),
    "test": ("KN95", "cloth", "check_05", "check_06", "floral_17", "floral_18", "fruits_24", "others_26"),
}
PLAIN = np.array(  # white, black, two blues, red, skin
    [[240, 240, 238], [28, 28, 30], [120, 170, 215], [60, 90, 150], [150, 40, 45], [190, 150, 120]]
)
WIDTH = 160  # of a cloth or a photographed mask, pixels
SHAPE = (72, 96)  # of a cloth that is made here, pixels
OneOf = TypeVar("OneOf")


@dataclass(frozen=True, slots=True)
class Wardrobe:
    """What one part of the data may wear.

    Attributes:
        textures: (h, w, 3) uint8 RGB by name.
        templates: Photographed masks by name.
        imitates: Whether cloths are also cut up, dyed, woven and printed, so that there is no end to them.
    """

    textures: dict[str, Pixels]
    templates: dict[str, Template]
    imitates: bool

    def cloth(self, rng: Generator) -> Pixels:
        """Some cloth: (h, w, 3) uint8 RGB."""
        texture = self.textures[one_of(sorted(self.textures), rng)]
        if not self.imitates:
            return texture
        which = rng.random()
        return _cut_up(texture, rng) if which < 0.35 else _plain(rng) if which < 0.65 else _print(rng)

    def template(self, rng: Generator) -> tuple[str, Template]:
        """Some photographed mask and its name."""
        name = one_of(sorted(self.templates), rng)
        template = self.templates[name]
        if not self.imitates:
            return name, template
        return name, Template(
            np.dstack([_dye(template.pixels[..., :3], rng), template.pixels[..., 3]]), template.points
        )


def read_wardrobe(data: Path, part: Part) -> Wardrobe:
    """The wardrobe of a part: no template family and no texture is in two of them."""
    textures, templates = read_textures(data / "masks" / "textures"), read_templates(data / "masks")
    return Wardrobe(
        {name: _small(texture) for name, texture in textures.items() if _belongs(name, part)},
        {name: _small_template(template) for name, template in templates.items() if _belongs(name, part)},
        imitates=part == "train",
    )


def one_of(things: Sequence[OneOf], rng: Generator) -> OneOf:
    """One of the things, each as likely as the other."""
    return things[int(rng.integers(len(things)))]


def _belongs(name: str, part: Part) -> bool:
    if part == "train":
        return not name.startswith(KEPT_BACK["calibrate"] + KEPT_BACK["test"])
    return name.startswith(KEPT_BACK[part])


def _small(picture: Pixels) -> Pixels:
    """At most ``WIDTH`` wide, which is more than a mask in a crop ever is."""
    size = (WIDTH, round(picture.shape[0] * WIDTH / picture.shape[1]))
    return picture if picture.shape[1] <= WIDTH else np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _small_template(template: Template) -> Template:
    pixels = _small(template.pixels)
    return Template(pixels, template.points * np.float32(pixels.shape[1] / template.pixels.shape[1]))


def _cut_up(texture: Pixels, rng: Generator) -> Pixels:
    """A piece of it, turned by quarters, in other colours."""
    height, width = (int(side * rng.uniform(0.3, 1)) for side in texture.shape[:2])
    top, left = rng.integers(texture.shape[0] - height + 1), rng.integers(texture.shape[1] - width + 1)
    piece = texture[top : top + height, left : left + width]
    return _dye(np.ascontiguousarray(np.rot90(piece, int(rng.integers(4)))), rng)


def _dye(texture: Pixels, rng: Generator) -> Pixels:
    """Every second time with the colours exchanged."""
    return np.ascontiguousarray(texture[..., rng.permutation(3)]) if rng.random() < 0.5 else texture


def _plain(rng: Generator) -> Pixels:
    """One colour and a weave."""
    colour = PLAIN[rng.integers(len(PLAIN))] if rng.random() < 0.6 else rng.uniform(10, 245, 3)
    return _pixels(colour + _noise(rng, rng.uniform(0.5, 6), 3) * rng.uniform(0, 8))


def _print(rng: Generator) -> Pixels:
    """Stripes, checks, dots or blotches of two or three colours."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    turn, step = rng.uniform(0, np.pi), rng.uniform(4, 26)
    along, across = (np.cos(turn) * x + np.sin(turn) * y) / step, (np.cos(turn) * y - np.sin(turn) * x) / step
    figures: tuple[Callable[[], NDArray[np.bool_]], ...] = (
        lambda: along % 1 < rng.uniform(0.2, 0.8),
        lambda: (along % 1 < 0.5) ^ (across % 1 < 0.5),
        lambda: np.hypot(along % 1 - 0.5, across % 1 - 0.5) < rng.uniform(0.15, 0.45),
        lambda: _noise(rng, rng.uniform(1.5, 6))[..., 0] > rng.uniform(-0.7, 0.7),
    )
    figure = one_of(figures, rng)()
    ground, ink, second = rng.uniform(0, 255, (3, 3))
    cloth = np.where(figure[..., None], ink, ground)
    if rng.random() < 0.4:
        cloth = np.where(_noise(rng, rng.uniform(1.5, 6)) > 0.8, second, cloth)
    return _pixels(cloth)


def _noise(rng: Generator, size: float, channels: int = 1) -> NDArray[np.float32]:
    """(72, 96, channels) smooth noise of unit variance with grains of ``size`` pixels."""
    grains = cv2.GaussianBlur(rng.normal(0, 1, (*SHAPE, channels)).astype(np.float32), (0, 0), size)
    return np.asarray(grains / grains.std(), np.float32).reshape(*SHAPE, channels)


def _pixels(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(values, 0, 255), np.uint8)
