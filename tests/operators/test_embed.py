"""A chosen face becomes a vector of unit length, and the gallery is asked about it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from operators.detect import Detect
from operators.embed import Embed
from pipeline.compute import Compute
from pipeline.errors import GraphError
from pipeline.gallery import Candidates, Limits, MemoryGallery, Template
from pipeline.packets import BareFace, Pixels
from pipeline.policy import Policy
from pipeline.testing import make_frame, make_grown, noise

pytestmark = pytest.mark.usefixtures("weights_ready")
ALLOWED = Policy(purpose="research", identification=True)
CPU = Compute(device="cpu")


@pytest.fixture(scope="module")
def embed(weights_ready: None) -> Embed:
    return Embed(CPU, ALLOWED)


@pytest.fixture(scope="module")
def crops(weights_ready: None, face_frames: list[Pixels]) -> list[Pixels]:
    """Four aligned crops of one person."""
    detect = Detect(CPU)
    found = detect([make_frame(n, image=image) for n, image in enumerate(face_frames[::2])])
    return [face.crop for face in found]


def faces(crops: list[Pixels], **given: object) -> list[BareFace]:
    return [make_grown(BareFace, n, crop=crop, **given) for n, crop in enumerate(crops)]


def test_a_vector_has_512_numbers_and_unit_length(embed: Embed, crops: list[Pixels]) -> None:
    for face in embed(faces(crops)):
        assert face.embedding is not None
        assert face.embedding.vector.shape == (512,)
        assert face.embedding.vector.dtype == np.float32
        assert np.linalg.norm(face.embedding.vector) == pytest.approx(1, abs=1e-5)


def test_one_person_is_nearer_to_herself_than_to_noise(embed: Embed, crops: list[Pixels]) -> None:
    vectors = embed.vectors([*crops, *noise(1, 128, 128)])
    alike = vectors[:-1] @ vectors[:-1].T
    assert alike.min() > 0.6
    assert (vectors[:-1] @ vectors[-1]).max() < 0.4


def test_the_margin_of_the_crop_is_not_looked_at(embed: Embed, crops: list[Pixels]) -> None:
    framed = crops[0].copy()
    framed[:8] = framed[-8:] = 255
    framed[:, :8] = framed[:, -8:] = 255
    one, other = embed.vectors([crops[0], framed])
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_colours_are_taken_in_their_order(embed: Embed, crops: list[Pixels]) -> None:
    one, other = embed.vectors([crops[0], crops[0][..., ::-1]])
    assert one @ other < 0.999


def test_faces_keep_their_order_and_only_the_chosen_ones_are_embedded(embed: Embed, crops: list[Pixels]) -> None:
    given = [make_grown(BareFace, n, crop=crop, chosen=n % 2 == 1) for n, crop in enumerate(crops)]
    out = list(embed(given))
    assert [face.seq for face in out] == [0, 1, 2, 3]
    assert [face.embedding is not None for face in out] == [False, True, False, True]
    expected = embed.vectors([crops[1], crops[3]])
    np.testing.assert_allclose(out[1].embedding.vector, expected[0], atol=1e-6)
    np.testing.assert_allclose(out[3].embedding.vector, expected[1], atol=1e-6)


def test_a_batch_gives_what_single_faces_give(embed: Embed, crops: list[Pixels]) -> None:
    together = embed.vectors(crops)
    single = np.concatenate([embed.vectors([crop]) for crop in crops])
    np.testing.assert_allclose(together, single, atol=1e-4)


def test_without_a_purpose_nobody_is_embedded(crops: list[Pixels]) -> None:
    out = list(Embed(CPU, Policy())(faces(crops)))
    assert len(out) == 4
    assert all(face.embedding is None for face in out)


def test_the_gallery_is_asked_and_named(embed: Embed, crops: list[Pixels]) -> None:
    gallery = MemoryGallery()
    me, stranger = embed.vectors([crops[0], cv2.flip(noise(1, 128, 128)[0], 0)])
    gallery.enrol([Template("me", me, 1.0), Template("stranger", stranger, 1.0)])
    for face in Embed(CPU, ALLOWED, gallery)(faces(crops)):
        assert face.embedding is not None
        best = face.embedding.candidates[0]
        assert best.subject_id == "me"
        assert best.score == pytest.approx(float(face.embedding.vector @ me), abs=1e-5)
        assert (face.embedding.gallery, face.embedding.gallery_version) == ("main", 2)


def test_vectors_say_which_net_made_them_and_meet_no_others(crops: list[Pixels]) -> None:
    (face, *_) = Embed(CPU, ALLOWED)(faces(crops))
    assert face.embedding is not None
    assert face.embedding.model == Embed.model == "mobilefacenet"
    with pytest.raises(GraphError, match="'arcface', faces become 'mobilefacenet'"):
        Embed(CPU, ALLOWED, MemoryGallery(model="arcface"))


def test_what_the_gallery_says_of_the_lost_and_of_limits_is_passed_on(
    crops: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, limits = MemoryGallery(), Limits(threshold=0.5)
    answer = Candidates((), "main", 7, lost=5, limits=limits)
    monkeypatch.setattr(gallery, "match", lambda vectors, masked: [answer] * len(vectors))
    (face, *_) = Embed(CPU, ALLOWED, gallery)(faces(crops))
    assert face.embedding is not None
    assert (face.embedding.gallery_version, face.embedding.lost, face.embedding.limits) == (7, 5, limits)


def test_without_a_gallery_there_are_no_candidates(embed: Embed, crops: list[Pixels]) -> None:
    assert all(face.embedding and face.embedding.candidates == () for face in embed(faces(crops)))


def test_nothing_gives_nothing(embed: Embed) -> None:
    assert list(embed([])) == []
