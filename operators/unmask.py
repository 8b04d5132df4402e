"""Say of each face whether a mask hides it, and ask a restorer what may lie behind; an estimate is never evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import cv2
import numpy as np

from operators.engine import engine
from operators.nets import mask_state
from pipeline.compute import Compute
from pipeline.operator import Operator
from pipeline.packets import CROP, BareFace, Floats, Pixels, Restoration, TrackedFace, grow
from pipeline.policy import Policy

# What a mask may hide, in pixels of the aligned crop: from the bridge of the nose over the cheeks to below the chin.
LOWER_FACE = np.array(
    [[64, 64], [84, 71], [103, 72], [102, 92], [97, 110], [84, 124], [64, 127],
     [44, 124], [31, 110], [26, 92], [25, 72], [44, 71]], np.int32
)  # fmt: skip


class Restorer(Protocol):
    """Estimates what masks hide."""

    def __call__(self, crops: Pixels) -> list[Restoration]:
        """One restoration for each of the (N, 128, 128, 3) uint8 RGB crops, in order."""


class NoRestorer:
    """Invents nothing: it gives every crop back as it was, and says where nothing is known."""

    def __call__(self, crops: Pixels) -> list[Restoration]:
        """The crops themselves; uncertainty is 1 on the lower face and 0 elsewhere."""
        hidden = lower_face()
        nothing = np.zeros((CROP, CROP), np.bool_)
        return [
            Restoration(restored=False, image=crop, invented=nothing, uncertainty=hidden, confidence=0.0)
            for crop in crops
        ]


class Unmask(Operator[TrackedFace, BareFace]):
    """The mask state of every face, in one call of the net, and a restoration of the masked faces that were chosen."""

    def __init__(
        self, compute: Compute, policy: Policy, threshold: float = 0.5, restorer: Restorer | None = None
    ) -> None:
        """Load the classifier.

        Args:
            compute: Where the net runs.
            policy: Without ``unmasking`` no restorer is ever called.
            threshold: Probability in [0, 1] from which on a face counts as masked.
            restorer: What estimates the hidden pixels; nothing is invented without one.

        Raises:
            DeviceError: The device is not there.
        """
        self._allowed, self._threshold = policy.unmasking, threshold
        self._restore: Restorer = restorer or NoRestorer()
        self._net = engine(mask_state.load(), (np.zeros((1, CROP, CROP, 3), np.uint8),), compute, "mask_state")

    def __call__(self, batch: Sequence[TrackedFace]) -> Iterable[BareFace]:
        """Every face, in order, predicted ones too."""
        if not batch:
            return []
        crops = np.stack([face.crop for face in batch])
        (probabilities,) = self._net(crops)
        hidden = [n for n, face in enumerate(batch) if face.chosen and probabilities[n] >= self._threshold]
        restorations = self._restorations(crops, hidden)
        return [
            grow(face, BareFace, mask_probability=float(probabilities[n]), restoration=restorations.get(n))
            for n, face in enumerate(batch)
        ]

    def _restorations(self, crops: Pixels, hidden: list[int]) -> dict[int, Restoration]:
        if not self._allowed or not hidden:
            return {}
        return dict(zip(hidden, self._restore(crops[hidden]), strict=True))


def lower_face() -> Floats:
    """(128, 128) float32: 1 on the part of an aligned crop that a mask may hide, 0 elsewhere."""
    region = np.zeros((CROP, CROP), np.float32)
    cv2.fillPoly(region, [LOWER_FACE], 1.0)
    return region
