"""What a gallery says of faces in pictures: where they are, who they are, and what the decision was held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.gallery.subjects import Limits
from pipeline.packets import Candidate, Decision, EmbeddedFace, Floats


@dataclass(frozen=True, slots=True)
class FaceView:
    """A face of a picture.

    Attributes:
        box: xyxy, pixels.
        score: Detector's confidence in [0, 1].
        landmarks: xy pixels of five points, in the order of ``Face``.
        quality: In [0, 1].
        reasons: Why it may not be identified; empty where it may.
        yaw: Degrees, as in ``Quality``.
        size_px: Length of the longer side of the box.
        mask_probability: In [0, 1].
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: tuple[tuple[float, float], ...]
    quality: float
    reasons: tuple[str, ...]
    yaw: float
    size_px: float
    mask_probability: float

    @property
    def masked(self) -> bool:
        """Whether the threshold for masked faces holds."""
        return self.mask_probability >= 0.5

    @classmethod
    def of(cls, face: EmbeddedFace) -> FaceView:
        """What is told of a face."""
        left, top, right, bottom = (float(edge) for edge in face.box)
        return cls(
            box=(left, top, right, bottom),
            score=face.score,
            landmarks=tuple((float(x), float(y)) for x, y in face.landmarks),
            quality=face.quality.score,
            reasons=face.quality.reasons,
            yaw=face.quality.yaw,
            size_px=face.quality.size_px,
            mask_probability=face.mask_probability,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """Who a face is.

    Attributes:
        decision: ``known``, ``unknown``, ``ambiguous``, ``low_quality`` or ``suppressed``.
        subject_id: The known subject, or the best candidate of an ``ambiguous`` decision; else empty.
        score: Cosine similarity of the best subject, in [-1, 1]; 0 where nothing was compared.
        threshold: What the score was held against.
        margin: Distance to the second-best subject; the score where there is none.
        candidates: Best subjects first.
        gallery_version: Version of the gallery that answered.
        stale_s: Seconds since the matcher last heard from the gallery; 0 while it hears from it.
        face: The face; None where a vector was given.
        vector: (D,) float32, where it was asked for.
    """

    decision: Decision
    subject_id: str = ""
    score: float = 0.0
    threshold: float = 0.0
    margin: float = 0.0
    candidates: tuple[Candidate, ...] = ()
    gallery_version: int = 0
    stale_s: float = 0.0
    face: FaceView | None = None
    vector: Floats | None = None


def decided(candidates: Sequence[Candidate], limits: Limits, *, masked: bool) -> Found:
    """The decision on one face; that on a track asks for votes, too: see ``operators.identify``."""
    best = candidates[0] if candidates else Candidate("", 0.0)
    margin = best.score - (candidates[1].score if len(candidates) > 1 else 0.0)
    threshold = limits.masked_threshold if masked else limits.threshold
    decision: Decision = "known"
    if not candidates or best.score < threshold:
        decision = "unknown"
    elif margin < limits.margin:
        decision = "ambiguous"
    subject = "" if decision == "unknown" else best.subject_id
    return Found(decision, subject, best.score, threshold, margin, tuple(candidates))
