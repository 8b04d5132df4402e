"""What consumers read: one record per analysed frame, events in the life of a track, matches, explanations.

The models are the published schema (`contracts`: additive changes only inside one major version).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.packets import Explanation


class Record(BaseModel):
    """Base of everything that leaves omote as JSON. Read-only once made."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class StreamRef(Record):
    """Which stream, and which connection of it."""

    id: str
    tenant: str = "default"
    epoch: int
    source: str


class FrameRef(Record):
    """Which frame: ``pts_ns`` in stream time, ``capture_ts`` in wall-clock time (RFC 3339) where it is known."""

    seq: int
    pts_ns: int
    capture_ts: str | None = None
    w: int
    h: int
    dropped_before: int = 0


class DetectionRecord(Record):
    """Where the face is: pixels of the frame and shares of its size, both ``x, y, width, height``."""

    bbox_px: tuple[float, float, float, float]
    bbox_norm: tuple[float, float, float, float]
    score: float
    landmarks5: tuple[tuple[float, float], ...]
    predicted: bool = False


class QualityRecord(Record):
    """The quality gate's word."""

    score: float
    blur: float
    yaw: float
    size_px: float
    gate: Literal["pass", "fail"]
    reasons: tuple[str, ...]


class UnmaskRecord(Record):
    """What was made of the hidden part. ``restored`` is false wherever nothing was invented."""

    restored: bool
    confidence: float
    estimate: Literal[True] = True


class OcclusionRecord(Record):
    """The track's vote on the mask."""

    mask: Literal["bare", "masked", "unsure"]
    p: float
    unmask: UnmaskRecord | None = None


class IdentityRecord(Record):
    """Who, how sure, and against what."""

    decision: Literal["known", "unknown", "ambiguous", "low_quality", "suppressed", "not_evaluated"]
    subject_id: str | None
    score: float
    threshold: float
    margin: float
    runner_up_score: float
    votes: int
    gallery: str
    gallery_version: int
    masked_policy: Literal["bare", "masked"]


class WindowRecord(Record):
    """How much of the track an emotion rests on."""

    frames: int
    span_ms: int


class EmotionRecord(Record):
    """An outward expression, not a feeling. ``label`` is given in the state ``ok`` only."""

    state: Literal["warming", "ok", "low_quality", "suppressed"]
    label: str | None
    probs: dict[str, float]
    window: WindowRecord


class ExplainRecord(Record):
    """Where to find the explanation of what was decided in this frame."""

    id: str | None
    state: Literal["none", "pending", "done", "dropped"]


class FaceRecord(Record):
    """One face of one frame."""

    track_id: str
    det: DetectionRecord
    quality: QualityRecord
    occlusion: OcclusionRecord
    identity: IdentityRecord
    emotion: EmotionRecord
    explain: tuple[ExplainRecord, ...]


class PolicyRecord(Record):
    """Under which policy the frame was looked at."""

    purpose: str
    emotion: str
    identification: str
    unmasking: str
    faces: str


class FrameRecord(Record):
    """One analysed frame. Frames without a face have a record too."""

    record: Literal["omote.frame/1.0"] = "omote.frame/1.0"
    stream: StreamRef
    frame: FrameRef
    faces: tuple[FaceRecord, ...]
    timings_ms: dict[str, float] = {}
    policy: PolicyRecord


class TrackRecord(Record):
    """A track began, changed what is known of it, or ended: what people want instead of boxes."""

    record: Literal["omote.track/1.0"] = "omote.track/1.0"
    event: Literal["new", "update", "end"]
    stream: StreamRef
    frame: FrameRef
    track_id: str
    before: TrackSummary | None
    after: TrackSummary


class TrackSummary(Record):
    """What is known of a track."""

    decision: str
    subject_id: str | None
    mask: str
    emotion: str | None
    first_pts_ns: int
    last_pts_ns: int
    frames: int
    best_quality: float


class MatchRecord(Record):
    """A subject became known on a track."""

    record: Literal["omote.match/1.0"] = "omote.match/1.0"
    stream: StreamRef
    frame: FrameRef
    track_id: str
    identity: IdentityRecord
    occlusion: OcclusionRecord
    explain: ExplainRecord


class ExplanationRecord(Record):
    """Why a decision was taken, without its pictures."""

    record: Literal["omote.explanation/1.0"] = "omote.explanation/1.0"
    id: str
    stream: str
    epoch: int
    seq: int
    pts_ns: int
    track_id: str
    kind: Literal["match", "emotion"]
    target: str
    method: str
    score: float
    completeness_error: float
    faithfulness: float
    faithfulness_random: float
    synthetic_evidence_ratio: float
    caveat: str
    took_ms: float

    @classmethod
    def of(cls, explanation: Explanation) -> ExplanationRecord:
        """The record of an explanation; its maps stay behind."""
        return cls(**{name: getattr(explanation, name) for name in cls.model_fields if name != "record"})


TrackRecord.model_rebuild()
