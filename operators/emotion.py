"""What a track shows over time: causal exponential smoothing of the frames' emotions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.operator import KeyedOperator
from pipeline.packets import EMOTIONS, Emotion, EncodedFace, FeltFace, Floats, grow
from pipeline.policy import Policy

NOTHING = np.zeros(len(EMOTIONS), np.float32)


@dataclass(frozen=True, slots=True)
class Mood:
    """What is remembered of a track.

    Attributes:
        mean: (7,) float32, the smoothed probabilities.
        label: The emotion shown; empty while warming.
        rival: An emotion that is ahead of it, and since when.
        rival_ns: Time at which the rival took the lead.
        frames: Frames that went in.
        first_ns: Time of the first.
        last_ns: Time of the last.
        seen_ns: Time at which the track was last seen at all.
    """

    mean: Floats
    first_ns: int
    last_ns: int
    seen_ns: int
    label: str = ""
    rival: str = ""
    rival_ns: int = 0
    frames: int = 1


class SmoothedEmotion(KeyedOperator[EncodedFace, FeltFace, Mapping[str, Mood]]):
    """Exponential smoothing in stream time, with hysteresis on the label.

    The weight of a frame that comes ``dt`` after the one before is ``1 - exp(-dt / memory_s)``, so that
    the result does not depend on the frame rate. A label changes only when another emotion has led for
    ``hold_s``. No frame after the present one is looked at.
    """

    def __init__(
        self,
        policy: Policy,
        memory_s: float = 0.5,
        warm_s: float = 0.4,
        hold_s: float = 0.3,
        stale_s: float = 1.0,
        forget_s: float = 5.0,
    ) -> None:
        """Set the times.

        Args:
            policy: Without ``emotion`` every emotion is ``suppressed``.
            memory_s: Time constant of the smoothing.
            warm_s: Stream time that must go in before a label is given.
            hold_s: How long another emotion must lead before the label changes.
            stale_s: Without a readable face for so long the state is ``low_quality``.
            forget_s: After so long a gap the track starts anew.
        """
        self._allowed, self._memory_s = policy.emotion, memory_s
        self._warm_ns, self._hold_ns = round(warm_s * 1e9), round(hold_s * 1e9)
        self._stale_ns, self._forget_ns = round(stale_s * 1e9), round(forget_s * 1e9)

    def start(self, stream: str) -> Mapping[str, Mood]:
        return {}

    def __call__(
        self, state: Mapping[str, Mood], batch: Sequence[EncodedFace]
    ) -> tuple[Mapping[str, Mood], Iterable[FeltFace]]:
        """Every face with what its track shows up to now."""
        moods, out = dict(state), []
        for face in batch:
            before = moods.get(face.track_id)
            mood = self._next(before, face)
            if mood is not None:
                moods[face.track_id] = mood
            felt = self._felt(mood, face)
            changed = felt.state == "ok" and mood is not None and mood.label != (before.label if before else "")
            out.append(grow(face, FeltFace, emotion=felt, emotion_changed=changed))
        now = max((face.pts_ns for face in batch), default=0)
        return {track: m for track, m in moods.items() if now - m.seen_ns <= self._forget_ns}, out

    def _next(self, mood: Mood | None, face: EncodedFace) -> Mood | None:
        if face.emotion_logits is None:
            return replace(mood, seen_ns=face.pts_ns) if mood else None
        p, now = softmax(face.emotion_logits), face.pts_ns
        if mood is None or now - mood.last_ns > self._forget_ns:
            return Mood(p, now, now, now)
        weight = 1 - math.exp(-(now - mood.last_ns) / 1e9 / self._memory_s)
        mean = np.asarray(mood.mean + weight * (p - mood.mean), np.float32)
        return self._labelled(replace(mood, mean=mean, last_ns=now, seen_ns=now, frames=mood.frames + 1))

    def _labelled(self, mood: Mood) -> Mood:
        leader, now = EMOTIONS[int(mood.mean.argmax())], mood.last_ns
        if now - mood.first_ns < self._warm_ns:
            return mood
        if not mood.label or leader == mood.label:
            return replace(mood, label=leader, rival="")
        if leader != mood.rival:
            return replace(mood, rival=leader, rival_ns=now)
        return replace(mood, label=leader, rival="") if now - mood.rival_ns >= self._hold_ns else mood

    def _felt(self, mood: Mood | None, face: EncodedFace) -> Emotion:
        if not self._allowed or face.mask.label == "masked":
            return Emotion("suppressed", "", NOTHING, 0, 0)
        if mood is None or face.pts_ns - mood.last_ns > self._stale_ns:
            return Emotion("low_quality", "", NOTHING, 0, 0)
        span_ms = round((mood.last_ns - mood.first_ns) / 1e6)
        return Emotion("ok" if mood.label else "warming", mood.label, mood.mean, mood.frames, span_ms)


def softmax(logits: Floats) -> Floats:
    """Probabilities of ``logits`` (..., K)."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)
