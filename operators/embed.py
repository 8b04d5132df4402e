"""Turn a face into an identity vector and ask the gallery who looks like it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from operators.engine import engine
from operators.nets import mobilefacenet
from pipeline.compute import Compute
from pipeline.errors import GraphError
from pipeline.gallery import Gallery, MemoryGallery
from pipeline.operator import Operator
from pipeline.packets import CROP_MARGIN, BareFace, EmbeddedFace, Embedding, Floats, Pixels, grow
from pipeline.policy import Policy

INNER = slice(CROP_MARGIN, -CROP_MARGIN)  # the 112-pixel template inside the crop


class Embed(Operator[BareFace, EmbeddedFace]):
    """MobileFaceNet with 512 dimensions, for the faces that their tracks chose.

    Restored pixels never come near it: it looks at the crop as it was filmed.

    Attributes:
        model: Name of the net; vectors of nets with other names must not be compared with its own.
    """

    model: ClassVar[str] = "mobilefacenet"

    def __init__(self, compute: Compute, policy: Policy, gallery: Gallery | None = None) -> None:
        """Load the net.

        Args:
            compute: Where the net runs.
            policy: Without ``identification`` no vector is computed.
            gallery: Who is known; nobody if None.

        Raises:
            GraphError: The gallery compares the vectors of another net.
            WeightsError: The weights were not pulled.
            DeviceError: The device is not there.
        """
        self._allowed = policy.identification
        self._gallery: Gallery = MemoryGallery() if gallery is None else gallery
        if self._gallery.model != self.model:
            held = self._gallery.model
            message = (
                f"the gallery holds vectors of {held!r}, faces become {self.model!r}; give it this model in the graph"
            )
            raise GraphError(message)
        self._net = engine(mobilefacenet.load(), (np.zeros((1, 112, 112, 3), np.uint8),), compute, self.model)

    def __call__(self, batch: Sequence[BareFace]) -> Iterable[EmbeddedFace]:
        """Every face, in order; the chosen ones with their vector and candidates."""
        lost = self._gallery.lost
        chosen = [n for n, face in enumerate(batch) if face.chosen and self._allowed]
        found = dict(zip(chosen, self._embed([batch[n] for n in chosen]), strict=True))
        return [grow(face, EmbeddedFace, embedding=found.get(n), lost=lost) for n, face in enumerate(batch)]

    def close(self) -> None:
        self._gallery.close()

    def vectors(self, crops: Sequence[Pixels]) -> Floats:
        """(N, 512) float32 of unit length, for N aligned (128, 128, 3) uint8 RGB crops."""
        (raw,) = self._net(np.stack([crop[INNER, INNER] for crop in crops]))
        return np.asarray(raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-6), np.float32)

    def _embed(self, faces: Sequence[BareFace]) -> list[Embedding]:
        if not faces:
            return []
        vectors = self.vectors([face.crop for face in faces])
        answers = self._gallery.match(vectors, [face.mask_probability >= 0.5 for face in faces])
        return [
            Embedding(
                vector, answer.best, answer.gallery, answer.version, answer.stale_s,
                answer.lost, answer.limits, self.model,
            )
            for vector, answer in zip(vectors, answers, strict=True)
        ]  # fmt: skip
