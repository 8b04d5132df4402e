"""What hides, darkens or spoils a face and is no mask: hard negatives, and the wear that every camera adds.

Everything here works on aligned (128, 128, 3) uint8 RGB crops; the mouth lies at (64, 100) xy, the eyes at height 60.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from operators.align import TEMPLATE, similarity
from pipeline.packets import CROP, Pixels

Numbers = NDArray[np.floating[Any]]
Occluder = Callable[[Pixels, Pixels, Generator], Pixels]
Y, X = np.mgrid[:CROP, :CROP].astype(np.float32)
HAIR = np.array([[30, 24, 20], [70, 48, 32], [120, 116, 112], [205, 202, 198], [125, 75, 40]])  # black to white, red


def occlude(crop: Pixels, cloth: Pixels, rng: Generator) -> Pixels:
    """The face with one or two things that are no mask; ``cloth`` is a texture that masks are made of."""
    for _ in range(rng.integers(1, 3)):
        crop = OCCLUDERS[rng.integers(len(OCCLUDERS))](crop, cloth, rng)
    return crop


def occlude_masked(crop: Pixels, cloth: Pixels, rng: Generator) -> Pixels:
    """The face with one thing that may well be there beside a mask."""
    return BESIDE_A_MASK[rng.integers(len(BESIDE_A_MASK))](crop, cloth, rng)


def degrade(crop: Pixels, rng: Generator) -> Pixels:
    """The face as a worse camera sees it: no colour, other light, low resolution, blur, noise, JPEG."""
    for share, spoil in (
        (0.15, _grey),
        (0.7, _relight),
        (0.4, _coarse),
        (0.25, _blurred),
        (0.25, _noisy),
        (0.5, _jpeg),
    ):
        if rng.random() < share:
            crop = spoil(crop, rng)
    return crop


def realign(crop: Pixels, rng: Generator) -> Pixels:
    """The face aligned by landmarks that are off, as a detector's are on hidden faces.

    The eyes are off by 4 %, nose and mouth by 9 % of the distance of the eyes (standard deviation, each
    axis), the mouth's corners together: on masked faces RetinaFace was measured to be off by 7, 12 and 17 %.
    """
    eyes = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]))
    off = rng.normal(0, eyes, (5, 2)) * np.array([[0.04], [0.04], [0.09], [0.04], [0.04]])
    off[3:] += rng.normal(0, 0.09 * eyes, 2)
    move = similarity((TEMPLATE + off).astype(np.float32), TEMPLATE)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.7 else cv2.BORDER_REPLICATE
    return _clip(cv2.warpAffine(crop, move, (CROP, CROP), borderMode=border))


def _beard(crop: Pixels, _: Pixels, rng: Generator) -> Pixels:
    """Hair on jaw, chin and lip, with the mouth free."""
    upper = rng.uniform(84, 106) + rng.uniform(-14, 4) * ((X - 64) / 36) ** 2
    jaw = _ellipse(64, 84, rng.uniform(36, 42), rng.uniform(42, 50)) & (upper < Y)
    mouth = _ellipse(64, 100, rng.uniform(14, 19), rng.uniform(4, 8))
    noise = rng.normal(0, 70, (CROP, CROP)).astype(np.float32)
    strands = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=0.7, sigmaY=1.8))
    alpha = _soft(jaw & ~mouth, rng.uniform(1.5, 4)) * rng.uniform(0.5, 0.95)
    return _lay(crop, HAIR[rng.integers(len(HAIR))] + strands[..., None], alpha)


def _hand(crop: Pixels, _: Pixels, rng: Generator) -> Pixels:
    """Fingers, or a fist, of the face's own skin that come from below or a side and lie on mouth, cheek or nose."""
    skin = np.median(crop[72:86, 36:92].reshape(-1, 3), axis=0) * rng.uniform(0.75, 1.15)
    tip = np.array([rng.uniform(44, 84), rng.uniform(72, 112)])
    along = rng.uniform(-0.1, 1.1) * np.pi  # from the tip to the wrist: to the right, down or to the left
    step, back = rng.uniform(9, 15), np.array([np.cos(along), np.sin(along)])
    if rng.random() < 0.3:
        crop = _finger(crop, skin * 0.95, tip + back * 8, back, rng.uniform(18, 30))
    for finger in range(rng.integers(2, 6)):
        start = tip + np.array([-back[1], back[0]]) * step * (finger - 1.5) + back * rng.uniform(0, 8)
        crop = _finger(crop, skin, start, back, step * 0.56)
    return crop


