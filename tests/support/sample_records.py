"""A record of each kind, with as much in it as there can be."""

from __future__ import annotations

from pipeline.records import (
    DetectionRecord,
    EmotionRecord,
    ExplainRecord,
    ExplanationRecord,
    FaceRecord,
    FrameRecord,
    FrameRef,
    IdentityRecord,
    MatchRecord,
    OcclusionRecord,
    PolicyRecord,
    QualityRecord,
    Record,
    StreamRef,
    StreamStatusRecord,
    TrackRecord,
    TrackSummary,
    UnmaskRecord,
    WindowRecord,
)

STREAM = StreamRef(id="gate", epoch=3, source="rtsp", tenant="acme")
FRAME = FrameRef(seq=7, pts_ns=280_000_000, capture_ts="2026-09-20T10:00:00.033Z", w=128, h=96, dropped_before=2)
OCCLUSION = OcclusionRecord(mask="masked", p=0.9, unmask=UnmaskRecord(restored=False, confidence=0.25))
IDENTITY = IdentityRecord(
    decision="known",
    subject_id="ada",
    score=0.71,
    threshold=0.5,
    margin=0.4,
    runner_up_score=0.31,
    votes=3,
    gallery="main",
    gallery_version=1,
    masked_policy="masked",
)
FACE = FaceRecord(
    track_id="gate:3:1",
    det=DetectionRecord(
        bbox_px=(30, 30, 40, 40),
        bbox_norm=(0.23, 0.31, 0.31, 0.42),
        score=0.9,
        landmarks5=((40, 45), (60, 45), (50, 52), (43, 60), (57, 60)),
    ),
    quality=QualityRecord(score=0.9, blur=0.1, yaw=-4.0, size_px=40, gate="fail", reasons=("small",)),
    occlusion=OCCLUSION,
    identity=IDENTITY,
    emotion=EmotionRecord(state="ok", label="happy", probs={"happy": 1.0}, window=WindowRecord(frames=9, span_ms=300)),
    explain=(ExplainRecord(id="9d1f5436d1a1", state="pending"),),
)
KNOWN = TrackSummary(
    decision="known",
    subject_id="ada",
    mask="masked",
    emotion="happy",
    first_pts_ns=0,
    last_pts_ns=280_000_000,
    frames=8,
    best_quality=0.9,
)

SAMPLES: dict[str, Record] = {
    "frame": FrameRecord(
        stream=STREAM,
        frame=FRAME,
        faces=(FACE,),
        timings_ms={"detect": 12.5},
        policy=PolicyRecord(
            purpose="safety",
            emotion="allowed:safety",
            identification="allowed:safety",
            unmasking="off",
            faces="blurred",
        ),
    ),
    "track": TrackRecord(event="new", stream=STREAM, frame=FRAME, track_id="gate:3:1", before=None, after=KNOWN),
    "match": MatchRecord(
        stream=STREAM,
        frame=FRAME,
        track_id="gate:3:1",
        identity=IDENTITY,
        occlusion=OCCLUSION,
        explain=ExplainRecord(id="9d1f5436d1a1", state="pending"),
    ),
    "explanation": ExplanationRecord(
        id="9d1f5436d1a1",
        stream="gate",
        epoch=3,
        seq=7,
        pts_ns=280_000_000,
        track_id="gate:3:1",
        kind="match",
        target="ada",
        method="cosine_contributions",
        score=0.71,
        completeness_error=float("nan"),
        faithfulness=0.4,
        faithfulness_random=0.1,
        synthetic_evidence_ratio=0.0,
        caveat="A similarity is no proof.",
        took_ms=40.0,
    ),
    "stream-status": StreamStatusRecord(
        stream=STREAM,
        state="reconnecting",
        reason="the server has fallen silent",
        last_pts_ns=280_000_000,
        since="2026-09-20T10:00:01+00:00",
    ),
}
