"""What consumers read: one record per analysed frame, events in the life of a track, matches, explanations, statuses.

The models and their docstrings are the published schema (`pipeline.schemas`): inside one major version fields may be
added, with a default, and nothing else may change.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.packets import Explanation, Origin

RFC_3339 = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"
Moment = Annotated[str, Field(pattern=RFC_3339, json_schema_extra={"format": "date-time"})]
# Null where there is nothing to measure: JSON has no NaN.
Measured = Annotated[float | None, BeforeValidator(lambda value: None if value != value else value)]  # noqa: PLR0124


class Record(BaseModel):
    """Base of everything that leaves omote as JSON. Read-only once made."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class StreamRef(Record):
    """Which stream, and which connection of it.

    Attributes:
        id: Id of the camera, file or topic partition; the key of its messages.
        tenant: To whom the stream belongs.
        epoch: Number of the connection; grows with each, and the times of a stream begin anew with it.
        source: How the stream comes in.
    """

    id: str
    tenant: str = "default"
    epoch: int
    source: Origin


class FrameRef(Record):
    """Which frame.

    Attributes:
        seq: Number of the analysed frame in its epoch, from 0, without gaps.
        pts_ns: Presentation time, nanoseconds of stream time.
        capture_ts: Wall clock of the capture, RFC 3339; null where it is not known.
        w: Width of the picture, pixels.
        h: Height of the picture, pixels.
        dropped_before: Pictures lost to damage, or left out, between the frame before and this one.
    """

    seq: int
    pts_ns: int
    capture_ts: Moment | None = None
    w: int
    h: int
    dropped_before: int = 0


class DetectionRecord(Record):
    """Where the face is.

    Attributes:
        bbox_px: Left, top, width and height, pixels of the frame.
        bbox_norm: The same as shares of the frame's width and height.
        score: The detector's confidence, 0 to 1.
        landmarks5: Five points x, y, pixels of the frame: the eye on the picture's left, the eye on its right, nose
            tip, mouth corner on the left, mouth corner on the right.
        predicted: Whether the box comes from the motion of the track, for the detector did not look at this frame.
    """

    bbox_px: tuple[float, float, float, float]
    bbox_norm: tuple[float, float, float, float]
    score: float
    landmarks5: tuple[tuple[float, float], ...]
    predicted: bool = False


class QualityRecord(Record):
    """The quality gate's word.

    Attributes:
        score: Worth of the face as evidence, 0 to 1.
        blur: 0 is sharp, 1 is not.
        yaw: Degrees; negative where the nose points to the picture's left.
        size_px: Length of the longer side of the box, pixels.
        gate: Whether the face may be used to identify and to read an emotion.
        reasons: Why not: small, blurred, turned, cut_off, predicted.
    """

    score: float
    blur: float
    yaw: float
    size_px: float
    gate: Literal["pass", "fail"]
    reasons: tuple[str, ...]


class UnmaskRecord(Record):
    """What was made of the hidden part. It is never evidence.

    Attributes:
        restored: False wherever nothing was invented.
        confidence: Of the whole estimate, 0 to 1.
        estimate: Always true: what a mask hides can only be estimated.
    """

    restored: bool
    confidence: float
    estimate: Literal[True] = True


class OcclusionRecord(Record):
    """The track's vote on the mask.

    Attributes:
        mask: What the track's faces say together.
        p: Smoothed probability of a mask, 0 to 1.
        unmask: What was made of the hidden part; null unless the face is masked and was chosen for it.
    """

    mask: Literal["bare", "masked", "unsure"]
    p: float
    unmask: UnmaskRecord | None = None


class IdentityRecord(Record):
    """Who, how sure, and against what. Similarities are cosines, -1 to 1.

    Attributes:
        decision: Only known and ambiguous name a subject.
        subject_id: The subject, or the best candidate of an ambiguous decision; null otherwise.
        score: Similarity of the best subject to the track; 0 where nothing was compared.
        threshold: What the score was held against.
        margin: Distance to the runner-up.
        runner_up_score: Similarity of the second-best subject; 0 where there is none.
        votes: Embedded faces of the track that agree with the decision.
        gallery: Namespace that was searched.
        gallery_version: Version of the gallery that answered.
        masked_policy: Whether the threshold for masked faces was used.
        gallery_stale_s: For how long the gallery had not heard of changes when it answered; 0 while it hears of them.
    """

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
    gallery_stale_s: int = 0


class WindowRecord(Record):
    """How much of the track an emotion rests on.

    Attributes:
        frames: Frames that went into it.
        span_ms: Stream time from the first of them to the last, milliseconds.
    """

    frames: int
    span_ms: int


class EmotionRecord(Record):
    """An outward expression, not a feeling.

    Attributes:
        state: A label is given in the state ok only.
        label: The most probable expression; null unless the state is ok.
        probs: Calibrated probability by expression, sum 1; empty unless the state is ok or warming.
    """

    state: Literal["warming", "ok", "low_quality", "suppressed"]
    label: str | None
    probs: dict[str, float]
    window: WindowRecord