def _finger(crop: Pixels, skin: Numbers, start: Numbers, back: Numbers, radius: float) -> Pixels:
    """A round-headed bar from ``start`` out of the picture, darker towards its sides."""
    along = np.clip((X - start[0]) * back[0] + (Y - start[1]) * back[1], 0, None)
    distance = np.hypot(X - start[0] - along * back[0], Y - start[1] - along * back[1]) / radius
    return _lay(crop, skin * (1.08 - 0.4 * np.clip(distance, 0, 1) ** 3)[..., None], np.clip((1 - distance) * 3, 0, 1))


def _microphone(crop: Pixels, _: Pixels, rng: Generator) -> Pixels:
    x, y, radius, tone = rng.uniform(44, 84), rng.uniform(98, 120), rng.uniform(7, 15), rng.uniform(10, 110)
    stick = (np.abs(X - x - (Y - y) * rng.uniform(-0.6, 0.6)) < radius * 0.6) & (y < Y)
    light = tone * (1.3 - 0.6 * np.hypot(X - x + 3, Y - y + 3) / radius).clip(0.4, 1.5)
    return _lay(crop, light[..., None], _soft(stick | _ellipse(x, y, radius, radius), 0.8))


def _thing(crop: Pixels, cloth: Pixels, rng: Generator) -> Pixels:
    """A cup, a telephone or the like, at most half as wide as the face, anywhere."""
    x, y, turn = rng.uniform(20, 108), rng.uniform(20, 120), rng.uniform(-0.8, 0.8)
    across, down = (X - x) * np.cos(turn) + (Y - y) * np.sin(turn), (Y - y) * np.cos(turn) - (X - x) * np.sin(turn)
    power = 8 if rng.random() < 0.6 else 2  # a rectangle with round corners, or an ellipse
    inside = np.abs(across / rng.uniform(5, 19)) ** power + np.abs(down / rng.uniform(6, 24)) ** power < 1
    return _lay(crop, _material(cloth, rng), _soft(inside, rng.uniform(0.5, 1.5)))


def _shade(crop: Pixels, _: Pixels, rng: Generator) -> Pixels:
    """Shadow or light from below, from above or from a side."""
    across, down = rng.uniform(40, 88), rng.uniform(55, 100)
    towards = (Y - down, down - Y, X - across, across - X)[rng.integers(4)]
    edge = 1 / (1 + np.exp(-towards / rng.uniform(1.5, 14)))
    return _clip(crop * (1 + edge * rng.uniform(-0.75, 0.5))[..., None])


def _glasses(crop: Pixels, cloth: Pixels, rng: Generator) -> Pixels:
    """Sunglasses, or a band across the eyes."""
    middle, half = rng.uniform(56, 64), rng.uniform(6, 13)
    band = (np.abs(Y - middle) < half) & (np.abs(X - 64) < rng.uniform(30, 48))
    bridge = (np.abs(X - 64) < rng.uniform(0, 5)) & (np.abs(Y - middle + half * 0.4) > half * 0.4)
    return _lay(crop, _material(cloth, rng), _soft(band & ~bridge, rng.uniform(0.5, 1.5)) * rng.uniform(0.7, 1))


def _headwear(crop: Pixels, cloth: Pixels, rng: Generator) -> Pixels:
    """A cap, or a headscarf that also falls down the sides."""
    edge = rng.uniform(22, 50) + rng.uniform(-10, 12) * ((X - 64) / 45) ** 2
    sides = (np.abs(X - 64) > rng.uniform(38, 46)) & (rng.random() < 0.4)
    return _lay(crop, _material(cloth, rng), _soft((edge > Y) | sides, rng.uniform(0.5, 1.5)))


