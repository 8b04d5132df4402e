"""What the report remembers of a run: bounded, however long the run is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pipeline.packets import EMOTIONS, FeltFace, Pixels, Restoration

BINS = 160  # points of a timeline; it halves its resolution when they are full
FIRST_BIN_NS = 40_000_000
EVENTS = 40  # of one track


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a track, in words."""

    pts_ns: int
    words: str


@dataclass(frozen=True, slots=True)
class Shot:
    """A face worth showing: its crop, (128, 128, 3) uint8 RGB, its quality in [0, 1] and its time."""

    crop: Pixels
    quality: float
    pts_ns: int


class Timeline:
    """Emotion and mask of one track over time, as sums over bins of equal length.

    Attributes:
        start_ns: Stream time at which the first bin begins.
        bin_ns: Length of a bin; doubled, by adding up pairs of bins, whenever the track outlives them.
        seen: (BINS,) faces in each bin.
        masked: (BINS,) faces that wore a mask.
        felt: (BINS,) faces with an emotion.
        probabilities: (BINS, 7) sums over those faces, in the order of ``EMOTIONS``.
    """

    def __init__(self, start_ns: int) -> None:
        self.start_ns, self.bin_ns = start_ns, FIRST_BIN_NS
        self.seen, self.masked, self.felt = (np.zeros(BINS) for _ in range(3))
        self.probabilities = np.zeros((BINS, len(EMOTIONS)))

    def add(self, face: FeltFace) -> None:
        """Count one face in."""
        while (at := max(0, face.pts_ns - self.start_ns) // self.bin_ns) >= BINS:
            self._coarsen()
        self.seen[at] += 1
        self.masked[at] += face.mask.label == "masked"
        if face.emotion.state == "ok":
            self.felt[at] += 1
            self.probabilities[at] += face.emotion.probabilities

    @property
    def has_emotion(self) -> bool:
        """Whether an emotion was read at all."""
        return bool(self.felt.any())

    def _coarsen(self) -> None:
        self.bin_ns *= 2
        for values in (self.seen, self.masked, self.felt, self.probabilities):
            pairs = values.reshape(BINS // 2, 2, -1).sum(axis=1)
            values[: BINS // 2], values[BINS // 2 :] = pairs.reshape(BINS // 2, *values.shape[1:]), 0


@dataclass
class Funnel:
    """How many faces came how far.

    Attributes:
        faces: Faces seen.
        passed: Those that passed the quality gate.
        embedded: Those that were compared with the gallery.
        matched: Those of them whose track was known then.
        reasons: Why faces failed the gate; one face may have several reasons.
    """

    faces: int = 0
    passed: int = 0
    embedded: int = 0
    matched: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, face: FeltFace) -> None:
        """Count one face in."""
        self.faces += 1
        self.passed += face.quality.passed
        self.embedded += face.embedding is not None
        self.matched += face.embedding is not None and face.identity.decision == "known"
        self.reasons.update(face.quality.reasons)


class Sighting:
    """One track: its best shots, who it was taken for, its emotions and events.

    Attributes:
        track_id: The track.
        identity: What was decided last.
        bare: Best shot without a mask, None if there was none.
        masked: Best shot with a mask, None if there was none.
        restoration: The most confident estimate of what the mask hides; None if none was made.
        occluded: The crop it was made of.
        events: What happened, oldest first.
        timeline: Its emotions over time.
        faces: Faces seen of it.
        last_ns: Stream time of the last of them.
    """

    def __init__(self, first: FeltFace) -> None:
        self.track_id = first.track_id
        self.identity = first.identity
        self.bare: Shot | None = None
        self.masked: Shot | None = None
        self.restoration: Restoration | None = None
        self.occluded: Pixels | None = None
        self.events: list[Event] = []
        self.timeline = Timeline(first.pts_ns)
        self.faces, self.last_ns = 0, first.pts_ns
        self._mask = first.mask.label

    def add(self, face: FeltFace) -> None:
        """Take in one face of the track."""
        self.faces, self.last_ns, self.identity = self.faces + 1, face.pts_ns, face.identity
        self.timeline.add(face)
        self._note_events(face)
        self._keep_shot(face)
        estimate = face.restoration
        if estimate and (self.restoration is None or estimate.confidence > self.restoration.confidence):
            self.restoration, self.occluded = estimate, face.crop

    @property
    def best(self) -> Shot | None:
        """The shot to show the person by: a bare one if there is any."""
        return self.bare or self.masked

    def _keep_shot(self, face: FeltFace) -> None:
        if face.predicted or face.mask.label == "unsure":
            return
        held = self.masked if face.mask.label == "masked" else self.bare
        if held is not None and held.quality >= face.quality.score:
            return
        shot = Shot(face.crop, face.quality.score, face.pts_ns)
        if face.mask.label == "masked":
            self.masked = shot
        else:
            self.bare = shot

    def _note_events(self, face: FeltFace) -> None:
        happened = []
        if face.first_match:
            happened.append(f"known as {face.identity.subject_id}")
        if face.emotion_changed and face.emotion.label:
            happened.append(f"shows {face.emotion.label}")
        if face.mask.label not in {self._mask, "unsure"}:
            happened.append("mask on" if face.mask.label == "masked" else "mask off")
        if face.mask.label != "unsure":
            self._mask = face.mask.label
        room = EVENTS - len(self.events)
        self.events += [Event(face.pts_ns, words) for words in happened][:room]
