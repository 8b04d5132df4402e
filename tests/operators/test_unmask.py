import numpy as np
import pytest

from operators.unmask import NoRestorer, Unmask, lower_face
from pipeline.compute import Compute
from pipeline.packets import BareFace, Quality, Restoration, TrackedFace
from pipeline.policy import Policy

TORCH = Compute(device="cpu", engine="torch")
ALLOWED = Policy(purpose="research", unmasking=True)
EVERY_FACE = 0.0  # a threshold that takes every face for masked
LANDMARKS = np.zeros((5, 2), np.float32)


def face(seq: int, *, chosen: bool = True, predicted: bool = False) -> TrackedFace:
    crop = np.random.default_rng(seq).integers(0, 256, (128, 128, 3), np.uint8)
    crop[:] = crop // (1 + seq % 3)
    box, quality = np.array([0, 0, 50, 60], np.float32), Quality(1.0, 0.0, 0.0, 60.0)
    return TrackedFace("cam", 0, seq, seq, box, 0.9, LANDMARKS, crop, f"cam:0:{seq}", quality, predicted, chosen)


class Recorder:
    """A restorer that paints its crops white and remembers them."""

    def __init__(self) -> None:
        self.calls: list[np.ndarray] = []

    def __call__(self, crops: np.ndarray) -> list[Restoration]:
        self.calls.append(crops)
        all_of_it, none = np.ones((128, 128), bool), np.zeros((128, 128), np.float32)
        return [Restoration(True, np.full_like(crop, n), all_of_it, none, 1.0) for n, crop in enumerate(crops)]


def test_every_face_is_given_once_in_order_with_its_own_probability():
    unmask = Unmask(TORCH, ALLOWED)
    faces = [face(n, chosen=n % 2 == 0) for n in range(7)]
    together = list(unmask(faces))
    assert [bare.seq for bare in together] == list(range(7))
    assert all(type(bare) is BareFace and 0 <= bare.mask_probability <= 1 for bare in together)
    alone = [next(iter(unmask([each]))).mask_probability for each in faces]
    assert [bare.mask_probability for bare in together] == pytest.approx(alone, abs=1e-5)
    assert len(set(alone)) > 1


def test_no_faces_give_no_faces():
    assert list(Unmask(TORCH, ALLOWED)([])) == []


def test_without_a_restorer_nothing_is_invented():
    (bare,) = Unmask(TORCH, ALLOWED, threshold=EVERY_FACE)([face(1)])
    restoration = bare.restoration
    assert restoration is not None
    assert not restoration.restored
    assert not restoration.invented.any()
    assert (restoration.image == bare.crop).all()
    assert restoration.confidence == 0
    assert (restoration.uncertainty == lower_face()).all()


def test_only_masked_faces_that_were_chosen_are_restored_in_one_call():
    restorer = Recorder()
    unmask = Unmask(TORCH, ALLOWED, threshold=EVERY_FACE, restorer=restorer)
    given = [face(0, chosen=False), face(1), face(2, chosen=False), face(3)]
    bare = list(unmask(given))
    assert [each.restoration is not None for each in bare] == [False, True, False, True]
    assert len(restorer.calls) == 1
    assert (restorer.calls[0] == np.stack([given[1].crop, given[3].crop])).all()
    assert [each.restoration.image.max() for each in bare if each.restoration] == [0, 1]


def test_bare_faces_are_not_restored():
    restorer = Recorder()
    bare = Unmask(TORCH, ALLOWED, threshold=1.01, restorer=restorer)([face(0), face(1)])
    assert [each.restoration for each in bare] == [None, None]
    assert restorer.calls == []


def test_no_restorer_is_asked_where_the_policy_forbids_it():
    restorer = Recorder()
    bare = list(Unmask(TORCH, Policy(), threshold=EVERY_FACE, restorer=restorer)([face(0), face(1)]))
    assert [each.restoration for each in bare] == [None, None]
    assert restorer.calls == []
    assert all(each.mask_probability >= 0 for each in bare)


def test_predicted_faces_are_looked_at_too():
    unmask = Unmask(TORCH, ALLOWED)
    seen, predicted = (next(iter(unmask([face(5, predicted=p)]))) for p in (False, True))
    assert predicted.mask_probability == seen.mask_probability
    assert predicted.predicted


def test_onnx_and_torch_agree(monkeypatch, tmp_path):
    monkeypatch.setenv("OMOTE_CACHE", str(tmp_path))
    faces = [face(n) for n in range(5)]
    by_engine = [
        [bare.mask_probability for bare in Unmask(Compute(device="cpu", engine=engine), ALLOWED)(faces)]
        for engine in ("onnx", "torch")
    ]
    assert by_engine[0] == pytest.approx(by_engine[1], abs=1e-4)


def test_what_a_mask_may_hide_is_the_lower_face_without_the_eyes():
    region = lower_face()
    assert region[100, 64] == region[80, 64] == 1
    assert not region[:62].any()
    assert 0.2 < region.mean() < 0.35
    (restoration,) = NoRestorer()(np.zeros((1, 128, 128, 3), np.uint8))
    assert set(np.unique(restoration.uncertainty)) == {0.0, 1.0}
