"""The expression net reads bare, good faces only, and nothing but the frame."""

from __future__ import annotations

import numpy as np
import pytest

from operators.encode import Encode, expression_input
from operators.engine import engine
from operators.nets import expression
from pipeline.compute import Compute
from pipeline.packets import IdentifiedFace, MaskState, Quality
from pipeline.policy import Policy
from pipeline.testing import make_grown, noise

pytestmark = pytest.mark.usefixtures("weights_ready")
ALLOWED = Policy(purpose="medical", emotion=True)
CPU = Compute(device="cpu")
FAILED = Quality(score=0.2, blur=0.9, yaw=0, size_px=100, reasons=("blurred",))
UNREADABLE = {
    "masked by its own word": {"mask_probability": 0.9},
    "masked by its track's word": {"mask": MaskState("masked", 0.8)},
    "below the gate": {"quality": FAILED},
    "predicted": {"predicted": True, "quality": Quality(0.9, 0.1, 0, 100, ("predicted",))},
}


@pytest.fixture(scope="module")
def encode(weights_ready: None) -> Encode:
    return Encode(CPU, ALLOWED)


def faces(count: int = 4, **given: object) -> list[IdentifiedFace]:
    return [make_grown(IdentifiedFace, n, crop=crop, **given) for n, crop in enumerate(noise(count, 128, 128))]


def test_a_readable_face_gets_seven_logits(encode: Encode) -> None:
    for face in encode(faces()):
        assert face.emotion_logits is not None
        assert face.emotion_logits.shape == (7,)
        assert face.emotion_logits.dtype == np.float32
        assert np.isfinite(face.emotion_logits).all()


@pytest.mark.parametrize("why", UNREADABLE)
def test_a_face_that_may_not_be_read_is_never_shown_to_the_net(why: str) -> None:
    encode = Encode(CPU, ALLOWED)

    def forbidden(images: object) -> object:
        message = "the net was asked"
        raise AssertionError(message)

    encode._net = forbidden
    (face,) = encode([make_grown(IdentifiedFace, **UNREADABLE[why])])
    assert face.emotion_logits is None


def test_an_unsure_track_is_read_in_its_bare_frames(encode: Encode) -> None:
    given = [
        make_grown(IdentifiedFace, n, mask=MaskState("unsure", 0.5), mask_probability=p)
        for n, p in enumerate((0.1, 0.6))
    ]
    assert [face.emotion_logits is not None for face in encode(given)] == [True, False]


def test_without_a_purpose_no_emotion_is_read() -> None:
    assert all(face.emotion_logits is None for face in Encode(CPU, Policy())(faces()))


def test_faces_keep_their_order_when_some_may_not_be_read(encode: Encode) -> None:
    given = faces(6)
    mixed = [make_grown(IdentifiedFace, f.seq, crop=f.crop, mask_probability=0.9 * (f.seq % 2)) for f in given]
    out, whole = list(encode(mixed)), list(encode(given))
    assert [face.seq for face in out] == list(range(6))
    for n in range(6):
        if n % 2:
            assert out[n].emotion_logits is None
        else:
            np.testing.assert_allclose(out[n].emotion_logits, whole[n].emotion_logits, atol=1e-5)


def test_a_batch_gives_what_single_faces_give(encode: Encode) -> None:
    together = list(encode(faces()))
    single = [face for one in faces() for face in encode([one])]
    for one, other in zip(together, single, strict=True):
        np.testing.assert_allclose(one.emotion_logits, other.emotion_logits, atol=1e-4)


def test_logits_are_divided_by_the_temperature() -> None:
    (cold,) = Encode(CPU, ALLOWED, temperature=1.0)(faces(1))
    (warm,) = Encode(CPU, ALLOWED, temperature=4.0)(faces(1))
    np.testing.assert_allclose(cold.emotion_logits, 4 * warm.emotion_logits, rtol=1e-5)
    raw = engine(expression.load(), (np.zeros((1, 112, 112, 3), np.uint8),), CPU, "expression")
    logits, _ = raw(expression_input(faces(1)[0].crop)[None])
    np.testing.assert_allclose(cold.emotion_logits, logits[0], rtol=1e-5)


def test_nothing_gives_nothing(encode: Encode) -> None:
    assert list(encode([])) == []
