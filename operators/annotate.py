"""Join frames and faces into the records that leave the system: one a frame, and the events of each track."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from pipeline.identifiers import explanation_id
from pipeline.operator import KeyedOperator
from pipeline.packets import EMOTIONS, Emotion, FeltFace, Floats, Frame, Identity, Quality, Restoration
from pipeline.policy import Policy
from pipeline.records import (
    DetectionRecord,
    EmotionRecord,
    ExplainRecord,
    FaceRecord,
    FrameRecord,
    FrameRef,
    IdentityRecord,
    MatchRecord,
    OcclusionRecord,
    PolicyRecord,
    QualityRecord,
    StreamRef,
    TrackRecord,
    TrackSummary,
    UnmaskRecord,
    WindowRecord,
)


@dataclass(frozen=True, slots=True)
class Life:
    """What has been told of a track.

    Attributes:
        now: Its summary.
        told: The summary last published.
        stream: Its stream.
        seen: The frame in which it was last seen.
    """

    now: TrackSummary
    told: TrackSummary
    stream: StreamRef
    seen: FrameRef


class Annotate(KeyedOperator[Frame | FeltFace, FrameRecord | TrackRecord | MatchRecord, Mapping[str, Life]]):
    """One record per analysed frame, empty frames too; ``new``, ``update`` and ``end`` of each track; matches."""

    def __init__(self, policy: Policy, end_after_s: float = 1.5) -> None:
        """Set what the records say of the run.

        Args:
            policy: Shown in every record.
            end_after_s: A track not seen for so long has ended; the tracker's ``patience_s``.
        """
        self._end_ns = round(end_after_s * 1e9)
        self._policy = PolicyRecord(
            purpose=policy.purpose,
            emotion=policy.stated("emotion"),
            identification=policy.stated("identification"),
            unmasking=policy.stated("unmasking"),
            faces=policy.faces,
        )

    def start(self, stream: str) -> Mapping[str, Life]:
        return {}

    def __call__(
        self, state: Mapping[str, Life], batch: Sequence[Frame | FeltFace]
    ) -> tuple[Mapping[str, Life], Iterable[FrameRecord | TrackRecord | MatchRecord]]:
        """Records in the order of the frames; ``batch`` holds frames and faces."""
        faces: dict[int, list[FeltFace]] = {}
        for packet in batch:
            if isinstance(packet, FeltFace):
                faces.setdefault(packet.seq, []).append(packet)
        lives, out = dict(state), []
        for frame in sorted((p for p in batch if isinstance(p, Frame)), key=lambda f: f.seq):
            out += self._frame(frame, faces.get(frame.seq, []), lives)
        return lives, out

    def finish(self, state: Mapping[str, Life]) -> Iterable[TrackRecord]:
        """The end of every track that is still there."""
        return [_ended(track, life) for track, life in state.items()]

    def _frame(
        self, frame: Frame, faces: list[FeltFace], lives: dict[str, Life]
    ) -> list[FrameRecord | TrackRecord | MatchRecord]:
        stream, at = StreamRef(id=frame.stream, epoch=frame.epoch, source=frame.source), frame_ref(frame)
        records = tuple(face_record(face, at) for face in faces)
        out: list[FrameRecord | TrackRecord | MatchRecord] = [
            FrameRecord(stream=stream, frame=at, faces=records, policy=self._policy)
        ]
        for face, record in zip(faces, records, strict=True):
            out += _told(lives, face, stream, at)
            if face.first_match:
                out.append(_match(face, record, stream, at))
        for track in [t for t, life in lives.items() if self._over(life, frame)]:
            out.append(_ended(track, lives.pop(track)))
        return out

    def _over(self, life: Life, frame: Frame) -> bool:
        return frame.epoch != life.stream.epoch or frame.pts_ns - life.now.last_pts_ns > self._end_ns


def _ended(track: str, life: Life) -> TrackRecord:
    """``end``, dated to the frame in which the track was last seen."""
    return TrackRecord(
        event="end", stream=life.stream, frame=life.seen, track_id=track, before=life.told, after=life.now
    )


def frame_ref(frame: Frame) -> FrameRef:
    """Where the frame stands and how large it is."""
    height, width = frame.image.shape[:2]
    capture = datetime.fromtimestamp(frame.capture_ns / 1e9, UTC).isoformat() if frame.capture_ns else None
    return FrameRef(
        seq=frame.seq, pts_ns=frame.pts_ns, capture_ts=capture, w=width, h=height, dropped_before=frame.dropped_before
    )


def face_record(face: FeltFace, frame: FrameRef) -> FaceRecord:
    """All that is known of a face, without its pixels and vectors."""
    return FaceRecord(
        track_id=face.track_id,
        det=_detection(face, frame),
        quality=_quality(face.quality),
        occlusion=_occlusion(face),
        identity=_identity(face.identity),
        emotion=_emotion(face.emotion),
        explain=_explain(face),
    )


def _detection(face: FeltFace, frame: FrameRef) -> DetectionRecord:
    x1, y1, x2, y2 = (float(v) for v in face.box)
    box = (x1, y1, x2 - x1, y2 - y1)
    shares = (box[0] / frame.w, box[1] / frame.h, box[2] / frame.w, box[3] / frame.h)
    return DetectionRecord(
        bbox_px=(round(box[0], 1), round(box[1], 1), round(box[2], 1), round(box[3], 1)),
        bbox_norm=(round(shares[0], 5), round(shares[1], 5), round(shares[2], 5), round(shares[3], 5)),
        score=round(face.score, 4),
        landmarks5=_points(face.landmarks),
        predicted=face.predicted,
    )


def _points(landmarks: Floats) -> tuple[tuple[float, float], ...]:
    return tuple((round(x, 1), round(y, 1)) for x, y in landmarks.tolist())


def _quality(quality: Quality) -> QualityRecord:
    return QualityRecord(
        score=quality.score,
        blur=quality.blur,
        yaw=quality.yaw,
        size_px=quality.size_px,
        gate="pass" if quality.passed else "fail",
        reasons=quality.reasons,
    )


def _occlusion(face: FeltFace) -> OcclusionRecord:
    return OcclusionRecord(mask=face.mask.label, p=round(face.mask.probability, 4), unmask=_unmask(face.restoration))


def _unmask(restoration: Restoration | None) -> UnmaskRecord | None:
    if restoration is None:
        return None
    return UnmaskRecord(restored=restoration.restored, confidence=round(restoration.confidence, 4))


def _identity(identity: Identity) -> IdentityRecord:
    return IdentityRecord(
        decision=identity.decision,
        subject_id=identity.subject_id or None,
        score=round(identity.score, 4),
        threshold=identity.threshold,
        margin=round(identity.margin, 4),
        runner_up_score=round(identity.runner_up_score, 4),
        votes=identity.votes,
        gallery=identity.gallery,
        gallery_version=identity.gallery_version,
        gallery_stale_s=round(identity.stale_s),
        masked_policy="masked" if identity.masked else "bare",
    )


def _emotion(emotion: Emotion) -> EmotionRecord:
    told = emotion.state in {"ok", "warming"}
    probabilities = (round(float(p), 4) for p in emotion.probabilities)
    return EmotionRecord(
        state=emotion.state,
        label=emotion.label or None,
        probs=dict(zip(EMOTIONS, probabilities, strict=True)) if told else {},
        window=WindowRecord(frames=emotion.frames, span_ms=emotion.span_ms),
    )


def _explain(face: FeltFace) -> tuple[ExplainRecord, ...]:
    kinds = [kind for kind, due in (("match", face.first_match), ("emotion", face.emotion_changed)) if due]
    return tuple(_pending(face, kind) for kind in kinds) or (ExplainRecord(id=None, state="none"),)


def _pending(face: FeltFace, kind: str) -> ExplainRecord:
    return ExplainRecord(id=explanation_id(face.stream, face.epoch, face.seq, face.track_id, kind), state="pending")


def _match(face: FeltFace, record: FaceRecord, stream: StreamRef, at: FrameRef) -> MatchRecord:
    return MatchRecord(
        stream=stream,
        frame=at,
        track_id=face.track_id,
        identity=record.identity,
        occlusion=record.occlusion,
        explain=_pending(face, "match"),
    )


def _told(lives: dict[str, Life], face: FeltFace, stream: StreamRef, at: FrameRef) -> list[TrackRecord]:
    """``new`` at the first face of a track, ``update`` when what it means has changed."""
    life = lives.get(face.track_id)
    now = _summary(face, life.now if life else None)
    if life and _meaning(now) == _meaning(life.told):
        lives[face.track_id] = replace(life, now=now, seen=at)
        return []
    lives[face.track_id] = Life(now, now, stream, at)
    before = life.told if life else None
    event: Literal["new", "update"] = "update" if life else "new"
    return [TrackRecord(event=event, stream=stream, frame=at, track_id=face.track_id, before=before, after=now)]


def _summary(face: FeltFace, before: TrackSummary | None) -> TrackSummary:
    return TrackSummary(
        decision=face.identity.decision,
        subject_id=face.identity.subject_id or None,
        mask=face.mask.label,
        emotion=face.emotion.label or None,
        first_pts_ns=before.first_pts_ns if before else face.pts_ns,
        last_pts_ns=face.pts_ns,
        frames=before.frames + 1 if before else 1,
        best_quality=max(face.quality.score, before.best_quality if before else 0.0),
    )


def _meaning(summary: TrackSummary) -> tuple[str, str | None, str, str | None]:
    return summary.decision, summary.subject_id, summary.mask, summary.emotion
