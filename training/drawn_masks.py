"""Draws face masks on bare faces, to train and to test what must tell a mask from a face.

A mask is a piece of cloth with coordinates ``u`` in [-1, 1] from cheek to cheek and ``v`` in [0, 1]
from nose to chin. Every pixel of the picture is taken to the frame of the ArcFace template
(112 pixels, upright), the turn of the head is taken out, and the cloth is looked up at ``(u, v)``.
"""

from __future__ import annotations

from configparser import ConfigParser, SectionProxy
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from operators.align import TEMPLATE_112
from pipeline.packets import Floats, Pixels
from training.faces import read_picture

MIDDLE = 56.0  # the template's line of symmetry
FACE_HALF_WIDTH = 40.0  # from that line to the edge of a frontal face
EDGE_PARALLAX = 0.8  # how far the face's edge moves against the nose when the head turns, per pixel of the nose
REACH = np.array([[-14.0, 40.0], [126.0, 40.0], [126.0, 150.0], [-14.0, 150.0]], np.float32)  # no mask lies outside
STRAP = 215.0  # grey level of the loops
EDGE_BLUR = 1.6  # pixels of the picture over which an edge fades
EAR = (43.5, 59.0, 75.0)  # half distance of the ears, and the heights at which upper and lower straps meet them


@dataclass(frozen=True, slots=True)
class Kind:
    """The cut of a mask, in pixels of the ArcFace template.

    Attributes:
        bridge: Height of the upper edge on the nose.
        cheek: Height of the upper edge at the sides.
        jaw: Height of the lower edge at the sides.
        chin: Height of the lower edge in the middle.
        top: Half width at the upper edge.
        bottom: Half width at the lower edge.
        peak: Width of the rise over the nose, as a share of the half width.
        pleats: Number of horizontal pleats.
        ridge: Depth of the fold down the middle, 0 for none.
        dome: Darkening towards the sides, 0 for flat.
        straps: Whether loops run to the ears.
    """

    bridge: float
    cheek: float
    jaw: float
    chin: float
    top: float
    bottom: float
    peak: float
    pleats: int = 0
    ridge: float = 0.0
    dome: float = 0.25
    straps: bool = True


KINDS = {
    "surgical": Kind(60, 65, 101, 121, 38, 33, 0.55),
    "pleated": Kind(60, 65, 101, 121, 38, 33, 0.55, pleats=3),
    "cloth": Kind(58, 65, 100, 122, 38, 29, 0.45, ridge=0.08),
    "ffp2": Kind(58, 69, 97, 121, 37, 26, 0.46, ridge=0.22, dome=0.30),
    "cup": Kind(60, 74, 97, 118, 33, 29, 0.72, dome=0.45),
    "bandana": Kind(60, 64, 104, 138, 40, 29, 0.60, dome=0.35, straps=False),
    "gaiter": Kind(60, 65, 128, 140, 39.5, 28, 0.55, dome=0.45, straps=False),
}


@dataclass(frozen=True, slots=True)
class Template:
    """A photographed mask.

    Attributes:
        pixels: (H, W, 4) uint8 RGBA.
        points: (6, 2) float32 xy: upper edge left, middle, right, lower edge left, middle, right.
    """

    pixels: Pixels
    points: Floats


TEMPLATE_CUT = Kind(59, 64, 100, 122, 38, 33, 0.0, dome=0.12, straps=False)  # where the six points go


@dataclass(frozen=True, slots=True)
class _Pose:
    """Where a face is: image = turn * template + origin in complex numbers, and how it is bent from there."""

    turn: complex
    origin: complex
    sway: Floats  # (3,) sideways shift of the middle line at the eyes, the nose and the mouth
    drop: float  # downward shift of the mouth

    @property
    def scale(self) -> float:
        return abs(self.turn)


def read_templates(folder: Path) -> dict[str, Template]:
    """The templates of a folder by name: its ``masks.cfg`` and the RGBA pictures in ``templates``."""
    config = ConfigParser()
    config.read(folder / "masks.cfg")
    return {name: _read_template(folder, section) for name, section in config.items() if "mask_a" in section}


def read_textures(folder: Path) -> dict[str, Pixels]:
    """The pictures of a folder as (H, W, 3) uint8 RGB by name without suffix."""
    files = sorted(file for file in folder.iterdir() if file.suffix in {".jpg", ".png"})
    return {file.stem: read_picture(file.read_bytes()) for file in files}


