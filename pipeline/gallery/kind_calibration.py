"""What a gallery says of one kind of face, bare or masked: who is a stranger, who is not, and what that allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from pipeline.gallery.clusters import grouped
from pipeline.gallery.contradictions import Reason
from pipeline.gallery.error_rates import Curve, Evidence, Suggestion, per_thousand
from pipeline.gallery.held_out import Enrolled, HeldOut, best_match
from pipeline.gallery.subjects import Kept, UnknownTrack
from pipeline.gallery.tolerance import STEP, Sample, least_people
from pipeline.packets import Floats

Kind = Literal["bare", "masked"]
WORST_FAR = 0.05  # what takes one stranger in twenty for a friend is of no use
LEAST_GENUINE = 20  # people with two photos: that none of so few is missed still leaves 14 % possible
WORST_MISS = 0.9  # where hardly anybody is found, the vectors do not tell people apart
MANY_MISSED = 0.5
ALIKE = 0.60  # cosine of two photos of one person, where a gallery has too few of them to tell
ALIKE_RANK = 0.25  # else the share of its photos that score lower with their own subject
GUMBEL = {share: -np.log(-np.log(share)) for share in (0.5, 0.9)}  # quantiles of the distribution of maxima
SAME_STRANGER = 0.40  # unknown tracks as near as that count as one person
CLOSEST = 5  # pairs of subjects to look at, at most


class Suspected(Kept):
    """An unknown track that may be somebody who is enrolled.

    Attributes:
        track_id: The track.
        subject_id: Whom it resembles.
        score: Cosine.
        counted: Whether it was taken for a stranger all the same; not if it scores as photos of one person do.
    """

    track_id: str
    subject_id: str
    score: float
    counted: bool


class KindCalibration(Kept):
    """What the gallery says of bare faces, or of masked ones.

    Attributes:
        kind: Which.
        genuine: Templates with another photo of the same subject.
        genuine_people: Subjects they belong to.
        impostors: Templates that were held against all other subjects.
        strangers: Subjects they belong to.
        unknown_people: People in the unknown tracks that were counted.
        stranger_ceiling: The highest score of anybody with somebody else; None where there is nobody else.
        enrolled_pair_ceiling: The highest score of two subjects; None where there are no two.
        curve: None where there is nothing to draw.
        suggestion: None where it is refused.
        refusals: Why; empty where there is a suggestion.
        notes: What to know about the suggestion.
        suspected: Unknown tracks to look at, best score first.
    """

    kind: Kind
    genuine: int
    genuine_people: int
    impostors: int
    strangers: int
    unknown_people: int
    stranger_ceiling: float | None
    enrolled_pair_ceiling: float | None
    curve: Curve | None
    suggestion: Suggestion | None
    refusals: tuple[Reason, ...]
    notes: tuple[Reason, ...]
    suspected: tuple[Suspected, ...]


def alike_from(gallery: Enrolled, held: HeldOut) -> float:
    """From which cosine on two photos are taken for those of one person.

    Three of four bare photos score that high with their own subject, and of all strangers about one does by chance: the
    best of many scores follows Gumbel's distribution, here through their median and upper decile, which a few subjects
    that are enrolled twice do not move.
    """
    own, others = (scores[~gallery.masked & np.isfinite(scores)] for scores in (held.own, held.other))
    alike = float(np.quantile(own, ALIKE_RANK)) if len(own) >= LEAST_GENUINE else ALIKE
    if len(others) < LEAST_GENUINE:
        return alike
    middle, high = np.quantile(others, (0.5, 0.9))
    by_chance = middle + (high - middle) * (np.log(len(others)) - GUMBEL[0.5]) / (GUMBEL[0.9] - GUMBEL[0.5])
    return max(alike, float(by_chance))


class KindOfFace:
    """Bare faces, or masked ones: who is a stranger, who is genuine, and what that allows."""

    def __init__(
        self, gallery: Enrolled, held: HeldOut, tracks: Sequence[UnknownTrack], *, masked: bool, alike: float
    ) -> None:
        """Hold the unknown tracks against the gallery.

        Args:
            gallery: All templates.
            held: Their scores.
            tracks: All unknown tracks with vectors of its net.
            masked: Which kind.
            alike: From which cosine on an unknown track is somebody enrolled.
        """
        self._gallery, self._held, self._masked = gallery, held, masked
        self._tracks = [track for track in tracks if track.masked == masked]
        self._impostors = (gallery.masked == masked) & np.isfinite(held.other)
        self._genuine = (gallery.masked == masked) & np.isfinite(held.own)
        vectors = np.array([t.vector for t in self._tracks], np.float32).reshape(-1, gallery.vectors.shape[1])
        self._scores, self._nearest = best_match(vectors, gallery)
        self._counted = np.isfinite(self._scores) & (self._scores < alike)
        self._unknown = Sample(self._scores[self._counted], grouped(vectors[self._counted], SAME_STRANGER))

    def calibrated(self, wanted_far: float, confidence: float, *, contradictory: int) -> KindCalibration:
        """What it says to a wish; nothing is suggested where the gallery is ``contradictory`` somewhere."""
        evidence = self._evidence(confidence)
        refusals = self._refusals(evidence, contradictory)
        suggestion = None if refusals else evidence.suggest(wanted_far)
        others, unknown = self._held.other[self._impostors], self._unknown.scores
        return KindCalibration(
            kind="masked" if self._masked else "bare",
            genuine=len(evidence.genuine.scores),
            genuine_people=evidence.genuine.people,
            impostors=len(others),
            strangers=evidence.strangers.people,
            unknown_people=evidence.unknown.people,
            stranger_ceiling=_highest(np.concatenate([others, unknown])),
            enrolled_pair_ceiling=_highest(others),
            curve=evidence.curve(),
            suggestion=suggestion,
            refusals=tuple(refusals),
            notes=tuple(self._notes(evidence, suggestion, wanted_far)) if suggestion else (),
            suspected=tuple(self._suspected(evidence, wanted_far)),
        )

    def _evidence(self, confidence: float) -> Evidence:
        held, subject = self._held, self._gallery.subject
        return Evidence(
            subjects=self._gallery.subjects,
            strangers=Sample(held.other[self._impostors], subject[self._impostors]),
            genuine=Sample(held.own[self._genuine], subject[self._genuine]),
            others=held.other[self._genuine],
            unknown=self._unknown,
            confidence=confidence,
        )

    def _refusals(self, evidence: Evidence, contradictory: int) -> list[Reason]:
        kind, strangers, genuine = ("masked" if self._masked else "bare"), evidence.strangers, evidence.genuine
        needed = least_people(WORST_FAR, evidence.confidence)
        found = []
        if contradictory:
            sentence = (
                f"the gallery contradicts itself (contradictions: {contradictory}); put that right, or vouch for it"
            )
            found.append(Reason(code="contradiction", sentence=sentence))
        if strangers.people < needed:
            sentence = (
                f"{strangers.people} subjects have a {kind} template that others can be held against; with fewer than "
                f"{needed} not even {WORST_FAR:.0%} of strangers can be promised with {evidence.confidence:.0%} "
                "confidence; enrol more"
            )
            found.append(Reason(code="few_strangers", sentence=sentence))
        if genuine.people < LEAST_GENUINE:
            sentence = (
                f"{genuine.people} subjects have a {kind} template and another photo; fewer than {LEAST_GENUINE} do "
                "not tell how many would be missed; add photos"
            )
            found.append(Reason(code="few_genuine", sentence=sentence))
        if not found and evidence.missed(evidence.strangers.threshold(WORST_FAR)) > WORST_MISS:
            sentence = (
                f"where {WORST_FAR:.0%} of strangers are taken for somebody, more than {WORST_MISS:.0%} of the "
                "enrolled are missed; the photos do not tell people apart, enrol better ones"
            )
            found.append(Reason(code="indistinct", sentence=sentence))
        return found

    def _notes(self, evidence: Evidence, suggestion: Suggestion, wanted_far: float) -> Iterator[Reason]:
        if suggestion.promised_far > wanted_far:
            needed = least_people(wanted_far, evidence.confidence)
            sentence = (
                f"to promise {per_thousand(wanted_far)} strangers, {needed} subjects are needed, and there are "
                f"{evidence.strangers.people}; so {per_thousand(suggestion.promised_far)} is what is promised"
            )
            yield Reason(code="promise_lowered", sentence=sentence)
        alone = evidence.own_threshold(wanted_far)
        if suggestion.threshold > alone:
            sentence = (
                f"unknown tracks raised the threshold from {alone:.4f} to {suggestion.threshold:.4f}; assign those "
                "that are somebody, and calibrate again"
            )
            yield Reason(code="unknowns_raised", sentence=sentence)
        if suggestion.miss_rate > MANY_MISSED:
            sentence = (
                f"{suggestion.miss_rate:.0%} of the enrolled would be missed by one picture; promise less, or enrol "
                "more photos of each"
            )
            yield Reason(code="many_missed", sentence=sentence)
        if pairs := self._closest(alone):
            told = ", ".join(f"{a!r} and {b!r} ({score:.2f})" for a, b, score in pairs)
            sentence = (
                f"nobody is nearer to each other than {told}; merge those that are one person, and calibrate again"
            )
            yield Reason(code="closest", sentence=sentence, names=tuple(name for a, b, _ in pairs for name in (a, b)))

    def _closest(self, threshold: float) -> list[tuple[str, str, float]]:
        """Pairs of subjects that score highest with each other, those that bear on the threshold."""
        rows = np.flatnonzero(self._impostors & (self._held.other >= threshold - STEP))
        found: dict[tuple[str, str], float] = {}
        for row in rows[np.argsort(-self._held.other[rows], kind="stable")].tolist():
            first, second = sorted((self._gallery.name(row), self._gallery.name(int(self._held.nearest[row]))))
            found.setdefault((first, second), float(self._held.other[row]))
        return [(*pair, score) for pair, score in found.items()][:CLOSEST]

    def _suspected(self, evidence: Evidence, wanted_far: float) -> Iterator[Suspected]:
        """Unknown tracks that would be known, were it not for them."""
        threshold = evidence.own_threshold(wanted_far) if evidence.strangers.people else np.inf
        which = ~self._counted | (self._scores >= threshold)
        for n in sorted(np.flatnonzero(which).tolist(), key=lambda n: (-self._scores[n], self._tracks[n].id)):
            subject, score = self._gallery.name(int(self._nearest[n])), round(float(self._scores[n]), 4)
            counted = bool(self._counted[n])
            yield Suspected(track_id=self._tracks[n].id, subject_id=subject, score=score, counted=counted)


def _highest(scores: Floats) -> float | None:
    return round(float(scores.max()), 6) if len(scores) else None
