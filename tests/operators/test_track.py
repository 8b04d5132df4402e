"""One person is one track: through occlusion, past others, and however the stream is cut."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from operators.track import Track, appearance, overlaps
from pipeline.packets import Face, Floats, Frame, Pixels, TrackedFace
from pipeline.testing import make_face, make_frame

Path = Callable[[float], tuple[float, float] | None]  # centre at a time in seconds; None while nothing is seen
Moment = tuple[Frame, list[Face]]
SIZE = 80


@cache
def portrait(person: int) -> Pixels:
    """A crop that is sharp, passes the gate and looks like nobody else's."""
    rng = np.random.default_rng(person)
    coarse = rng.integers(0, 256, (8, 8, 3)).repeat(16, 0).repeat(16, 1)
    return (coarse * 0.6 + rng.integers(0, 100, (128, 128, 3))).astype(np.uint8)


def scene(paths: dict[int, Path], seconds: float, fps: float = 25, looks: Sequence[int] | None = None) -> list[Moment]:
    """What the detector sees of people who walk along ``paths``, with a jitter of about a pixel."""
    rng = np.random.default_rng(0)
    moments = []
    for n in range(round(seconds * fps)):
        pts_ns = round(n / fps * 1e9)
        frame = replace(make_frame(n, 480, 640), pts_ns=pts_ns)
        faces = []
        for who, path in paths.items():
            if (centre := path(n / fps)) is not None:
                x, y = np.array(centre) + rng.normal(size=2)
                box = (x - SIZE / 2, y - SIZE / 2, x + SIZE / 2, y + SIZE / 2)
                face = make_face(n, box, crop=portrait(looks[who] if looks else who))
                faces.append(replace(face, pts_ns=pts_ns))
        moments.append((frame, faces))
    return moments


def follow(moments: Sequence[Moment], together: int = 1, **arguments: float) -> list[TrackedFace]:
    """Every tracked face, with the moments given to the operator ``together`` at a time."""
    track = Track(**arguments)
    state, out = track.start("camera"), []
    for first in range(0, len(moments), together):
        some = moments[first : first + together]
        batch = [frame for frame, _ in some] + [face for _, faces in some for face in faces]
        state, given = track(state, batch)
        out += given
    return out


def ids(faces: Sequence[TrackedFace]) -> set[str]:
    return {face.track_id for face in faces}


def ids_by_person(moments: Sequence[Moment], faces: Sequence[TrackedFace]) -> dict[int, set[str]]:
    """The tracks that each person was given; a person is known by the place in the scene's list of faces."""
    truth = {(face.seq, *face.box.tolist()): n for _, seen in moments for n, face in enumerate(seen)}
    found: dict[int, set[str]] = {}
    for face in faces:
        found.setdefault(truth[face.seq, *face.box.tolist()], set()).add(face.track_id)
    return found


def still(x: float, y: float = 200) -> Path:
    return lambda t: (x, y)


def walking(x: float, speed: float, y: float = 200) -> Path:
    return lambda t: (x + speed * t, y)


def hidden(path: Path, since: float, until: float) -> Path:
    return lambda t: None if since <= t < until else path(t)


def test_one_person_is_one_track_from_the_first_frame_to_the_last() -> None:
    faces = follow(scene({0: walking(100, 120)}, 3))
    assert ids(faces) == {"camera:0:1"}
    assert len(faces) == 75


@pytest.mark.parametrize("fps", [8, 15, 30, 60])
def test_one_person_is_one_track_at_every_frame_rate(fps: float) -> None:
    assert len(ids(follow(scene({0: walking(100, 150)}, 2, fps)))) == 1


def test_people_beside_each_other_keep_their_own_tracks() -> None:
    moments = scene({n: still(80 + 110 * n) for n in range(5)}, 1)
    found = ids_by_person(moments, follow(moments))
    assert sorted(len(each) for each in found.values()) == [1] * 5
    assert len(set.union(*found.values())) == 5


@pytest.mark.parametrize("path", [still(300), walking(100, 120), walking(500, -200)])
def test_a_track_survives_a_short_occlusion(path: Path) -> None:
    faces = follow(scene({0: hidden(path, 1.0, 1.4)}, 2.5))
    assert ids(faces) == {"camera:0:1"}
    assert len(faces) == round(2.1 * 25)


def test_somebody_who_comes_back_after_the_patience_is_a_new_track() -> None:
    faces = follow(scene({0: hidden(still(300), 1.0, 3.0)}, 4), patience_s=1.5)
    assert ids(faces) == {"camera:0:1", "camera:0:2"}


@pytest.mark.parametrize("speed", [60, 120, 240])
@pytest.mark.parametrize("looks", [(0, 1), (0, 0)], ids=["of different looks", "of the same looks"])
@pytest.mark.parametrize("dy", [0, 12])
def test_two_people_who_cross_never_swap(speed: float, looks: tuple[int, int], dy: float) -> None:
    seconds = 400 / speed
    paths = {0: walking(120, speed), 1: walking(520, -speed, 200 + dy)}
    moments = scene(paths, seconds, looks=looks)
    found = ids_by_person(moments, follow(moments))
    assert [len(found[who]) for who in (0, 1)] == [1, 1]
    assert found[0] != found[1]


