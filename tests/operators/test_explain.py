from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from operators.align import align
from operators.detect import Detect
from operators.explain import Explain
from operators.nets import expression, mobilefacenet
from pipeline.compute import Compute
from pipeline.gallery import MemoryGallery, Template
from pipeline.identifiers import explanation_id
from pipeline.packets import EMOTIONS, Emotion, FeltFace, Frame, Identity, Restoration
from pipeline.testing import make_grown

TORCH = Compute(device="cpu", engine="torch")


@pytest.fixture
def small_nets(monkeypatch):
    """Nets of the right shape with few channels and random weights, so that no weights are needed."""
    torch.manual_seed(0)
    nets = SimpleNamespace(identity=mobilefacenet.build(width=8), expression=expression.build(width=4))
    monkeypatch.setattr(mobilefacenet, "load", lambda: nets.identity)
    monkeypatch.setattr(expression, "load", lambda: nets.expression)
    return nets


@pytest.fixture
def gallery() -> MemoryGallery:
    vector = np.random.default_rng(1).normal(size=512).astype(np.float32)
    photo = np.random.default_rng(2).integers(0, 256, (128, 128, 3), np.uint8)
    known = MemoryGallery()
    known.enrol([Template("akari", vector / np.linalg.norm(vector), 0.9, False, photo)])
    return known


def quiet(**given) -> FeltFace:
    return make_grown(FeltFace, **given)


def matched(subject: str = "akari", **given) -> FeltFace:
    return quiet(first_match=True, identity=Identity("known", subject, score=0.6, threshold=0.4), **given)


def felt(label: str = "happy", state: str = "ok", **given) -> FeltFace:
    return quiet(emotion=Emotion(state, label, np.eye(7, dtype=np.float32)[1], 20, 900), emotion_changed=True, **given)


def test_only_first_matches_and_changed_emotions_are_explained(small_nets, gallery):
    faces = [quiet(seq=0), matched(seq=1), felt(seq=2), felt(seq=3, state="low_quality"), matched("nobody", seq=4)]
    found = list(Explain(TORCH, gallery)(faces))
    assert [(each.seq, each.kind, each.target) for each in found] == [(1, "match", "akari"), (2, "emotion", "happy")]


def test_one_face_may_give_both(small_nets, gallery):
    both = replace(matched(), emotion=felt().emotion, emotion_changed=True)
    assert [each.kind for each in Explain(TORCH, gallery)([both])] == ["match", "emotion"]


def test_without_a_gallery_no_match_is_explained(small_nets):
    assert list(Explain(TORCH)([matched()])) == []


def test_an_explanation_names_its_decision_by_the_common_id(small_nets, gallery):
    face = felt(seq=7, track_id="camera:0:3")
    (found,) = Explain(TORCH, gallery)([face])
    assert found.id == explanation_id(face.stream, face.epoch, 7, "camera:0:3", "emotion")
    assert (found.stream, found.epoch, found.seq, found.pts_ns) == (face.stream, face.epoch, 7, face.pts_ns)
    assert len(found.id) == 12


def test_a_match_is_explained_completely(small_nets, gallery):
    face = matched()
    (found,) = Explain(TORCH, gallery)([face])
    with torch.no_grad():
        inner = torch.from_numpy(np.ascontiguousarray(face.crop[8:120, 8:120]))[None]
        (vector,) = small_nets.identity.forward_images(inner)
    assert found.score == pytest.approx(float(vector[0] @ torch.from_numpy(gallery.template("akari"))), abs=1e-5)
    assert found.completeness_error < 1e-3
    assert found.method == "cosine_contributions"


def test_read_only_packets_are_explained(small_nets, gallery):
    both = replace(matched(), emotion=felt().emotion, emotion_changed=True)
    both.crop.flags.writeable = False
    assert len(list(Explain(TORCH, gallery)([both]))) == 2


def test_maps_fit_the_picture_and_are_scaled(small_nets, gallery):
    match, emotion = Explain(TORCH, gallery)([matched(), felt()])
    assert match.crop.shape == match.reference.shape == emotion.crop.shape == (112, 112, 3)
    assert emotion.reference is None
    for found, names in ((match, ("similar", "dissimilar")), (emotion, ("relevance",))):
        maps = [found.maps[name] for name in names]
        assert all(each.shape == (112, 112) and each.dtype == np.float32 for each in maps)
        assert max(float(np.abs(each).max()) for each in maps) == pytest.approx(1.0)
    assert min(match.maps["similar"].min(), match.maps["dissimilar"].min()) >= 0
    assert match.maps["contributions"].shape == (7, 7)


def test_a_match_without_a_photo_has_no_reference(small_nets):
    gallery = MemoryGallery()
    gallery.enrol([Template("akari", np.eye(512, dtype=np.float32)[0], 0.9)])
    (found,) = Explain(TORCH, gallery)([matched()])
    assert found.reference is None


def test_synthetic_evidence_is_the_share_on_invented_pixels(small_nets, gallery):
    def ratio(invented: np.ndarray) -> float:
        crop, none = np.zeros((128, 128, 3), np.uint8), np.zeros((128, 128), np.float32)
        face = matched(restoration=Restoration(True, crop, invented, none, 0.5))
        return next(iter(Explain(TORCH, gallery)([face]))).synthetic_evidence_ratio

    upper = np.zeros((128, 128), np.bool_)
    upper[:64] = True
    assert ratio(np.zeros_like(upper)) == 0.0
    assert ratio(np.ones_like(upper)) == pytest.approx(1.0)
    assert 0 < ratio(upper) < 1
    assert ratio(upper) + ratio(~upper) == pytest.approx(1.0, abs=1e-5)


def test_an_explanation_is_the_same_every_time_and_leaves_no_hook_behind(small_nets, gallery):
    explain = Explain(TORCH, gallery)
    both = replace(matched(), emotion=felt().emotion, emotion_changed=True)
    for first, second in zip(explain([both]), explain([both]), strict=True):
        assert {name: each.tobytes() for name, each in first.maps.items()} == {
            name: each.tobytes() for name, each in second.maps.items()
        }
        assert first.faithfulness_random == pytest.approx(second.faithfulness_random, nan_ok=True)
    for net in (small_nets.identity, small_nets.expression):
        for module in net.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks
        assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.usefixtures("weights_ready")
def test_real_explanations_are_complete_and_truer_than_chance(face_frames):
    neutral, smiling = face_frames[0], face_frames[5]
    crops = []
    for picture in (neutral, smiling):
        (face,) = Detect(TORCH)([Frame("camera", 0, 0, 0, picture)])
        crops.append(align(picture, face.landmarks))
    with torch.no_grad():
        (vector,) = mobilefacenet.load().forward_images(torch.from_numpy(crops[0][8:120, 8:120].copy())[None])
    gallery = MemoryGallery()
    gallery.enrol([Template("akari", vector[0].numpy(), 0.9)])

    match, emotion = Explain(TORCH, gallery)([matched(crop=crops[1]), felt("happy", crop=crops[1])])
    assert match.score > 0.6
    assert match.completeness_error < 1e-4
    assert match.faithfulness > match.faithfulness_random
    assert emotion.completeness_error < 0.05
    assert emotion.faithfulness > 2 * emotion.faithfulness_random
    mouth = emotion.maps["relevance"][75:100, 30:82]
    assert emotion.target in EMOTIONS
    assert np.clip(mouth, 0, None).sum() > 0.3 * np.clip(emotion.maps["relevance"], 0, None).sum()
