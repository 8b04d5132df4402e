"""The annotated frame: every frame drawn, nobody shown who must be hidden, estimates marked."""

import pickle
from typing import Any

import cv2
import numpy as np
import pytest

from operators.draw import STRIP_NS, Draw, DrawState
from pipeline.packets import (
    EMOTIONS,
    DrawnFrame,
    Emotion,
    FeltFace,
    Frame,
    Identity,
    MaskState,
    Quality,
    Restoration,
)
from pipeline.palette import EMOTION_COLOURS, HATCH, track_colour
from pipeline.policy import Policy

BOX = (120, 110, 220, 230)
SHOWN = Policy(faces="shown")
HIDDEN = Policy(faces="blurred")


def frame(seq: int = 0, height: int = 360, width: int = 480) -> Frame:
    image = np.random.default_rng(seq).integers(0, 256, (height, width, 3), np.uint8)
    return Frame("camera", 0, seq, seq * 40_000_000, image)


def face(seq: int = 0, decision: Any = "known", label: str = "happy", track: int = 1, **fields: Any) -> FeltFace:
    given: dict[str, Any] = {
        "box": np.array(BOX, np.float32),
        "score": 0.9,
        "landmarks": np.zeros((5, 2), np.float32),
        "crop": np.zeros((128, 128, 3), np.uint8),
        "track_id": f"camera:0:{track}",
        "quality": Quality(0.8, 0.1, 0.0, 120.0),
        "predicted": False,
        "chosen": False,
        "mask_probability": 0.0,
        "restoration": None,
        "embedding": None,
        "lost": 0,
        "mask": MaskState("bare", 0.0),
        "identity": Identity(decision, "Ava" if decision in {"known", "ambiguous"} else "", 0.6, 0.4),
        "first_match": False,
        "emotion_logits": None,
        "emotion": Emotion("ok" if label else "suppressed", label, np.full(7, 1 / 7, np.float32), 3, 100),
        "emotion_changed": False,
    } | fields
    return FeltFace("camera", 0, seq, seq * 40_000_000, **given)


def masked_face(seq: int, restored: bool, **fields: Any) -> FeltFace:
    invented = np.zeros((128, 128), np.bool_)
    invented[64:] = restored
    image = np.full((128, 128, 3), 128, np.uint8)
    estimate = Restoration(restored, image, invented, np.zeros((128, 128), np.float32), 0.5)
    return face(seq, mask=MaskState("masked", 1.0), restoration=estimate, **fields)


def draw(batch: list[Frame | FeltFace], policy: Policy = SHOWN) -> list[DrawnFrame]:
    operator = Draw(policy)
    return list(operator(operator.start("camera"), batch)[1])


def inside(image: np.ndarray) -> np.ndarray:
    """The middle of the box, where nothing is written."""
    return image[150:200, 140:200]


def detail(image: np.ndarray) -> float:
    """How much neighbouring pixels differ."""
    return float(np.abs(np.diff(inside(image).astype(int), axis=0)).mean())


