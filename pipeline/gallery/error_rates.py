"""Error rates of one kind of face over thresholds, and the threshold that keeps a promise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.gallery.held_out import Bools
from pipeline.gallery.subjects import Kept
from pipeline.gallery.tolerance import Doubles, Sample, upper_limit
from pipeline.packets import Floats

GRID = np.round(np.linspace(0, 1, 201), 4)
MARGINS = (0.02, 0.15)  # below, two subjects change places from picture to picture; above, hardly anybody is named


class Curve(Kept):
    """Error rates over thresholds.

    Attributes:
        thresholds: From 0 to 1.
        far: Share of the subjects that would be taken for somebody else if they were not enrolled.
        far_limit: What may be promised of strangers.
        frr: Share of the subjects that would be missed, by one picture.
        unknown: Share of the people in unknown tracks that would be taken for a subject; empty where there are none.
    """

    thresholds: tuple[float, ...]
    far: tuple[float, ...]
    far_limit: tuple[float, ...]
    frr: tuple[float, ...]
    unknown: tuple[float, ...] = ()


class Suggestion(Kept):
    """What to set, and what to expect of it.

    Attributes:
        threshold: Least cosine.
        margin: Least distance to the second-best subject.
        promised_far: At most this share of strangers, by one picture, reaches the threshold with any subject. The score
            of a track is the mean over its pictures, and reaches what one of them reaches at most.
        counted_far: The share of the subjects that did so when they were left out.
        miss_rate: Share of enrolled people who do not reach it with one picture.
        ambiguous_rate: Share of them who do, but are too close to somebody else to be named.
        mistaken_rate: Share of them who are named as somebody else.
        promise: The promise in a sentence.
    """

    threshold: float
    margin: float
    promised_far: float
    counted_far: float
    miss_rate: float
    ambiguous_rate: float
    mistaken_rate: float
    promise: str


@dataclass(frozen=True)
class Evidence:
    """All scores of one kind of face.

    Attributes:
        subjects: How many subjects the gallery has.
        strangers: Every template with the best of other subjects.
        genuine: Every template that has another photo of its subject, with the best of these.
        others: (K,) float32, the same templates with the best of other subjects.
        unknown: Unknown tracks with the best of all subjects.
        confidence: Of what is promised.
    """

    subjects: int
    strangers: Sample
    genuine: Sample
    others: Floats
    unknown: Sample
    confidence: float

    def limit(self, share: Doubles) -> Doubles:
        """The share of all strangers that is to be reckoned with where ``share`` of those at hand was counted.

        Each of them was held against one subject less than the gallery has; if a stranger reaches one of N subjects, it
        is in N - 1 of N cases still there when one is left out, hence the factor.
        """
        factor = self.subjects / max(self.subjects - 1, 1)
        return np.minimum(factor * upper_limit(share, self.strangers.people, self.confidence), 1.0)

    def curve(self) -> Curve | None:
        """The rates over all thresholds; None where one of them would rest on nothing."""
        if not self.strangers.people or not self.genuine.people:
            return None
        far = self.strangers.reaching(GRID)
        unknown = self.unknown.reaching(GRID) if self.unknown.people else np.zeros(0)
        columns = (GRID, far, self.limit(far), 1 - self.genuine.reaching(GRID), unknown)
        return Curve(**dict(zip(Curve.model_fields, (np.round(c, 6).tolist() for c in columns), strict=True)))

    def own_threshold(self, wanted_far: float) -> float:
        """The least threshold that keeps the promise for strangers to the gallery, or the strictest one it knows."""
        return self.strangers.threshold(wanted_far, self.limit)

    def missed(self, threshold: float) -> float:
        """The share of enrolled people whom one picture does not bring to ``threshold``."""
        return float(1 - self.genuine.reaching(threshold))

    def suggest(self, wanted_far: float) -> Suggestion:
        """The least threshold that keeps the promise, also for the people in unknown tracks as they were counted."""
        threshold = self.own_threshold(wanted_far)
        promised = float(self.limit(self.strangers.reaching(threshold)))
        if self.unknown.people:
            threshold = max(threshold, self.unknown.threshold(promised))
        margin = self._margin(threshold, promised)
        lead, reached = self.genuine.scores - self.others, self.genuine.scores >= threshold
        return Suggestion(
            threshold=threshold,
            margin=margin,
            promised_far=round(promised, 6),
            counted_far=round(float(self.strangers.reaching(threshold)), 6),
            miss_rate=round(self.missed(threshold), 6),
            ambiguous_rate=self._share(reached & (np.abs(lead) < margin)),
            mistaken_rate=self._share((self.others >= threshold) & (lead <= -margin)),
            promise=f"at most {per_thousand(promised)} strangers, each seen once, reach {threshold:.4f} with any of "
            f"the {self.subjects} subjects ({self.confidence:.0%} confidence)",
        )

    def _margin(self, threshold: float, far: float) -> float:
        """The least margin with which no larger share of the enrolled than ``far`` is named as somebody else."""
        behind = np.where(self.others >= threshold, self.others - self.genuine.scores, -1)
        margin = Sample(np.asarray(behind, np.float32), self.genuine.person).threshold(far)
        return min(max(margin, MARGINS[0]), MARGINS[1])

    def _share(self, which: Bools) -> float:
        """The share of enrolled people of whom ``which`` is true."""
        return round(float(Sample(which.astype(np.float32), self.genuine.person).reaching(0.5)), 6)


def per_thousand(share: float) -> str:
    """Such as ``1.38 of 1000``."""
    return f"{1000 * share:.3g} of 1000"