@pytest.mark.parametrize("looks", [(0, 1), (0, 0)], ids=["of different looks", "of the same looks"])
def test_two_people_who_cross_never_swap_while_one_hides_the_other(looks: tuple[int, int]) -> None:
    behind = hidden(walking(520, -120), 1.5, 1.85)  # the boxes overlap by more than half
    moments = scene({0: walking(120, 120), 1: behind}, 3.3, looks=looks)
    faces = follow(moments)
    left = {face.track_id for face in faces if face.seq < 20 and face.box[0] < 300}
    assert {face.track_id for face in faces if face.seq > 70 and face.box[0] > 300} == left
    assert len(ids(faces)) == 2


def test_two_people_who_meet_and_turn_back_never_swap() -> None:
    def bounce(x: float, speed: float) -> Path:
        return lambda t: (x + speed * min(t, 3 - t), 200)

    moments = scene({0: bounce(120, 110), 1: bounce(520, -110)}, 3)
    found = ids_by_person(moments, follow(moments))
    assert [len(found[who]) for who in (0, 1)] == [1, 1]


def test_where_two_faces_claim_one_place_their_looks_decide() -> None:
    def changing(x: float, other: float) -> Path:
        return hidden(lambda t: (x if t < 1 else other, 200), 1.0, 1.2)

    moments = scene({0: changing(300, 340), 1: changing(340, 300)}, 2)  # they change places behind a pillar
    found = ids_by_person(moments, follow(moments))
    assert [len(found[who]) for who in (0, 1)] == [1, 1]
    assert found[0] != found[1]


def weak(moments: Sequence[Moment], since: int, until: int) -> list[Moment]:
    return [
        (frame, [replace(face, score=0.55) if since <= frame.seq < until else face for face in faces])
        for frame, faces in moments
    ]


def test_a_weak_face_keeps_a_track_alive() -> None:
    faces = follow(weak(scene({0: walking(100, 60)}, 4), 10, 80), patience_s=0.5)
    assert ids(faces) == {"camera:0:1"}
    assert len(faces) == 100


def test_a_weak_face_never_starts_a_track() -> None:
    assert follow(weak(scene({0: still(300)}, 2), 0, 50)) == []


def test_between_the_looks_of_the_detector_faces_move_with_their_tracks() -> None:
    whole = scene({0: walking(100, 150)}, 2)
    looked = [(frame, faces if frame.seq % 3 == 0 else []) for frame, faces in whole]
    faces = follow(looked, detect_every=3)
    assert ids(faces) == {"camera:0:1"}
    assert [face.seq for face in faces] == list(range(50))
    for face in faces:
        assert face.predicted == (face.seq % 3 != 0)
        assert ("predicted" in face.quality.reasons) == face.predicted
        assert not (face.predicted and face.chosen)
    for face, (_, [true]) in zip(faces[9:], whole[9:], strict=True):
        assert overlaps(face.box[None], true.box[None])[0, 0] > 0.8
        assert np.abs(face.landmarks - true.landmarks).max() < 10


def test_a_predicted_face_is_cut_out_of_its_own_frame() -> None:
    moments = scene({0: still(300)}, 0.16)
    moments = [
        (replace(f, image=np.full((480, 640, 3), 60 * f.seq, np.uint8)), s if f.seq == 0 else []) for f, s in moments
    ]
    _, *predicted = follow(moments, detect_every=4)
    assert [int(np.median(face.crop)) for face in predicted] == [60, 120, 180]


def test_a_face_that_the_detector_no_longer_finds_is_not_predicted() -> None:
    whole = scene({0: still(300)}, 1)
    gone = [(frame, faces if frame.seq % 3 == 0 and frame.seq < 9 else []) for frame, faces in whole]
    assert [face.seq for face in follow(gone, detect_every=3)] == list(range(9))


def test_numbers_are_never_given_twice() -> None:
    comings = {0: hidden(still(100), 0.4, 9), 1: hidden(still(300), 0.0, 0.8), 2: hidden(still(500), 0.0, 1.6)}
    faces = follow(scene(comings, 3), patience_s=0.2)
    assert ids(faces) == {"camera:0:1", "camera:0:2", "camera:0:3"}
    assert {face.track_id for face in faces if face.box[0] < 200} == {"camera:0:1"}


def test_a_new_connection_of_the_stream_begins_new_tracks() -> None:
    first = scene({0: still(300)}, 1)
    again = [(replace(f, epoch=1), [replace(face, epoch=1) for face in faces]) for f, faces in first]
    faces = follow([*first, *again])
    assert ids(faces) == {"camera:0:1", "camera:1:1"}
    assert {face.epoch for face in faces if face.track_id == "camera:1:1"} == {1}
    track = Track()
    state = track.start("camera")
    for frame, seen in [*first, *((frame, []) for frame, _ in again)]:
        state, _ = track(state, [frame, *seen])
    assert state.tracks == ()


