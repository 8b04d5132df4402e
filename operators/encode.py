"""Read what each face shows in this frame alone; nothing is remembered here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from operators.engine import engine
from operators.nets import expression
from pipeline.compute import Compute
from pipeline.operator import Operator
from pipeline.packets import EncodedFace, Floats, IdentifiedFace, Pixels, grow
from pipeline.policy import Policy

SIDE = expression.SIDE
TEMPERATURE = 3.5  # `python -m training.emotion_temperature` finds it


class Encode(Operator[IdentifiedFace, EncodedFace]):
    """The per-frame expression net, calibrated by a temperature (Guo et al. 2017).

    It never sees a masked face, a face below the quality gate, or a restored pixel.
    """

    def __init__(self, compute: Compute, policy: Policy, temperature: float = TEMPERATURE) -> None:
        """Load the net.

        Args:
            compute: Where the net runs.
            policy: Without ``emotion`` no face is looked at.
            temperature: What the logits are divided by.

        Raises:
            WeightsError: The weights were not pulled.
            DeviceError: The device is not there.
        """
        self._allowed, self._temperature = policy.emotion, temperature
        self._net = engine(expression.load(), (np.zeros((1, SIDE, SIDE, 3), np.uint8),), compute, "expression")

    def __call__(self, batch: Sequence[IdentifiedFace]) -> Iterable[EncodedFace]:
        """Every face, in order; those that may be read with their logits."""
        read = [n for n, face in enumerate(batch) if self._allowed and readable(face)]
        logits = dict(zip(read, self._logits([batch[n].crop for n in read]), strict=True))
        return [grow(face, EncodedFace, emotion_logits=logits.get(n)) for n, face in enumerate(batch)]

    def _logits(self, crops: Sequence[Pixels]) -> Sequence[Floats]:
        if not crops:
            return []
        raw, _ = self._net(np.stack([expression_input(crop) for crop in crops]))
        return list(np.asarray(raw / self._temperature, np.float32))


def readable(face: IdentifiedFace) -> bool:
    """Whether the face shows enough of itself: past the gate, and bare by its own and its track's word."""
    return face.quality.passed and face.mask.label != "masked" and face.mask_probability < 0.5


def expression_input(crop: Pixels) -> Pixels:
    """The (128, 128, 3) crop as the expression net takes it: (112, 112, 3) uint8 RGB."""
    return np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