def has_colour(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((image == np.array(colour)).all(axis=-1).any())


def test_every_frame_is_drawn_in_order_also_without_faces_and_keeps_its_times() -> None:
    drawn = draw([frame(0), face(0), frame(1), frame(2), face(2)])
    assert [(d.seq, d.pts_ns, d.image.shape) for d in drawn] == [(n, n * 40_000_000, (360, 480, 3)) for n in range(3)]


def test_faces_find_their_frame_wherever_they_stand_in_the_batch() -> None:
    tidy = draw([frame(0), face(0), frame(1), face(1, track=2)])
    mixed = draw([face(1, track=2), frame(1), face(0), frame(0)])
    assert all((a.image == b.image).all() for a, b in zip(tidy, mixed, strict=True))


def test_a_batch_and_its_frames_one_by_one_give_the_same_pictures() -> None:
    packets = [packet for n in range(6) for packet in (frame(n), face(n, label=EMOTIONS[n % 3]))]
    operator, state, single = Draw(SHOWN), DrawState(), []
    for start in range(0, len(packets), 2):
        state, drawn = operator(state, packets[start : start + 2])
        single.extend(drawn)
    assert all((a.image == b.image).all() for a, b in zip(draw(packets), single, strict=True))


def test_neither_the_frame_nor_the_state_is_edited() -> None:
    operator, packets = Draw(SHOWN), [frame(0), face(0)]
    before = packets[0].image.copy()
    state, _ = operator(operator.start("camera"), packets)
    again = pickle.loads(pickle.dumps(state))
    operator(state, [frame(1), face(1, label="sad")])
    assert (packets[0].image == before).all()
    assert state == again


@pytest.mark.parametrize("decision", ["unknown", "ambiguous", "low_quality", "suppressed", "not_evaluated"])
def test_whoever_is_not_known_is_hidden_when_the_policy_says_so(decision: str) -> None:
    (drawn,) = draw([frame(0), face(0, decision)], HIDDEN)
    assert detail(drawn.image) < 0.1 * detail(frame(0).image)


@pytest.mark.parametrize(("policy", "decision"), [(HIDDEN, "known"), (SHOWN, "unknown")])
def test_a_face_that_may_be_shown_keeps_its_pixels(policy: Policy, decision: str) -> None:
    (drawn,) = draw([frame(0), face(0, decision)], policy)
    assert (inside(drawn.image) == inside(frame(0).image)).all()


def test_a_hidden_face_stays_hidden_while_the_detector_misses_it_and_not_for_ever() -> None:
    drawn = draw([frame(0), face(0, "unknown"), frame(5), frame(40)], HIDDEN)
    assert detail(drawn[1].image) < 0.1 * detail(frame(5).image)
    assert (inside(drawn[2].image) == inside(frame(40).image)).all()


def test_a_seen_box_is_closed_and_a_predicted_one_dashed() -> None:
    seen, predicted = (draw([frame(0), face(0, predicted=flag)])[0].image for flag in (False, True))
    colour = np.array(track_colour("camera:0:1"))
    closed, dashed = ((image[130:210, BOX[0]] == colour).all(axis=-1).mean() for image in (seen, predicted))
    assert closed == 1
    assert 0.3 < dashed < 0.8


def test_the_strip_shows_emotions_in_order_with_now_at_the_right() -> None:
    packets = [p for n in range(100) for p in (frame(n), face(n, label="happy" if n < 50 else "angry"))]
    row = draw(packets)[-1].image[BOX[3] + 8, BOX[0] : BOX[2]]
    assert tuple(row[10]) == EMOTION_COLOURS["happy"]
    assert tuple(row[-10]) == EMOTION_COLOURS["angry"]


def test_what_is_remembered_of_a_track_is_bounded_and_forgotten_when_it_is_gone() -> None:
    operator, state = Draw(SHOWN), DrawState()
    for n in range(600):
        state, _ = operator(state, [frame(n, 36, 48), face(n, label=EMOTIONS[n // 10 % 7])])
    (memory,) = state.tracks.values()
    assert len(memory.spans) <= STRIP_NS // 400_000_000 + 2
    state, _ = operator(state, [frame(700, 36, 48)])
    assert not state.tracks


def test_an_estimate_is_hatched_and_stays_until_the_mask_is_gone() -> None:
    drawn = draw(
        [frame(0), masked_face(0, restored=True), frame(1), face(1, mask=MaskState("masked", 1.0)), frame(2), face(2)]
    )
    assert [has_colour(d.image, HATCH) for d in drawn] == [True, True, False]


def test_nothing_is_hatched_where_nothing_was_restored() -> None:
    (drawn,) = draw([frame(0), masked_face(0, restored=False)])
    assert not has_colour(drawn.image, HATCH)


def test_no_estimate_of_a_hidden_face_is_shown() -> None:
    (drawn,) = draw([frame(0), masked_face(0, restored=True, decision="unknown")], HIDDEN)
    assert not has_colour(drawn.image, HATCH)


@pytest.mark.parametrize("size", [(8, 8), (16, 300), (360, 640), (1920, 1080), (2160, 3840)])
@pytest.mark.parametrize("box", [BOX, (-500, -500, 9000, 9000), (9000, 9000, 9100, 9100), (50, 50, 50, 50)])
def test_any_size_of_picture_and_any_place_of_a_box_is_drawn(size: tuple[int, int], box: tuple[int, ...]) -> None:
    packet = masked_face(0, restored=True, box=np.array(box, np.float32), predicted=size[0] % 16 == 0)
    for policy in (SHOWN, HIDDEN):
        (drawn,) = draw([Frame("camera", 0, 0, 0, np.zeros((*size, 3), np.uint8)), packet], policy)
        assert drawn.image.shape == (*size, 3)


def test_a_name_with_line_breaks_or_without_letters_does_no_harm() -> None:
    for name in ("a\nb", "", "面" * 90):
        (drawn,) = draw([frame(0), face(0, identity=Identity("known", name, 0.6, 0.4))])
        assert drawn.image.shape == (360, 480, 3)


def test_a_box_that_is_not_a_number_does_no_harm() -> None:
    (drawn,) = draw([frame(0), face(0, box=np.full(4, np.nan, np.float32))], HIDDEN)
    assert drawn.image.shape == (360, 480, 3)


def test_letters_grow_with_the_picture() -> None:
    written = []
    for scale in (1, 3):
        (drawn,) = draw([Frame("camera", 0, 0, 0, np.zeros((720 * scale, 1280 * scale, 3), np.uint8))])
        rows = np.flatnonzero(cv2.cvtColor(drawn.image, cv2.COLOR_RGB2GRAY).max(axis=1) > 200)
        written.append(rows[-1] - rows[0])
    assert written[1] == pytest.approx(3 * written[0], rel=0.2)
