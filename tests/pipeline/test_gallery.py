"""A gallery answers with the nearest subjects, keeps what it was given, and refuses what is no template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.edges.named_gallery import NamedGallery
from pipeline.errors import SinkError, SourceError
from pipeline.gallery import MemoryGallery, Template
from pipeline.packets import Floats


def vectors(count: int, seed: int = 0) -> Floats:
    drawn = np.random.default_rng(seed).normal(size=(count, 512))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def filled(people: int = 7, shots: int = 3) -> tuple[MemoryGallery, list[Template]]:
    templates = [Template(f"s{n % people}", vector, 0.5) for n, vector in enumerate(vectors(people * shots))]
    gallery = MemoryGallery()
    gallery.enrol(templates)
    return gallery, templates


def slow_match(templates: list[Template], vector: Floats) -> list[tuple[float, str]]:
    subjects = {t.subject_id for t in templates}
    scores = [(max(float(t.vector @ vector) for t in templates if t.subject_id == s), s) for s in subjects]
    return sorted(scores, key=lambda item: (-item[0], item[1]))


def test_the_best_subjects_are_those_of_a_slow_search() -> None:
    gallery, templates = filled()
    asked = vectors(20, seed=1)
    answers = gallery.match(asked, [False] * 20)
    for vector, answer in zip(asked, answers, strict=True):
        expected = slow_match(templates, vector)[:5]
        assert [c.subject_id for c in answer.best] == [subject for _, subject in expected]
        np.testing.assert_allclose([c.score for c in answer.best], [score for score, _ in expected], atol=1e-6)


def test_a_subject_is_named_once_however_many_templates_it_has() -> None:
    gallery, _ = filled(people=3, shots=10)
    (answer,) = gallery.match(vectors(1, seed=2), [False])
    assert len({c.subject_id for c in answer.best}) == len(answer.best) == 3


def test_an_enrolled_face_finds_itself() -> None:
    gallery, templates = filled()
    (answer,) = gallery.match(templates[4].vector[None], [False])
    assert answer.best[0].subject_id == templates[4].subject_id
    assert answer.best[0].score == pytest.approx(1, abs=1e-5)


def test_an_empty_gallery_knows_nobody() -> None:
    answers = MemoryGallery().match(vectors(2), [False, True])
    assert [answer.best for answer in answers] == [(), ()]
    assert MemoryGallery().match(np.zeros((0, 512), np.float32), []) == []


def test_the_version_grows_with_each_template_and_is_told() -> None:
    gallery, templates = filled(people=2, shots=2)
    assert gallery.version == 4
    gallery.enrol([Template("late", templates[0].vector, 1.0)])
    (answer,) = gallery.match(vectors(1), [False])
    assert (answer.gallery, answer.version, answer.stale_s) == ("main", 5, 0.0)
    assert gallery.subjects == ("late", "s0", "s1")


def test_the_template_of_a_subject_is_its_mean_weighted_by_quality() -> None:
    one, other = vectors(2)
    gallery = MemoryGallery()
    gallery.enrol([Template("a", one, 0.9), Template("a", other, 0.1), Template("b", other, 1.0)])
    mean = 0.9 * one + 0.1 * other
    found = gallery.template("a")
    assert found is not None
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    assert gallery.template("nobody") is None


def test_a_saved_gallery_is_the_same_when_it_is_opened(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    photos = [rng.integers(0, 256, (128, 128, 3), np.uint8), None, rng.integers(0, 256, (128, 128, 3), np.uint8)]
    gallery = MemoryGallery()
    gallery.enrol(
        Template(f"Zoë {n}", vector, 0.25 * n, masked=n == 1, photo=photo)
        for n, (vector, photo) in enumerate(zip(vectors(3), photos, strict=True))
    )
    file = tmp_path / "new" / "people.npz"
    gallery.save(file)
    assert file.stat().st_mode & 0o777 == 0o600, "vectors in it are not sealed"
    opened = MemoryGallery(str(file))
    assert opened.subjects == gallery.subjects
    assert opened.version == 3
    assert opened.match(vectors(2, 5), [False, False]) == gallery.match(vectors(2, 5), [False, False])
    for n, photo in enumerate(photos):
        found = opened.photo(f"Zoë {n}")
        assert (found is None) == (photo is None)
        assert photo is None or np.array_equal(found, photo)


def test_a_saved_gallery_says_which_net_made_it_and_is_opened_for_no_other(tmp_path: Path) -> None:
    gallery, file = MemoryGallery(model="another"), tmp_path / "people.npz"
    gallery.enrol([Template("a", vectors(1)[0], 1.0, model="another")])
    gallery.save(file)
    for opened in (MemoryGallery(str(file)), MemoryGallery(str(file), model="another")):
        assert (opened.model, opened.templates[0].model) == ("another", "another")
    with pytest.raises(SourceError, match=r"people\.npz holds vectors of 'another', .* those of 'mobilefacenet'"):
        NamedGallery(str(file))


def test_a_file_that_does_not_say_which_net_made_it_is_of_the_shipped_one(tmp_path: Path) -> None:
    filled()[0].save(tmp_path / "people.npz")
    with np.load(tmp_path / "people.npz") as stored:
        np.savez(tmp_path / "old.npz", **{key: stored[key] for key in stored if key != "model"})
    assert MemoryGallery(str(tmp_path / "old.npz")).model == "mobilefacenet"
    with pytest.raises(SourceError, match="cannot be compared with those of 'another'"):
        MemoryGallery(str(tmp_path / "old.npz"), model="another")


def test_a_gallery_holds_vectors_of_one_net() -> None:
    with pytest.raises(SourceError, match="'x' is of the net 'mobilefacenet', the gallery's are of 'another'"):
        MemoryGallery(model="another").enrol([Template("x", vectors(1)[0], 1.0)])


def test_an_empty_gallery_can_be_saved_and_opened(tmp_path: Path) -> None:
    MemoryGallery().save(tmp_path / "empty.npz")
    assert MemoryGallery(str(tmp_path / "empty.npz")).subjects == ()


def test_a_gallery_is_saved_under_the_very_name_it_was_given(tmp_path: Path) -> None:
    gallery, _ = filled()
    gallery.save(tmp_path / "people.gallery")
    assert MemoryGallery(str(tmp_path / "people.gallery")).subjects == gallery.subjects


def test_the_photo_of_a_subject_is_its_best_one() -> None:
    dark, light = np.zeros((128, 128, 3), np.uint8), np.full((128, 128, 3), 255, np.uint8)
    one, two, three = vectors(3)
    gallery = MemoryGallery()
    gallery.enrol(
        [Template("a", one, 0.2, photo=dark), Template("a", two, 0.8, photo=light), Template("a", three, 0.9)]
    )
    assert np.array_equal(gallery.photo("a"), light)
    assert gallery.photo("nobody") is None


@pytest.mark.parametrize(
    "vector",
    [
        np.full(512, np.nan, np.float32),
        np.full(512, np.inf, np.float32),
        vectors(1)[0] * 1.1,
        np.zeros(512, np.float32),
        vectors(1)[0][:128],
        vectors(1),
    ],
    ids=["nan", "inf", "too long", "zero", "128 numbers", "a matrix"],
)
def test_what_is_no_template_is_refused_and_nothing_is_enrolled(vector: Floats) -> None:
    gallery, _ = filled(people=2, shots=1)
    with pytest.raises(
        SourceError, match=r"template of 'x' must be a finite \(512,\) vector of unit length, got shape"
    ):
        gallery.enrol([Template("y", vectors(1)[0], 1.0), Template("x", vector, 1.0)])
    assert gallery.subjects == ("s0", "s1")
    assert gallery.version == 2


def _text(file: Path) -> None:
    file.write_text("these are no people")


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _torn(file: Path) -> None:
    filled()[0].save(file)
    file.write_bytes(file.read_bytes()[:2000])


def _array(file: Path) -> None:
    with file.open("wb") as opened:
        np.save(opened, np.zeros(3))


def _other(file: Path) -> None:
    with file.open("wb") as opened:
        np.savez(opened, faces=np.zeros(3))


def _folder(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize("make", [_text, _empty, _torn, _array, _other, _folder])
def test_a_file_that_is_no_gallery_is_refused_by_name(make: object, tmp_path: Path) -> None:
    file = tmp_path / "people.npz"
    make(file)
    with pytest.raises(SourceError, match=r"people\.npz: not a gallery that omote saved; make one with `omote enrol`$"):
        MemoryGallery(str(file))


def test_a_gallery_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"people\.npz: no such file; make one with `omote enrol`$"):
        MemoryGallery(str(tmp_path / "people.npz"))


def test_a_gallery_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SinkError, match=r"cannot write the gallery .*/file/people\.npz: "):
        filled()[0].save(tmp_path / "file" / "people.npz")
    with pytest.raises(SinkError, match="cannot write the gallery /dev/full: No space left on device"):
        filled()[0].save("/dev/full")


def test_a_gallery_in_memory_loses_nobody_and_sets_no_limits() -> None:
    gallery, templates = filled()
    (answer,) = gallery.match(templates[0].vector[None], [False])
    assert (answer.lost, answer.limits) == (0, None)


def test_a_named_gallery_holds_the_vectors_of_the_net_that_it_is_told() -> None:
    assert NamedGallery().model == MemoryGallery().model == Template("ann", vectors(1)[0], 1.0).model
    assert NamedGallery(model="another").model == "another"
