"""Every face of every frame is found, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from operators.detect import Detect, shrink, suppress
from operators.quality import turned
from operators.track import overlaps
from pipeline.compute import Compute
from pipeline.packets import Face, Floats, Frame, Pixels
from pipeline.testing import make_frame, noise


@pytest.fixture(scope="module")
def detect(weights_ready: None) -> Detect:
    return Detect(Compute(device="cpu"))


def frames(images: Sequence[Pixels]) -> list[Frame]:
    return [make_frame(n, image=image) for n, image in enumerate(images)]


def by_frame(faces: Sequence[Face], count: int) -> list[list[Face]]:
    return [[face for face in faces if face.seq == n] for n in range(count)]


# On any machine


def slow_suppress(boxes: Floats, scores: Floats, limit: float) -> list[int]:
    kept: list[int] = []
    for n in sorted(range(len(boxes)), key=lambda n: (-scores[n], n)):
        if all(overlaps(boxes[n : n + 1], boxes[k : k + 1])[0, 0] <= limit for k in kept):
            kept.append(n)
    return kept


@pytest.mark.parametrize("limit", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_suppression_equals_the_naive_one(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (40, 2))
    boxes = np.hstack([corner, corner + rng.uniform(5, 50, (40, 2))]).astype(np.float32)
    scores = rng.choice([0.5, 0.7, 0.9, 0.95], 40).astype(np.float32)
    assert suppress(boxes, scores, limit) == slow_suppress(boxes, scores, limit)


def test_suppression_of_nothing_is_nothing() -> None:
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.4) == []


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1280, 720), (480, 640), (33, 2000), (1, 2000), (1, 1)])
def test_a_picture_is_shrunk_in_proportion_and_padded_with_black(height: int, width: int) -> None:
    shrunk = shrink(np.full((height, width, 3), 200, np.uint8), 640)
    h, w = max(round(height * shrunk.scale), 1), max(round(width * shrunk.scale), 1)
    assert shrunk.scale == pytest.approx(min(1, 640 / max(height, width)))
    assert shrunk.image.shape[0] % 32 == shrunk.image.shape[1] % 32 == 0
    assert shrunk.image.shape[0] < h + 32
    assert shrunk.image.shape[1] < w + 32
    assert (shrunk.image[:h, :w] == 200).all()
    assert shrunk.image[h:].max(initial=0) == shrunk.image[:, w:].max(initial=0) == 0


def test_a_small_picture_is_not_blown_up() -> None:
    (picture,) = noise(1, 64, 96)
    np.testing.assert_array_equal(shrink(picture, 640).image, picture)


# With the packaged net


def test_the_face_of_a_clip_is_found_in_every_frame(detect: Detect, face_frames: list[Pixels]) -> None:
    found = by_frame(list(detect(frames(face_frames))), 8)
    for faces in found:
        (face,) = faces
        assert face.score > 0.9
        assert face.box.dtype == face.landmarks.dtype == np.float32
        assert face.crop.shape == (128, 128, 3)
        x1, y1, x2, y2 = face.box
        assert ((face.landmarks > (x1, y1)) & (face.landmarks < (x2, y2))).all()
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        assert abs(turned(face.landmarks)) < 30


def test_faces_carry_where_they_stand_in_the_stream(detect: Detect, face_frames: list[Pixels]) -> None:
    for face in detect(frames(face_frames[:3])):
        assert (face.stream, face.epoch, face.pts_ns) == ("camera", 0, face.seq * 40_000_000)


def test_a_batch_gives_what_single_frames_give(detect: Detect, face_frames: list[Pixels]) -> None:
    together = list(detect(frames(face_frames)))
    single = [face for frame in frames(face_frames) for face in detect([frame])]
    assert [face.seq for face in together] == [face.seq for face in single]
    for one, other in zip(together, single, strict=True):
        np.testing.assert_allclose(one.box, other.box, atol=1e-2)
        np.testing.assert_allclose(one.landmarks, other.landmarks, atol=1e-2)
        assert one.score == pytest.approx(other.score, abs=1e-3)


def test_frames_of_different_sizes_may_share_a_batch(detect: Detect, face_frames: list[Pixels]) -> None:
    picture = face_frames[0]
    half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    wide = cv2.copyMakeBorder(picture, 0, 200, 0, 1000, cv2.BORDER_CONSTANT)
    found = by_frame(list(detect(frames([picture, half, wide, picture]))), 4)
    assert [len(faces) for faces in found] == [1, 1, 1, 1]
    truth = found[0][0].box
    np.testing.assert_allclose(found[3][0].box, truth, atol=0.1)
    assert overlaps(2 * found[1][0].box[None], truth[None])[0, 0] > 0.8
    assert overlaps(found[2][0].box[None], truth[None])[0, 0] > 0.8


def test_two_faces_are_two_surest_first(detect: Detect, face_frames: list[Pixels]) -> None:
    faces = list(detect(frames([np.hstack([face_frames[0], face_frames[5]])])))
    assert len(faces) == 2
    assert faces[0].score >= faces[1].score
    assert {bool(face.box[0] > 640) for face in faces} == {True, False}


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (31, 33), (480, 640)])
def test_a_picture_without_a_face_gives_none(detect: Detect, shape: tuple[int, int]) -> None:
    for level in (0, 128, 255):
        assert list(detect(frames([np.full((*shape, 3), level, np.uint8)]))) == []


def test_nothing_gives_nothing(detect: Detect) -> None:
    assert list(detect([])) == []


def test_every_nth_frame_is_looked_at(weights_ready: None, face_frames: list[Pixels]) -> None:
    detect = Detect(Compute(device="cpu"), every=3)
    assert [face.seq for face in detect(frames(face_frames))] == [0, 3, 6]


def test_a_higher_threshold_gives_fewer_faces_and_never_others(weights_ready: None, face_frames: list[Pixels]) -> None:
    crowd = frames([np.vstack([np.hstack(face_frames[:2]), np.hstack(face_frames[2:4])])])
    some = list(Detect(Compute(device="cpu"), min_score=0.02)(crowd))
    few = list(Detect(Compute(device="cpu"), min_score=0.9)(crowd))
    assert len(few) <= len(some)
    assert all(face.score >= 0.9 for face in few)
    boxes = {tuple(face.box.tolist()) for face in some}
    assert all(tuple(face.box.tolist()) in boxes for face in few)
