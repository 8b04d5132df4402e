"""Let through the faces in whose frame something was decided, so that nothing else waits to be explained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.operator import Operator
from pipeline.packets import FeltFace


class Moments(Operator[FeltFace, FeltFace]):
    """Keeps the faces that matched a subject for the first time, or whose emotion changed."""

    def __call__(self, batch: Sequence[FeltFace]) -> Iterable[FeltFace]:
        return (face for face in batch if face.first_match or face.emotion_changed)
