"""Every frame has its record, and every track is told once when it comes, when it changes and when it goes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from operators.annotate import Annotate
from pipeline.identifiers import explanation_id
from pipeline.packets import EMOTIONS, Emotion, FeltFace, Frame, Identity, MaskState, Quality, Restoration
from pipeline.policy import Policy
from pipeline.records import FrameRecord, MatchRecord, TrackRecord
from pipeline.testing import make_frame, make_grown

ALLOWED = Policy(purpose="research", emotion=True, identification=True)
KNOWN = Identity("known", "ann", 0.61234, 0.4, 0.3, 0.31, 3, "main", 7)
HAPPY = Emotion("ok", "happy", np.eye(7, dtype=np.float32)[1], 12, 480)
Told = FrameRecord | TrackRecord | MatchRecord


def face(seq: int, number: int = 1, **given: object) -> FeltFace:
    return make_grown(FeltFace, seq, track_id=f"camera:0:{number}", **given)


def film(*faces: FeltFace, frames: int = 10) -> list[Frame | FeltFace]:
    made = [make_frame(n, 480, 640) for n in range(frames)]
    return [packet for frame in made for packet in (frame, *(f for f in faces if f.seq == frame.seq))]


def told(
    packets: Sequence[Frame | FeltFace],
    together: int = 1000,
    policy: Policy = ALLOWED,
    over: bool = True,
    **more: object,
) -> list[Told]:
    """Every record, with the packets of ``together`` frames given to the operator at a time."""
    annotate = Annotate(policy, **more)
    state, out = annotate.start("camera"), []
    for first in range(0, 10_000, together):
        if batch := [p for p in packets if first <= p.seq < first + together]:
            state, given = annotate(state, batch)
            out += given
    return [*out, *annotate.finish(state)] if over else out


def frames_of(records: Sequence[Told]) -> list[FrameRecord]:
    return [record for record in records if isinstance(record, FrameRecord)]


def events(records: Sequence[Told]) -> list[tuple[str, int, int]]:
    """What happened, to which track, at which frame."""
    tracks = [record for record in records if isinstance(record, TrackRecord)]
    return [(record.event, int(record.track_id.split(":")[2]), record.frame.seq) for record in tracks]


# A record for every frame


def test_every_frame_has_a_record_empty_ones_too() -> None:
    records = frames_of(told(film(face(2), face(2, 2), face(5))))
    assert [record.frame.seq for record in records] == list(range(10))
    assert [len(record.faces) for record in records] == [0, 0, 2, 0, 0, 1, 0, 0, 0, 0]
    assert [each.track_id for each in records[2].faces] == ["camera:0:1", "camera:0:2"]


def test_a_record_says_where_it_stands_and_under_which_policy() -> None:
    frame = replace(
        make_frame(3, 480, 640, dropped_before=2, capture_ns=1_790_000_000_123_000_000, source="rtsp"), epoch=4
    )
    (record,) = told([frame])
    assert (record.stream.id, record.stream.epoch, record.stream.source) == ("camera", 4, "rtsp")
    assert (record.frame.seq, record.frame.pts_ns, record.frame.dropped_before) == (3, 120_000_000, 2)
    assert (record.frame.w, record.frame.h) == (640, 480)
    assert record.frame.capture_ts is not None
    assert record.frame.capture_ts.startswith("2026-09-21T")
    assert record.policy.model_dump() == {
        "purpose": "research",
        "emotion": "allowed:research",
        "identification": "allowed:research",
        "unmasking": "off",
        "faces": "blurred",
    }
    assert told([make_frame(0)])[0].frame.capture_ts is None


def test_boxes_in_pixels_and_in_shares_agree() -> None:
    (face_record,) = frames_of(told(film(face(0, box=(100.5, 60.25, 300.5, 310.25)))))[0].faces
    x, y, w, h = face_record.det.bbox_px
    assert (x, y, w, h) == pytest.approx((100.5, 60.25, 200, 250), abs=0.06)
    assert face_record.det.bbox_norm == pytest.approx((x / 640, y / 480, w / 640, h / 480), abs=2e-4)
    assert len(face_record.det.landmarks5) == 5
    assert all(x < px < x + w and y < py < y + h for px, py in face_record.det.landmarks5)


def test_a_record_holds_what_is_known_of_a_face() -> None:
    given = face(
        0,
        identity=KNOWN,
        mask=MaskState("masked", 0.87654),
        emotion=HAPPY,
        quality=Quality(0.5, 0.25, -12.5, 101.0, ("blurred", "turned")),
        predicted=True,
        restoration=Restoration(False, np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), bool), np.ones((1, 1)), 0.25),
    )
    (record,) = frames_of(told(film(given)))[0].faces
    assert record.det.predicted
    assert (record.quality.gate, record.quality.reasons, record.quality.yaw) == ("fail", ("blurred", "turned"), -12.5)
    assert (record.occlusion.mask, record.occlusion.p) == ("masked", 0.8765)
    assert record.occlusion.unmask is not None
    assert (record.occlusion.unmask.restored, record.occlusion.unmask.estimate) == (False, True)
    assert (record.identity.decision, record.identity.subject_id, record.identity.score) == ("known", "ann", 0.6123)
    assert (record.identity.gallery, record.identity.gallery_version, record.identity.votes) == ("main", 7, 3)
    assert (record.emotion.state, record.emotion.label) == ("ok", "happy")
    assert set(record.emotion.probs) == set(EMOTIONS)
    assert record.emotion.probs["happy"] == 1
    assert (record.emotion.window.frames, record.emotion.window.span_ms) == (12, 480)


def test_what_is_not_known_is_null_and_never_a_guess() -> None:
    silent = Emotion("suppressed", "", np.zeros(7, np.float32), 0, 0)
    (record,) = frames_of(told(film(face(0, emotion=silent, identity=Identity("not_evaluated")))))[0].faces
    assert record.identity.subject_id is None
    assert record.emotion.label is None
    assert record.emotion.probs == {}
    assert record.occlusion.unmask is None


def test_every_record_reads_back_from_its_json() -> None:
    packets = film(face(0), face(1, identity=KNOWN, first_match=True), face(2, emotion=HAPPY, emotion_changed=True))
    records = told(packets)
    assert {type(record) for record in records} == {FrameRecord, TrackRecord, MatchRecord}
    for record in records:
        text = record.model_dump_json()
        assert type(record).model_validate_json(text) == record
        assert json.loads(text)["record"].startswith("omote.")


def test_no_pixel_and_no_vector_leaves_the_system() -> None:
    assert max(len(record.model_dump_json()) for record in told(film(face(0, identity=KNOWN)))) < 2500


# The life of a track


def test_a_track_comes_once_and_goes_once() -> None:
    records = told(film(*(face(n) for n in range(1, 7))), end_after_s=0.1)
    assert events(records) == [("new", 1, 1), ("end", 1, 6)]
    new, end = (record for record in records if isinstance(record, TrackRecord))
    assert new.before is None
    assert (new.after.frames, new.after.first_pts_ns) == (1, 40_000_000)
    assert (end.after.frames, end.after.first_pts_ns, end.after.last_pts_ns) == (6, 40_000_000, 240_000_000)
    assert end.before == new.after


def test_a_track_is_told_again_only_when_what_it_means_has_changed() -> None:
    faces = [
        face(0),
        face(1, quality=Quality(0.95, 0, 0, 120)),
        face(2, identity=KNOWN),
        face(3, identity=replace(KNOWN, score=0.7, votes=4)),
        face(4, identity=KNOWN, mask=MaskState("masked", 0.9)),
        face(5, identity=KNOWN, mask=MaskState("masked", 0.8), emotion=HAPPY),
        face(6, identity=KNOWN, mask=MaskState("masked", 0.8), emotion=HAPPY),
    ]
    records = told(film(*faces))
    assert events(records) == [("new", 1, 0), ("update", 1, 2), ("update", 1, 4), ("update", 1, 5), ("end", 1, 6)]
    updates = [record for record in records if isinstance(record, TrackRecord)]
    for earlier, later in pairwise(updates):
        assert later.before == earlier.after
    assert [(u.after.decision, u.after.mask, u.after.emotion) for u in updates[1:4]] == [
        ("known", "bare", None),
        ("known", "masked", None),
        ("known", "masked", "happy"),
    ]
    assert updates[-1].after.best_quality == 0.95


def test_the_end_of_the_stream_ends_every_track_that_is_still_there() -> None:
    records = told(film(face(9), face(8, 2), face(2, 3)))
    assert [event for event in events(records) if event[0] == "end"] == [("end", 3, 2), ("end", 2, 8), ("end", 1, 9)]
    assert [event for event in events(records) if event[1] == 1] == [("new", 1, 9), ("end", 1, 9)]


def test_a_new_connection_ends_the_tracks_of_the_one_before_whatever_its_clock_says() -> None:
    before, after = film(face(3), frames=5), [replace(frame, epoch=1) for frame in film(frames=2)]
    annotate = Annotate(ALLOWED)
    state, _ = annotate(annotate.start("camera"), before)
    state, records = annotate(state, after)
    assert events(list(records)) == [("end", 1, 3)]
    assert not state


def test_a_stream_that_goes_on_ends_no_track_that_may_come_back() -> None:
    assert events(told(film(face(0), frames=30), over=False, end_after_s=1.5)) == [("new", 1, 0)]


def test_the_events_of_a_frame_follow_its_record() -> None:
    records = told(film(face(0, identity=KNOWN, first_match=True), frames=2))
    assert [type(record).__name__ for record in records] == [
        "FrameRecord",
        "TrackRecord",
        "MatchRecord",
        "FrameRecord",
        "TrackRecord",
    ]


# Matches and explanations


def test_a_match_is_told_once_with_the_id_of_its_explanation() -> None:
    faces = [face(0), face(1, identity=KNOWN, first_match=True), face(2, identity=KNOWN)]
    records = told(film(*faces))
    (match,) = (record for record in records if isinstance(record, MatchRecord))
    assert (match.track_id, match.frame.seq, match.identity.subject_id) == ("camera:0:1", 1, "ann")
    (in_frame,) = frames_of(records)[1].faces[0].explain
    assert in_frame == match.explain
    assert (match.explain.id, match.explain.state) == (explanation_id("camera", 0, 1, "camera:0:1", "match"), "pending")


def test_each_decision_of_a_frame_has_its_own_explanation() -> None:
    both = face(0, identity=KNOWN, first_match=True, emotion=HAPPY, emotion_changed=True)
    explains = [record.faces[0].explain for record in frames_of(told(film(both, face(1))))[:2]]
    assert [each.state for each in explains[0]] == ["pending", "pending"]
    assert len({each.id for each in explains[0]}) == 2
    assert [(each.id, each.state) for each in explains[1]] == [(None, "none")]


# Promises of every keyed operator


def crowd() -> list[Frame | FeltFace]:
    faces = [face(n, 1, identity=KNOWN if n > 12 else Identity("unknown"), first_match=n == 13) for n in range(2, 40)]
    faces += [face(n, 2) for n in range(20, 25)]
    return film(*faces, frames=90)


@pytest.mark.parametrize("together", [1, 16, 33])
def test_the_result_does_not_depend_on_how_the_stream_is_cut(together: int) -> None:
    assert told(crowd(), together) == told(crowd())
    assert events(told(crowd())) == [
        ("new", 1, 2),
        ("update", 1, 13),
        ("new", 2, 20),
        ("end", 2, 24),
        ("end", 1, 39),
    ]


def test_the_order_of_packets_in_a_batch_does_not_matter() -> None:
    mixed = sorted(crowd(), key=lambda p: (isinstance(p, Frame), -p.seq if isinstance(p, Frame) else p.seq))
    assert told(mixed) == told(crowd())


def test_the_state_is_a_value_that_can_be_stored_and_is_never_edited() -> None:
    annotate = Annotate(ALLOWED)
    first, later = ([p for p in crowd() if (p.seq < 22) == early] for early in (True, False))
    state, _ = annotate(annotate.start("camera"), first)
    stored = pickle.dumps(state)
    _, once = annotate(state, later)
    assert pickle.dumps(state) == stored
    _, again = Annotate(ALLOWED)(pickle.loads(stored), later)
    assert list(once) == list(again)
