"""Decide who a track is from the votes of its best shots, and whether it wears a mask."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.gallery import Limits
from pipeline.operator import KeyedOperator
from pipeline.packets import EmbeddedFace, Embedding, IdentifiedFace, Identity, MaskLabel, MaskState, grow
from pipeline.policy import Policy

DOUBT_NS = 1_000_000_000  # so soon a good face of a track is embedded again: `Track`'s ``refresh_s``


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the faces of a track say, bare or masked, each weighted by its quality.

    Attributes:
        weight: Sum of the weights.
        scores: Weighted sum of the cosines, by subject.
        votes: How often each subject was the best.
        before: By subject that the gallery did not have when the track began, the sum of the weights until it had.
        shots: How many faces went in.
        gallery: Gallery that answered last.
        version: Its version.
        stale_s: How long it had not heard from its truth then.
    """

    weight: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)
    votes: Mapping[str, int] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    shots: int = 0
    gallery: str = ""
    version: int = 0
    stale_s: float = 0.0

    def with_shot(self, shot: Embedding, weight: float) -> Evidence:
        """The same with one more face. Subjects that its answer did not name keep what they had."""
        scores, before = dict(self.scores), dict(self.before)
        for candidate in shot.candidates:
            if self.shots and candidate.since > self.version and candidate.subject_id not in scores:
                before[candidate.subject_id] = self.weight
            scores[candidate.subject_id] = scores.get(candidate.subject_id, 0.0) + weight * candidate.score
        votes = dict(self.votes)
        if shot.candidates:
            best = shot.candidates[0].subject_id
            votes[best] = votes.get(best, 0) + 1
        told = (shot.gallery, shot.gallery_version, shot.stale_s)
        return Evidence(self.weight + weight, scores, votes, before, self.shots + 1, *told)

    def among(self, there: Container[str]) -> Evidence:
        """What it says of those who are ``there``: the others leave no trace."""
        scores = {subject: score for subject, score in self.scores.items() if subject in there}
        votes = {subject: count for subject, count in self.votes.items() if subject in there}
        before = {subject: weight for subject, weight in self.before.items() if subject in there}
        return replace(self, scores=scores, votes=votes, before=before)

    def ranked(self) -> list[tuple[str, float]]:
        """Subjects and the mean cosine of the faces with each of them, best first.

        A mean is no more than the cosine of the best face. That of the mean vector may be, so that limits which keep a
        promise for one picture would break it for a track. Of a subject that was enrolled while the track was in view
        only the faces since then count.
        """
        means = ((subject, score / self._weight(subject)) for subject, score in self.scores.items())
        return sorted(means, key=lambda item: (-item[1], item[0]))

    def _weight(self, subject: str) -> float:
        return max(self.weight - self.before.get(subject, 0.0), 1e-6)


@dataclass(frozen=True, slots=True)
class Person:
    """What a stream remembers of one track.

    Attributes:
        mask: The vote on the mask.
        faces: How many faces were seen.
        bare, masked: Evidence of bare and of masked faces.
        identity: Who it is by now.
        matched: The subject whose match was told last.
        named: Version of the gallery that named a subject last, for every subject of the evidence.
        pts_ns: When it was seen last.
        doubt_ns: Since when its name may be one that the gallery has lost; None if it is not.
    """

    mask: MaskState = field(default_factory=lambda: MaskState("unsure", 0.5))
    faces: int = 0
    bare: Evidence = field(default_factory=Evidence)
    masked: Evidence = field(default_factory=Evidence)
    identity: Identity = field(default_factory=lambda: Identity("not_evaluated"))
    matched: str = ""
    named: Mapping[str, int] = field(default_factory=dict)
    pts_ns: int = 0
    doubt_ns: int | None = None

    def confirmed(self, shot: Embedding) -> Person:
        """The same without subjects that the gallery may have lost since it named them last.

        Whoever the track was may live on under another name, so then it is decided anew, from this shot on.
        """
        same = shot.gallery == self.identity.gallery
        held = {who: at for who, at in self.named.items() if same and shot.lost <= at <= shot.gallery_version}
        there = held | dict.fromkeys((each.subject_id for each in shot.candidates), shot.gallery_version)
        matched = self.matched if self.matched in there else ""
        person = replace(self, named=there, matched=matched, doubt_ns=None)
        was = self.matched if self.identity.decision == "not_evaluated" else self.identity.subject_id
        if was and was not in there:
            return replace(person, bare=Evidence(), masked=Evidence(), identity=Identity("not_evaluated"))
        return replace(person, bare=self.bare.among(there), masked=self.masked.among(there))

    def doubted(self, lost: int) -> Person:
        """The same without a name that the gallery may have lost since, and that no face has confirmed in time."""
        if self.named.get(self.identity.subject_id, lost) >= lost:
            return self
        since = self.pts_ns if self.doubt_ns is None else self.doubt_ns
        if self.pts_ns - since <= DOUBT_NS:
            return replace(self, doubt_ns=since)
        said = Identity("not_evaluated", gallery=self.identity.gallery, gallery_version=self.identity.gallery_version)
        return replace(self, identity=said)