def draw(
    image: Pixels,
    landmarks: Floats,
    texture: Pixels,
    kind: str = "surgical",
    rng: np.random.Generator | None = None,
) -> tuple[Pixels, Floats]:
    """Puts a mask of cloth on a face.

    Args:
        image: (H, W, 3) uint8 RGB, the whole frame or a crop.
        landmarks: (5, 2) xy in pixels of ``image``, in the order of ``Face.landmarks``.
        texture: (h, w, 3) uint8 RGB, the cloth from cheek to cheek. A photographed pleated mask
            wants the kind ``surgical``, plain cloth any other.
        kind: One of ``KINDS``.
        rng: Varies cut, colour and light; None always draws the same.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and how much of each pixel the mask hides, (H, W) float32
        in [0, 1]. The faint shadow that the mask casts lies outside of it.
    """
    cut = KINDS[kind] if rng is None else _vary(KINDS[kind], rng)
    return _wear(image, landmarks, _tint(texture, rng), cut, rng)


def draw_template(
    image: Pixels, landmarks: Floats, template: Template, rng: np.random.Generator | None = None
) -> tuple[Pixels, Floats]:
    """Puts a photographed mask on a face; arguments and results are those of ``draw``."""
    cut = TEMPLATE_CUT if rng is None else _vary(TEMPLATE_CUT, rng)
    tinted = np.dstack([_tint(template.pixels[..., :3], rng), template.pixels[..., 3]])
    return _wear(image, landmarks, Template(tinted, template.points), cut, rng)


def _read_template(folder: Path, section: SectionProxy) -> Template:
    encoded = np.fromfile(folder / "templates" / Path(section["template"]).name, np.uint8)
    pixels = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)
    points = [[float(n) for n in section[f"mask_{letter}"].split(",")] for letter in "abcdef"]
    return Template(pixels[..., [2, 1, 0, 3]], np.array(points, np.float32))


def _vary(cut: Kind, rng: np.random.Generator) -> Kind:
    """Another cut of the same kind; one in six is worn below the nose tip but above the mouth."""
    low = rng.uniform(14, 20) if rng.random() < 1 / 6 else rng.uniform(-3, 7)
    wide, long = rng.uniform(0.9, 1.1), rng.uniform(-5, 6)
    return replace(
        cut,
        bridge=cut.bridge + low,
        cheek=cut.cheek + min(low, 10) + rng.uniform(-3, 3),
        jaw=cut.jaw + long,
        chin=cut.chin + long,
        top=cut.top * wide,
        bottom=cut.bottom * wide * rng.uniform(0.92, 1.08),
        dome=cut.dome * rng.uniform(0.3, 1.4),
        straps=cut.straps and rng.random() < 0.6,
    )


def _tint(texture: Pixels, rng: np.random.Generator | None) -> Pixels:
    if rng is None:
        return texture
    gain = rng.uniform(0.6, 1.15) * rng.uniform(0.85, 1.15, 3)
    return np.clip(texture * gain + rng.uniform(-12, 12), 0, 255).astype(np.uint8)


def _wear(
    image: Pixels, landmarks: Floats, cloth: Pixels | Template, cut: Kind, rng: np.random.Generator | None
) -> tuple[Pixels, Floats]:
    pose = _pose(landmarks)
    left, top, right, bottom = _window(pose, image.shape)
    covered = np.zeros(image.shape[:2], np.float32)
    if left >= right or top >= bottom:
        return image.copy(), covered
    drawn, part = image.copy(), np.s_[top:bottom, left:right]
    x, y = _unbend(pose, *_to_template(pose, left, top, right, bottom))
    u, v = _on_cloth(cut, x, y)
    colour, alpha = _look_up(cloth, cut, pose.scale, u, v)
    colour = colour * _relief(cut, u, v)[..., None]
    if cut.straps:
        colour, alpha = _lay_over(colour, alpha, _straps(cut, pose.scale, x, y))
    drawn[part] = _blend(image[part], colour, alpha, pose.scale, 0.6 if rng is None else rng.uniform(0.2, 0.9))
    covered[part] = alpha
    return drawn, covered


def _pose(landmarks: Floats) -> _Pose:
    """The similarity that takes eyes and mouth of the template to the face, and what it leaves over."""
    points, flat = (p.astype(np.float64) @ np.array([1, 1j]) for p in (landmarks, TEMPLATE_112))
    outer = [0, 1, 3, 4]  # the nose tip stands out of the plane, so it tells the turn and not the place
    p, f = points[outer], flat[outer]
    turn = complex(np.vdot(f - f.mean(), p - p.mean()) / np.vdot(f - f.mean(), f - f.mean()).real)
    origin = complex(p.mean() - turn * f.mean())
    left_over = (points - origin) / turn - flat
    sway = np.array([left_over[:2].mean().real, left_over[2].real, left_over[3:].mean().real])
    return _Pose(
        turn, origin, np.clip(sway, -9, 9).astype(np.float32), float(np.clip(left_over[3:].mean().imag, -6, 6))
    )