def test_streams_are_told_apart_by_their_states() -> None:
    track = Track()
    here, there = track.start("a"), track.start("b")
    for frame, faces in scene({0: still(300)}, 0.4):
        here, seen = track(here, [replace(p, stream="a") for p in (frame, *faces)])
        there, nothing = track(there, [replace(frame, stream="b")])
        assert [face.track_id for face in seen] == ["a:0:1"]
        assert list(nothing) == []


def crowd() -> list[Moment]:
    paths = {
        0: walking(120, 100),
        1: walking(520, -100),
        2: hidden(still(300, 380), 0.5, 0.9),
        3: hidden(still(80, 80), 0, 1),
    }
    return weak(scene(paths, 3), 30, 34)


@pytest.mark.parametrize("together", [3, 16, 1000])
def test_the_result_does_not_depend_on_how_the_stream_is_cut(together: int) -> None:
    one, other = follow(crowd()), follow(crowd(), together)
    assert [(f.seq, f.track_id, f.chosen) for f in one] == [(f.seq, f.track_id, f.chosen) for f in other]
    assert ids(one) == {f"camera:0:{n}" for n in range(1, 5)}


def test_the_order_of_packets_in_a_batch_does_not_matter() -> None:
    track = Track()
    batch = [packet for frame, faces in crowd()[:20] for packet in (frame, *faces)]
    _, sorted_out = track(track.start("camera"), batch)
    _, mixed_out = track(track.start("camera"), sorted(batch, key=lambda p: (isinstance(p, Frame), -p.seq)))
    assert [(f.seq, f.track_id) for f in sorted_out] == [(f.seq, f.track_id) for f in mixed_out]


def test_the_state_is_a_value_that_can_be_stored_and_is_never_edited() -> None:
    track, moments = Track(), crowd()
    state = track.start("camera")
    for frame, faces in moments[:30]:
        state, _ = track(state, [frame, *faces])
    stored = pickle.dumps(state)
    ahead = [packet for frame, faces in moments[30:40] for packet in (frame, *faces)]
    _, once = track(state, ahead)
    assert pickle.dumps(state) == stored
    _, again = Track()(pickle.loads(stored), ahead)
    assert [(f.seq, f.track_id, f.chosen) for f in once] == [(f.seq, f.track_id, f.chosen) for f in again]


def test_a_frame_without_faces_gives_none() -> None:
    assert follow([(make_frame(n), []) for n in range(5)]) == []


# Best shots


def chosen_ms(faces: Sequence[TrackedFace]) -> list[int]:
    return [face.pts_ns // 1_000_000 for face in faces if face.chosen]


def test_a_track_chooses_its_first_shots_soon_and_then_a_fresh_one_now_and_then() -> None:
    faces = follow(scene({0: still(300)}, 4), first_shots=3, shot_every_s=0.2, refresh_s=1.0)
    assert chosen_ms(faces) == [0, 200, 400, 1400, 2400, 3400]


def test_a_face_below_the_gate_is_never_chosen() -> None:
    small = scene({0: still(300)}, 1)
    assert chosen_ms(follow(small, min_size_px=100)) == []
    assert all(face.quality.reasons == ("small",) for face in follow(small, min_size_px=100))


def test_a_better_shot_is_chosen_before_the_next_refresh() -> None:
    moments = scene({0: still(300)}, 2)
    better = [
        (frame, [replace(face, score=0.99 if frame.seq >= 20 else 0.82) for face in faces]) for frame, faces in moments
    ]
    assert chosen_ms(follow(better, refresh_s=10, sure=0.7)) == [0, 200, 400, 800]


# What the pairing rests on


def slow_overlap(a: Floats, b: Floats) -> float:
    inside = [(x, y) for x in range(100) for y in range(100)]

    def within(box: Floats) -> set[tuple[int, int]]:
        return {(x, y) for x, y in inside if box[0] <= x < box[2] and box[1] <= y < box[3]}

    one, other = within(a), within(b)
    return len(one & other) / len(one | other)


def test_overlap_is_the_share_of_common_pixels() -> None:
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.integers(0, 100, (8, 2, 2)), axis=1).reshape(8, 4).astype(np.float32)
    boxes[:, 2:] += 1
    found = overlaps(boxes[:4], boxes[4:])
    for i in range(4):
        for j in range(4):
            assert found[i, j] == pytest.approx(slow_overlap(boxes[i], boxes[4 + j]), abs=1e-6)


def test_looks_are_alike_for_one_person_and_not_for_two() -> None:
    one, other = portrait(0), portrait(1)
    brighter = (one * 0.8 + 20).astype(np.uint8)
    assert appearance(one) @ appearance(brighter) > 0.98
    assert appearance(one) @ appearance(other) < 0.6
    assert np.linalg.norm(appearance(one)) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(appearance(np.zeros((128, 128, 3), np.uint8))).all()