@dataclass(frozen=True, slots=True)
class Rules:
    """When a track is somebody.

    Attributes:
        threshold: Least mean cosine of bare faces.
        masked_threshold: Least mean cosine of masked ones: genuine pairs score lower behind a mask.
        margin: Least distance to the runner-up.
        votes: Least number of faces that agree, and of faces seen before anything is said.
        slack: How far a known subject may fall below the threshold before it is forgotten.
    """

    threshold: float = 0.40
    masked_threshold: float = 0.33
    margin: float = 0.08
    votes: int = 2
    slack: float = 0.04

    def under(self, limits: Limits | None) -> Rules:
        """The same with the limits that a gallery sets, where it sets any."""
        if limits is None:
            return self
        return Rules(limits.threshold, limits.masked_threshold, limits.margin, self.votes, self.slack)

    def decide(self, person: Person) -> Identity:
        """Who it is. Bare evidence outweighs masked evidence: a mask does not undo who somebody was."""
        masked = person.bare.shots < self.votes and person.masked.shots > 0
        evidence = person.masked if masked else person.bare
        threshold = self.masked_threshold if masked else self.threshold
        ranked = evidence.ranked()
        (best, score), second = (ranked[0] if ranked else ("", 0.0)), (ranked[1][1] if len(ranked) > 1 else 0.0)
        votes, margin = evidence.votes.get(best, 0), score - second
        said = Identity(
            "not_evaluated", "", score, threshold, margin, second, votes,
            evidence.gallery, evidence.version, masked, evidence.stale_s,
        )  # fmt: skip
        slack = self.slack if person.identity.decision == "known" and person.identity.subject_id == best else 0.0
        if evidence.shots < self.votes:
            return said
        if score < threshold - slack:
            return replace(said, decision="unknown", votes=evidence.shots)
        if margin < self.margin - slack:
            return replace(said, decision="ambiguous", subject_id=best)
        return replace(said, decision="known", subject_id=best) if votes >= self.votes else said


class Identify(KeyedOperator[EmbeddedFace, IdentifiedFace, Mapping[str, Person]]):
    """Votes over the life of a track: open set, with a threshold, a margin and a quality gate."""

    def __init__(
        self,
        policy: Policy,
        threshold: float = 0.40,
        masked_threshold: float = 0.33,
        margin: float = 0.08,
        votes: int = 2,
        mask_memory: float = 0.85,
        forget_s: float = 5.0,
    ) -> None:
        """Set the rules.

        Args:
            policy: Without ``identification`` every identity is ``suppressed``.
            threshold: Least cosine for a match of bare faces; what the gallery's policy says of the limits counts more.
            masked_threshold: Least cosine for a match of masked faces.
            margin: Least distance to the second-best subject.
            votes: Faces that must agree.
            mask_memory: Weight of the past in the vote on the mask, per face.
            forget_s: A track not seen for so long is forgotten.
        """
        self._allowed = policy.identification
        self._rules = Rules(threshold, masked_threshold, margin, votes)
        self._memory, self._forget_ns = mask_memory, round(forget_s * 1e9)

    def start(self, stream: str) -> Mapping[str, Person]:
        return {}

    def __call__(
        self, state: Mapping[str, Person], batch: Sequence[EmbeddedFace]
    ) -> tuple[Mapping[str, Person], Iterable[IdentifiedFace]]:
        """Every face with what its track knows by now."""
        people, out = dict(state), []
        for face in batch:
            before = people.get(face.track_id, Person())
            person = people[face.track_id] = self._learn(before, face)
            first = person.matched not in {"", before.matched}
            known = person.identity if person.identity.decision != "not_evaluated" else self._why_not(person, face)
            out.append(grow(face, IdentifiedFace, mask=person.mask, identity=known, first_match=first))
        return self._remembered(people, batch), out

    def _learn(self, person: Person, face: EmbeddedFace) -> Person:
        person = replace(person, mask=self._vote(person, face), faces=person.faces + 1, pts_ns=face.pts_ns)
        if face.embedding is None:
            return person.doubted(face.lost)
        person = person.confirmed(face.embedding)
        if face.mask_probability >= 0.5:
            person = replace(person, masked=person.masked.with_shot(face.embedding, face.quality.score))
        else:
            person = replace(person, bare=person.bare.with_shot(face.embedding, face.quality.score))
        identity = self._rules.under(face.embedding.limits).decide(person)
        matched = identity.subject_id if identity.decision == "known" else person.matched
        return replace(person, identity=identity, matched=matched)

    def _vote(self, person: Person, face: EmbeddedFace) -> MaskState:
        """Exponential memory of the frames' probabilities; a label changes only once it is clear."""
        memory = min(self._memory, person.faces / (person.faces + 1))
        p = memory * person.mask.probability + (1 - memory) * face.mask_probability
        return MaskState(_label(person.mask.label, p), p)

    def _why_not(self, person: Person, face: EmbeddedFace) -> Identity:
        if not self._allowed:
            return Identity("suppressed")
        if not person.bare.shots and not person.masked.shots and not face.quality.passed:
            return Identity("low_quality")
        return person.identity

    def _remembered(self, people: dict[str, Person], batch: Sequence[EmbeddedFace]) -> dict[str, Person]:
        now = max((face.pts_ns for face in batch), default=0)
        return {track: p for track, p in people.items() if now - p.pts_ns <= self._forget_ns}


def _label(before: MaskLabel, p: float) -> MaskLabel:
    if p >= 0.65:
        return "masked"
    if p <= 0.35:
        return "bare"
    return before
