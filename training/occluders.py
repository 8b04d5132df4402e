"""What hides, darkens or spoils a face and is no mask: hard negatives, and the wear that every camera adds."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

from pipeline.packets import CROP, CROP_MARGIN, Floats, Pixels
from training.drawn_masks import ARCFACE

EYES, MOUTH = (58.5, 60.5), (100.2, 64.0)  # (y, x)-like heights of eyes and mouth, and the middle, in a 128-pixel crop
CROP_LANDMARKS = ARCFACE + CROP_MARGIN
Occluder = Callable[[Pixels, Pixels, Generator], Pixels]


def occlude(crop: Pixels, cloth: Pixels, rng: Generator) -> Pixels:
    """One or two things on an aligned (128, 128, 3) face that are no mask; ``cloth`` is a texture masks are made of."""
    for _ in range(rng.integers(1, 3)):
        crop = OCCLUDERS[rng.integers(len(OCCLUDERS))](crop, cloth, rng)
    return crop