def _window(pose: _Pose, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part of the picture that a mask may touch: left, top, right, bottom."""
    corners = pose.turn * (REACH @ np.array([1, 1j])) + pose.origin
    left, right = np.clip([corners.real.min(), corners.real.max()], 0, shape[1]).astype(int)
    top, bottom = np.clip([corners.imag.min(), corners.imag.max()], 0, shape[0]).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _to_template(pose: _Pose, left: int, top: int, right: int, bottom: int) -> tuple[Floats, Floats]:
    points = np.arange(left, right)[None, :] + 1j * np.arange(top, bottom)[:, None]
    upright = (points - pose.origin) / pose.turn
    return upright.real.astype(np.float32), upright.imag.astype(np.float32)


def _unbend(pose: _Pose, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Template coordinates of a face that looks straight ahead, by fixed-point iteration."""
    level = y - np.float32(pose.drop) * np.clip((y - 60) / 32, 0, 1)
    middle = np.interp(level, TEMPLATE_112[[0, 2, 3], 1], pose.sway).astype(np.float32)
    edge = -EDGE_PARALLAX * pose.sway[1]
    straight = np.asarray(x, np.float32)
    for _ in range(4):
        outward = np.clip((straight - MIDDLE) / FACE_HALF_WIDTH, -1, 1) ** 2
        straight = np.asarray(x - middle * (1 - outward) - edge * outward, np.float32)
    return straight, np.asarray(level, np.float32)


def _on_cloth(cut: Kind, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Cloth coordinates of template coordinates, by fixed-point iteration: the width depends on ``v``."""
    v = np.asarray((y - cut.bridge) / (cut.chin - cut.bridge), np.float32)
    for _ in range(3):
        u = np.asarray((x - MIDDLE) / _half_width(cut, v), np.float32)
        upper, lower = _edges(cut, u)
        v = np.asarray((y - upper) / (lower - upper), np.float32)
    return u, v


def _half_width(cut: Kind, v: Floats) -> Floats:
    return np.asarray(cut.top + (cut.bottom - cut.top) * np.clip(v, 0, 1), np.float32)


def _edges(cut: Kind, u: Floats) -> tuple[Floats, Floats]:
    """Heights of the upper and the lower edge; straight from point to point where there is no peak."""
    side = np.minimum(np.abs(u), 1.5)
    if cut.peak == 0:
        upper, lower = cut.cheek + (cut.bridge - cut.cheek) * (1 - side), cut.jaw + (cut.chin - cut.jaw) * (1 - side)
    else:
        upper = cut.cheek + (cut.bridge - cut.cheek) * np.exp(-((side / cut.peak) ** 2))
        lower = cut.jaw + (cut.chin - cut.jaw) * np.sqrt(np.clip(1 - side**2, 0, 1))
    return np.asarray(upper, np.float32), np.asarray(lower, np.float32)


def _look_up(cloth: Pixels | Template, cut: Kind, scale: float, u: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Colour (h, w, 3) in 0..255 and cover (h, w) in [0, 1] at cloth coordinates."""
    if isinstance(cloth, Template):
        return _look_up_template(cloth, cut, scale, u, v)
    small = _shrink(cloth, 2 * cut.top * scale / 0.94)
    height, width = small.shape[:2]
    across, down = (0.5 + 0.47 * u) * (width - 1), (0.03 + 0.94 * v) * (height - 1)  # the photographs have borders
    colour = cv2.remap(small, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    upper, lower = _edges(cut, u)
    inside = np.minimum((1 - np.abs(u)) * _half_width(cut, v), np.minimum(v, 1 - v) * (lower - upper))
    alpha = np.clip(inside * scale / EDGE_BLUR + 0.5, 0, 1)
    return np.asarray(colour, np.float32), np.asarray(alpha, np.float32)


def _look_up_template(cloth: Template, cut: Kind, scale: float, u: Floats, v: Floats) -> tuple[Floats, Floats]:
    a, b, c, d, e, f = cloth.points
    small = _shrink(cloth.pixels, cloth.pixels.shape[1] * 2 * cut.top * scale / float(np.linalg.norm(c - a)))
    ratio = small.shape[1] / cloth.pixels.shape[1]
    side, fall = np.abs(u)[..., None], v[..., None]
    outer_upper, outer_lower = (np.where(u[..., None] < 0, left, right) for left, right in ((a, c), (d, f)))
    place = (1 - fall) * ((1 - side) * b + side * outer_upper) + fall * ((1 - side) * e + side * outer_lower)
    place = (place * ratio).astype(np.float32)
    found = cv2.remap(small, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    beyond = (np.abs(u) > 1.12) | (np.abs(v - 0.5) > 0.7)  # out there the extrapolated picture folds
    alpha = np.where(beyond, 0, found[..., 3] / np.float32(255))
    return np.asarray(found[..., :3], np.float32), np.asarray(alpha, np.float32)


def _shrink(picture: Pixels, width: float) -> Pixels:
    """The picture at the size at which it is drawn, so that looking it up does not alias."""
    ratio = min(1.0, max(width, 8) / picture.shape[1])
    size = (max(2, round(picture.shape[1] * ratio)), max(2, round(picture.shape[0] * ratio)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _relief(cut: Kind, u: Floats, v: Floats) -> Floats:
    """Brightness of the cloth by its own form: round, falling away under the chin, pleated, folded."""
    light = 1 - cut.dome * np.clip(np.abs(u), 0, 1) ** 2 - 0.22 * np.clip((v - 0.62) / 0.38, 0, 1) ** 2
    light -= cut.ridge * np.clip(u / 0.25, -1, 1) * 0.5
    for pleat in range(cut.pleats):
        below = v - (pleat + 1) / (cut.pleats + 1)
        light += 0.06 * np.exp(-(((below + 0.03) / 0.03) ** 2)) - 0.16 * np.exp(-((below / 0.014) ** 2))
    hem = np.exp(-(((np.minimum(v, 1 - v) - 0.05) / 0.012) ** 2))
    return np.asarray(light - 0.07 * hem if cut.straps else light, np.float32)


def _straps(cut: Kind, scale: float, x: Floats, y: Floats) -> Floats:
    """How much the loops from the four corners to the ears cover each pixel."""
    apart, high, low = EAR
    side = np.asarray(np.abs(x - MIDDLE), np.float32)
    upper = _to_segment(side, y, (cut.top - 1, cut.cheek + 3), (apart, high))
    lower = _to_segment(side, y, (cut.bottom - 1, cut.jaw - 4), (apart, low))
    return np.asarray(0.85 * np.clip((0.9 - np.minimum(upper, lower)) * scale + 0.5, 0, 1), np.float32)


def _to_segment(x: Floats, y: Floats, start: tuple[float, float], end: tuple[float, float]) -> Floats:
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.asarray(np.hypot(x - start[0] - along * dx, y - start[1] - along * dy), np.float32)


def _lay_over(colour: Floats, alpha: Floats, straps: Floats) -> tuple[Floats, Floats]:
    """The mask over its straps: colour and cover of both."""
    seen = straps * (1 - alpha)
    cover = alpha + seen
    both = (colour * alpha[..., None] + STRAP * seen[..., None]) / np.maximum(cover, 1e-6)[..., None]
    return np.asarray(both, np.float32), cover


def _blend(image: Pixels, colour: Floats, alpha: Floats, scale: float, follow: float) -> Pixels:
    """The cloth in the light of the face it lies on, and its shadow on the skin.

    ``follow`` in [0, 1] says how much of the face's own light and shade the cloth shows.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    face = np.asarray(cv2.GaussianBlur(grey, (0, 0), 7 * scale), np.float32)
    level = _mean(face, alpha)
    light = np.clip(face / max(level, 1), 0.5, 1.5) ** follow * np.clip(level / 140, 0.3, 1.1) ** 0.7
    lowered = cv2.warpAffine(alpha, np.array([[1, 0, 0], [0, 1, 1.2 * scale]]), alpha.shape[::-1])
    shadow = np.asarray(cv2.GaussianBlur(lowered, (0, 0), 2.2 * scale))
    skin = image * (1 - 0.28 * shadow[..., None])
    blended = skin + (_as_grey_as(image, alpha, colour) * light[..., None] - skin) * alpha[..., None]
    return np.asarray(np.clip(blended + 0.5, 0, 255), np.uint8)


def _as_grey_as(image: Pixels, alpha: Floats, colour: Floats) -> Floats:
    """A camera that sees the skin without colour sees the mask so too."""
    red, green, blue = cv2.split(image)
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    share = min(max((_mean(np.asarray(spread, np.float32), alpha) - 8) / 20, 0.0), 1.0)
    grey = (colour @ np.full(3, 1 / 3, np.float32))[..., None]
    return np.asarray(grey + (colour - grey) * np.float32(share), np.float32)


def _mean(values: Floats, weights: Floats) -> float:
    return float((values * weights).sum()) / max(float(weights.sum()), 1e-6)
