"""Small pictures that mean the same in the video and in the report: estimates, hidden faces, maps over faces."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.packets import Floats, Pixels
from pipeline.palette import AGAINST, FOR, HATCH

MOSAIC = 8  # samples along each side of a hidden face: too few to recognise anybody
JPEG_QUALITY = 90


def hatched(image: Pixels, where: NDArray[np.bool_], period: int = 10) -> Pixels:
    """A copy of ``image``, (H, W, 3) uint8 RGB, with diagonal stripes over the pixels of ``where``, (H, W) bool.

    ``period`` is the distance from stripe to stripe along a row, in pixels.
    """
    diagonal = np.add.outer(np.arange(where.shape[0]), np.arange(where.shape[1]))
    stripe = where & (diagonal % period < max(1, period // 4))
    result = image.copy()
    result[stripe] = HATCH
    return result


def mosaic(image: Pixels) -> Pixels:
    """``image``, (H, W, 3) uint8 RGB, from 8x8 samples of it: a face cannot be recovered from them."""
    coarse = cv2.resize(image, (MOSAIC, MOSAIC), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(coarse, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def overlaid(image: Pixels, relevance: Floats, against: bool = False) -> Pixels:
    """``image``, (H, W, 3) uint8 RGB, in grey, under a map of relevance, (h, w) float32 in [-1, 1].

    What speaks for the decision is blue, what speaks against it orange; the stronger, the less of the
    picture shows. With ``against`` the whole map speaks against it.
    """
    signed = cv2.resize(np.nan_to_num(relevance).clip(-1, 1), image.shape[1::-1])[..., None]
    signed = -signed if against else signed
    colour = np.where(signed >= 0, np.array(FOR), np.array(AGAINST))
    weight = 0.85 * np.abs(signed)
    return np.asarray((1 - weight) * _grey(image) + weight * colour, np.uint8)


def heat(values: Floats, image: Pixels) -> Pixels:
    """A map of (H, W) float32 in [0, 1] over ``image`` of its size, in the cividis scale: dark blue 0, yellow 1."""
    levels = (np.nan_to_num(values).clip(0, 1) * 255).astype(np.uint8)
    colour = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    return np.asarray(0.3 * _grey(image) + 0.7 * colour, np.uint8)


def _grey(image: Pixels) -> NDArray[np.float64]:
    """Lightened, so that colour over it is seen."""
    return 40 + 0.8 * np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float64)[..., None]


def data_uri(image: Pixels) -> str:
    """``image``, (H, W, 3) uint8 RGB, as a ``data:`` URI of a JPEG."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
