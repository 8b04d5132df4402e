"""Bring a face into the place where the nets expect it."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.packets import CROP, CROP_MARGIN, Floats, Pixels

# Eye, eye, nose tip, mouth corner, mouth corner in the 112-pixel template that ArcFace made the standard
# (Deng et al. 2019), in the order of ``Face.landmarks``.
TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
TEMPLATE = TEMPLATE_112 + CROP_MARGIN
PLANE = np.array([1, 1j])


def similarity(source: Floats, target: Floats) -> Floats:
    """The rotation, scale and shift that bring ``source`` closest to ``target``, both (N, 2).

    Returns:
        (2, 3) float32. Least squares in closed form (Umeyama 1991, in the plane, without reflection).
    """
    # As complex numbers a similarity is `turn * z + shift`, and `turn` is the slope of a regression line.
    z, w = source @ PLANE, target @ PLANE
    n, middle, aim = len(z), z.sum(), w.sum()
    spread = n * np.vdot(z, z).real - abs(middle) ** 2
    turn = (n * np.vdot(z, w) - middle.conjugate() * aim) / max(spread, 1e-9)
    shift = (aim - turn * middle) / n
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]], np.float32)


def align(image: Pixels, landmarks: Floats) -> Pixels:
    """The aligned (128, 128, 3) crop of the face with ``landmarks`` (5, 2) in ``image``, black outside of it."""
    return np.asarray(cv2.warpAffine(image, similarity(landmarks, TEMPLATE), (CROP, CROP)), np.uint8)
