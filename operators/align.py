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


def similarity(source: Floats, target: Floats) -> Floats:
    """The rotation, scale and shift that bring ``source`` closest to ``target``, both (N, 2).

    Returns:
        (2, 3) float32. Least squares in closed form (Umeyama 1991, in the plane, without reflection).
    """
    a, b = source - source.mean(0), target - target.mean(0)
    scale = max(float((a**2).sum()), 1e-12)
    cos = float((a * b).sum()) / scale
    sin = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / scale
    turn = np.array([[cos, -sin], [sin, cos]])
    shift = target.mean(0) - turn @ source.mean(0)
    return np.column_stack([turn, shift]).astype(np.float32)


def align(image: Pixels, landmarks: Floats) -> Pixels:
    """The aligned (128, 128, 3) crop of the face with ``landmarks`` (5, 2) in ``image``, black outside of it."""
    return np.asarray(cv2.warpAffine(image, similarity(landmarks, TEMPLATE), (CROP, CROP)), np.uint8)