def _collar(crop: Pixels, cloth: Pixels, rng: Generator) -> Pixels:
    """A scarf at the neck, or a mask pulled down to the chin: mouth and nose are free."""
    edge = rng.uniform(111, 124) + rng.uniform(-26, 2) * ((X - 64) / 40) ** 2
    inside = (edge < Y) & (np.abs(X - 64) < rng.uniform(34, 70))
    return _lay(crop, _material(cloth, rng), _soft(inside, rng.uniform(0.5, 1.5)))


def _lips(crop: Pixels, _: Pixels, rng: Generator) -> Pixels:
    """Painted lips or an open mouth."""
    mouth = _ellipse(64, rng.uniform(97, 106), rng.uniform(12, 20), rng.uniform(4, 14))
    colour = np.array([rng.uniform(20, 220), rng.uniform(10, 70), rng.uniform(10, 90)])
    return _lay(crop, colour, _soft(mouth, rng.uniform(0.5, 1.5)) * rng.uniform(0.5, 1))


OCCLUDERS: tuple[Occluder, ...] = (
    _beard, _beard, _hand, _hand, _microphone, _thing, _thing, _shade, _shade, _glasses, _headwear, _collar, _lips
)  # fmt: skip
BESIDE_A_MASK: tuple[Occluder, ...] = (_shade, _glasses, _headwear)


def _ellipse(x: float, y: float, wide: float, tall: float) -> NDArray[np.bool_]:
    return np.asarray(((X - x) / wide) ** 2 + ((Y - y) / tall) ** 2 < 1, np.bool_)


def _soft(region: NDArray[np.bool_], blur: float) -> Numbers:
    return np.asarray(cv2.GaussianBlur(region.astype(np.float32), (0, 0), blur), np.float32)


def _material(cloth: Pixels, rng: Generator) -> Numbers:
    """Cloth at a random size and in a random light, or one colour."""
    if rng.random() < 0.4:
        return np.asarray(rng.uniform(0, 255, 3) * (1 + 0.3 * rng.uniform(-1, 1) * (X / CROP - 0.5))[..., None])
    side = int(rng.uniform(0.4, 1.5) * CROP)
    tile = cv2.resize(cloth, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    rows, columns = ((np.arange(CROP) + rng.integers(side)) % side for _ in range(2))
    return np.asarray(tile[rows][:, columns] * rng.uniform(0.4, 1.1))


def _lay(crop: Pixels, colour: Numbers, alpha: Numbers) -> Pixels:
    return _clip(crop * (1 - alpha[..., None]) + colour * alpha[..., None])


def _grey(crop: Pixels, _: Generator) -> Pixels:
    return _clip(np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2))


def _relight(crop: Pixels, rng: Generator) -> Pixels:
    """Gamma, gain, contrast and, on every second face, a colour cast."""
    cast = rng.uniform(0.88, 1.12, 3) if rng.random() < 0.5 else np.ones(3)
    light = (crop / 255.0) ** rng.uniform(0.6, 1.7) * rng.uniform(0.6, 1.15) * cast
    return _clip(255 * ((light - 0.5) * rng.uniform(0.6, 1.2) + 0.5))


def _coarse(crop: Pixels, rng: Generator) -> Pixels:
    side = int(rng.uniform(24, 100))
    return _clip(cv2.resize(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), (CROP, CROP)))


def _blurred(crop: Pixels, rng: Generator) -> Pixels:
    return _clip(cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.5, 2.5)))


def _noisy(crop: Pixels, rng: Generator) -> Pixels:
    return _clip(crop + rng.normal(0, rng.uniform(2, 12), crop.shape))


def _jpeg(crop: Pixels, rng: Generator) -> Pixels:
    _, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(20, 90))])
    return _clip(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)))


def _clip(values: NDArray[Any]) -> Pixels:
    return np.asarray(np.clip(values, 0, 255), np.uint8)