class ExplainRecord(Record):
    """Where to find the explanation of what was decided in this frame.

    Attributes:
        id: Its id; null where nothing was decided.
        state: A pending explanation comes in a topic of its own when it is done.
    """

    id: str | None
    state: Literal["none", "pending", "done", "dropped"]


class FaceRecord(Record):
    """One face of one frame.

    Attributes:
        track_id: The track that it belongs to, stream:epoch:number.
        explain: Explanations of what was decided in this frame.
    """

    track_id: str
    det: DetectionRecord
    quality: QualityRecord
    occlusion: OcclusionRecord
    identity: IdentityRecord
    emotion: EmotionRecord
    explain: tuple[ExplainRecord, ...]


class PolicyRecord(Record):
    """Under which policy the frame was looked at.

    Attributes:
        purpose: What the run is for.
        emotion: off, or allowed: and the purpose.
        identification: off, or allowed: and the purpose.
        unmasking: off, or allowed: and the purpose.
        faces: blurred where people who are not enrolled are hidden in video; else shown.
    """

    purpose: str
    emotion: str
    identification: str
    unmasking: str
    faces: str


class FrameRecord(Record):
    """One analysed frame. Frames without a face have a record too.

    Attributes:
        timings_ms: What its batch of frames took in each stage, milliseconds; `e2e` from reading it to here.
    """

    record: Literal["omote.frame/1.0"] = "omote.frame/1.0"
    stream: StreamRef
    frame: FrameRef
    faces: tuple[FaceRecord, ...]
    timings_ms: dict[str, float] = {}
    policy: PolicyRecord


class TrackRecord(Record):
    """A track began, changed what is known of it, or ended: what people want instead of boxes.

    Attributes:
        event: What happened.
        frame: The frame in which it happened; for end, the one in which the track was last seen.
        track_id: The track, stream:epoch:number.
        before: What was told of it last; null for new.
        after: What is known of it now.
    """

    record: Literal["omote.track/1.0"] = "omote.track/1.0"
    event: Literal["new", "update", "end"]
    stream: StreamRef
    frame: FrameRef
    track_id: str
    before: TrackSummary | None
    after: TrackSummary


class TrackSummary(Record):
    """What is known of a track.

    Attributes:
        decision: As in the identity of a face.
        subject_id: As in the identity of a face.
        mask: As in the occlusion of a face.
        emotion: Label of the emotion; null where there is none.
        first_pts_ns: When it was first seen, nanoseconds of stream time.
        last_pts_ns: When it was last seen, nanoseconds of stream time.
        frames: Frames in which it was seen.
        best_quality: Best quality score of its faces, 0 to 1.
    """

    decision: str
    subject_id: str | None
    mask: str
    emotion: str | None
    first_pts_ns: int
    last_pts_ns: int
    frames: int
    best_quality: float


class MatchRecord(Record):
    """A subject became known on a track.

    Attributes:
        frame: The frame in which the decision was taken.
        track_id: The track, stream:epoch:number.
    """

    record: Literal["omote.match/1.0"] = "omote.match/1.0"
    stream: StreamRef
    frame: FrameRef
    track_id: str
    identity: IdentityRecord
    occlusion: OcclusionRecord
    explain: ExplainRecord


class ExplanationRecord(Record):
    """Why a decision was taken, without its pictures.

    Attributes:
        id: Id of the explanation, as the frame and the match give it.
        stream: Id of the stream.
        epoch: Number of the connection.
        seq: Number of the frame in which the decision was taken.
        pts_ns: Presentation time of that frame, nanoseconds of stream time.
        track_id: The track decided on, stream:epoch:number.
        kind: What was decided.
        target: The subject or the emotion explained.
        method: Name of the method.
        score: The value explained: a cosine similarity, or the log-odds of an emotion.
        completeness_error: Share of the score that the attributions do not account for; null where the method makes
            no such promise.
        faithfulness: Share of the score lost when the tenth of the pixels that matter most is greyed; null where
            there was no score to lose.
        faithfulness_random: The same for a random tenth.
        synthetic_evidence_ratio: Share of the relevance on invented pixels, 0 to 1.
        caveat: What a reader must know before believing it.
        took_ms: Time it took, milliseconds.
    """

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
    completeness_error: Measured
    faithfulness: Measured
    faithfulness_random: Measured
    synthetic_evidence_ratio: float
    caveat: str
    took_ms: float

    @classmethod
    def of(cls, explanation: Explanation) -> ExplanationRecord:
        """The record of an explanation; its maps stay behind."""
        return cls(**{name: getattr(explanation, name) for name in cls.model_fields if name != "record"})


class StreamStatusRecord(Record):
    """How a stream does: the newest of its key is how it does now.

    Attributes:
        stream: The stream, and the number of its last connection.
        state: rejected means that the stream was not taken on.
        reason: Why it is not online, one sentence; empty where it is.
        last_pts_ns: Stream time of the last picture that came in, nanoseconds.
        since: When the state began, RFC 3339.
    """

    record: Literal["omote.stream-status/1.0"] = "omote.stream-status/1.0"
    stream: StreamRef
    state: Literal["online", "reconnecting", "offline", "rejected"]
    reason: str
    last_pts_ns: int
    since: Moment


TrackRecord.model_rebuild()
