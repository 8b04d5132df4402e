from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from pipeline.gallery import held_out
from pipeline.gallery.calibration import Calibration, calibrate, curve
from pipeline.gallery.errors import InvalidError, RefusedError
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Limits, UnknownTrack
from pipeline.gallery.tolerance import Sample, least_people, upper_limit

SPREAD = 0.55  # of photos of one person, against the distance of two people
Vectors = np.ndarray


def faces(people: int, photos: int = 3, seed: int = 0, spread: float = SPREAD) -> Vectors:
    """(people, photos, 512) unit vectors: directions on a manifold of 48 dimensions, and noise around them."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(48, 512)) / np.sqrt(512)
    who = rng.normal(size=(people, 1, 48))
    vectors = (who + spread * rng.normal(size=(people, photos, 48))) @ basis
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def gallery(vectors: Vectors, *, masked: bool = False, name: str = "s") -> list[Template]:
    return [
        Template(f"{name}{person}", vector, 1.0, masked, id=f"{name}{person}/{n}{'m' * masked}")
        for person, photos in enumerate(vectors)
        for n, vector in enumerate(photos)
    ]


def track(name: str, vector: Vectors, *, ignored: bool = False) -> UnknownTrack:
    seen = datetime(2026, 1, 1, tzinfo=UTC)
    return UnknownTrack(name, "door", vector, "mobilefacenet", 1.0, False, seen, ignored)


def codes(said: Calibration) -> list[str]:
    return [reason.code for reason in said.bare.refusals]


@pytest.fixture(scope="module")
def enrolled() -> list[Template]:
    return gallery(faces(400))


@pytest.fixture(scope="module")
def said(enrolled: list[Template]) -> Calibration:
    return calibrate(enrolled, promised_far=0.02)


def far(templates: Sequence[Template], strangers: Vectors, threshold: float) -> float:
    """Share of people who reach the threshold with anybody, mean over their photos."""
    scores = strangers @ np.array([t.vector for t in templates]).T
    return float((scores.max(-1) >= threshold).mean())


def test_the_promise_holds_for_strangers_nobody_has_seen(enrolled: list[Template], said: Calibration) -> None:
    suggestion = said.bare.suggestion
    assert suggestion is not None
    measured = far(enrolled, faces(3000, photos=1, seed=7), suggestion.threshold)
    assert 0 < measured <= suggestion.promised_far <= 0.02


def test_it_is_kept_in_most_galleries_and_not_by_saying_next_to_nothing() -> None:
    strangers = faces(2000, photos=1, seed=1000)
    kept = []
    for seed in range(30):
        templates = gallery(faces(120, photos=2, seed=seed))
        suggestion = calibrate(templates, promised_far=0.04).bare.suggestion
        assert suggestion is not None
        kept.append(far(templates, strangers, suggestion.threshold) / suggestion.promised_far)
    assert np.mean(np.array(kept) <= 1) >= 0.9  # 95 % are promised
    assert np.mean(kept) > 0.2


def test_it_says_how_many_of_the_enrolled_are_missed(said: Calibration) -> None:
    suggestion = said.bare.suggestion
    assert suggestion is not None
    known = faces(400, photos=4)
    templates = np.array([t.vector for t in gallery(known[:, :3])])
    own = np.einsum("pd,ptd->pt", known[:, 3], templates.reshape(400, 3, 512)).max(1)
    assert suggestion.miss_rate == pytest.approx((own < suggestion.threshold).mean(), abs=0.05)


def test_with_too_few_people_for_a_promise_it_makes_a_smaller_one_and_says_so(enrolled: list[Template]) -> None:
    said = calibrate(enrolled, promised_far=1e-4)
    suggestion = said.bare.suggestion
    assert suggestion is not None
    assert suggestion.promised_far == pytest.approx((1 - 0.05 ** (1 / 400)) * 400 / 399, rel=1e-3)
    assert suggestion.threshold > (said.bare.enrolled_pair_ceiling or 1)
    assert "promise_lowered" in [note.code for note in said.bare.notes]
    assert "29956 subjects are needed" in next(n.sentence for n in said.bare.notes if n.code == "promise_lowered")


@pytest.mark.parametrize(("people", "photos", "code"), [(58, 3, "few_strangers"), (100, 1, "few_genuine")])
def test_a_gallery_that_is_too_small_is_refused_with_the_reason(people: int, photos: int, code: str) -> None:
    said = calibrate(gallery(faces(people, photos)))
    assert codes(said) == [code]
    assert said.bare.suggestion is None
    assert said.refused


def test_an_empty_gallery_is_refused_and_drawn() -> None:
    said = calibrate([])
    assert codes(said) == ["few_strangers", "few_genuine"]
    assert curve(said).startswith(b"\x89PNG")
    with pytest.raises(RefusedError, match="no limits are suggested: 0 subjects"):
        said.limits(Limits())


def test_masked_faces_are_refused_where_there_are_none_and_held_to_no_less_than_bare_ones(said: Calibration) -> None:
    assert said.masked.suggestion is None
    assert said.masked.curve is None
    assert said.bare.suggestion is not None
    threshold = said.bare.suggestion.threshold
    assert said.limits(Limits()).threshold == threshold
    assert said.limits(Limits()).masked_threshold == max(threshold, 0.33)


def test_masked_faces_have_a_threshold_of_their_own(enrolled: list[Template]) -> None:
    worn = faces(400, photos=4, spread=0.9)[:, 3:]
    said = calibrate([*enrolled, *gallery(worn, masked=True)], promised_far=0.02)
    assert said.masked.suggestion is not None
    assert said.masked.strangers == said.masked.genuine_people == 400
    assert said.limits(Limits()).masked_threshold == said.masked.suggestion.threshold


def test_vectors_that_do_not_tell_people_apart_are_refused() -> None:
    assert codes(calibrate(gallery(faces(100, spread=6)))) == ["indistinct"]


@pytest.mark.parametrize("photos", [1, 3])
def test_one_person_under_two_names_is_named_until_somebody_vouches(photos: int) -> None:
    made = faces(100, 6)
    templates = gallery(made[:, :3]) + gallery(made[:1, 3 : 3 + photos], name="again")
    said = calibrate(templates)
    assert [(r.code, r.names) for r in said.contradictions] == [("one_person", ("again0", "s0"))]
    assert codes(said) == ["contradiction"]
    vouched = calibrate(templates, vouched=["again0"])
    assert vouched.contradictions == ()
    assert vouched.bare.suggestion is not None


def test_a_photo_under_the_wrong_name_is_named(enrolled: list[Template]) -> None:
    wrong = replace(enrolled[5], subject_id="s9", id="wrong")
    kept = [t for t in enrolled if t.id != enrolled[5].id]
    said = calibrate([*kept, wrong])
    assert [(r.code, r.names) for r in said.contradictions] == [("mislabelled", ("wrong", "s9", "s1"))]
    assert "'wrong' of 's9' scores" in said.contradictions[0].sentence
    assert calibrate([*kept, wrong], vouched=["wrong"]).contradictions == ()


def test_a_gallery_without_mistakes_has_no_contradictions(said: Calibration) -> None:
    assert said.contradictions == ()


def test_negative_anchors_are_nobody(enrolled: list[Template], said: Calibration) -> None:
    anchors = [replace(t, subject_id="s7", id=f"not/{t.id}", negative=True) for t in enrolled[:3]]
    assert calibrate([*enrolled, *anchors], promised_far=0.02) == said


def test_two_templates_of_one_photo_are_no_proof_of_anything() -> None:
    photos = gallery(faces(100, photos=1))
    twice = [replace(t, id=f"{t.id}/{n}", source_sha256=t.id) for t in photos for n in range(2)]
    said = calibrate(twice)
    assert said.bare.genuine == 0
    assert codes(said) == ["few_genuine"]


def test_unknown_tracks_raise_the_threshold_and_never_lower_it(enrolled: list[Template], said: Calibration) -> None:
    suggestion = said.bare.suggestion
    assert suggestion is not None
    far_away = [track(f"far{n}", v[0]) for n, v in enumerate(-faces(1000, 1))]
    assert calibrate(enrolled, far_away, promised_far=0.02).bare.suggestion == suggestion
    near = enrolled[0].vector + 0.9 * faces(40, 1, seed=5)[:, 0]
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    tracks = [track(f"near{n}", vector, ignored=True) for n, vector in enumerate(near)]
    raised = calibrate(enrolled, tracks, promised_far=0.02).bare
    assert raised.suggestion is not None
    assert raised.suggestion.threshold > suggestion.threshold
    assert "unknowns_raised" in [note.code for note in raised.notes]


def test_an_unknown_track_that_is_somebody_is_reported_and_not_counted(enrolled: list[Template]) -> None:
    said = calibrate(enrolled, [track("t1", enrolled[6].vector)], promised_far=0.02).bare
    assert [(s.track_id, s.subject_id, s.counted) for s in said.suspected] == [("t1", "s2", False)]
    assert said.unknown_people == 0
    assert said.stranger_ceiling == said.enrolled_pair_ceiling


def test_one_stranger_seen_a_hundred_times_is_one_stranger(enrolled: list[Template]) -> None:
    stranger = faces(1, 100, seed=3, spread=0.1)[0]
    tracks = [track(f"t{n}", vector) for n, vector in enumerate(stranger)]
    assert calibrate(enrolled, tracks).bare.unknown_people == 1


def test_tracks_of_another_net_are_left_out_and_templates_of_two_nets_refused(enrolled: list[Template]) -> None:
    other = replace(track("t", enrolled[0].vector), model="other")
    assert calibrate(enrolled, [other]).bare.suspected == ()
    with pytest.raises(InvalidError, match=r"several nets \(mobilefacenet, other\)"):
        calibrate([*enrolled, replace(enrolled[0], model="other")])


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InvalidError, match="between 0 and 1"):
        calibrate([], promised_far=share)


def test_the_order_of_templates_makes_no_difference(enrolled: list[Template], said: Calibration) -> None:
    assert calibrate(enrolled[::-1], promised_far=0.02) == said


def test_it_survives_json(said: Calibration) -> None:
    assert Calibration.model_validate_json(said.model_dump_json()) == said


def test_held_out_scores_are_those_of_a_gallery_without_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "BLOCK", 7)
    templates = gallery(faces(20, 3, spread=1.5))
    templates[4] = replace(templates[4], source_sha256="same")
    templates[5] = replace(templates[5], source_sha256="same")
    columns = held_out.enrolled(templates)
    found = held_out.held_out(columns)
    for row, template in enumerate(columns.templates):
        others = [t for t in columns.templates if t.subject_id != template.subject_id]
        own = [
            t
            for t in columns.templates
            if t.subject_id == template.subject_id
            and t.id != template.id
            and not (t.source_sha256 and t.source_sha256 == template.source_sha256)
        ]
        assert found.own[row] == pytest.approx(max(float(t.vector @ template.vector) for t in own), abs=1e-6)
        best = max(others, key=lambda t: float(t.vector @ template.vector))
        assert found.other[row] == pytest.approx(float(best.vector @ template.vector), abs=1e-6)
        assert columns.templates[found.nearest[row]].id == best.id


@pytest.mark.parametrize(("accepted", "people"), [(0, 59), (0, 3000), (3, 200), (20, 40)])
def test_the_upper_limit_is_that_of_clopper_and_pearson(accepted: int, people: int) -> None:
    limit = float(upper_limit(accepted / people, people, 0.95))
    assert binom.cdf(accepted, people, limit) == pytest.approx(0.05, abs=1e-6)


def test_as_many_people_are_needed_as_the_limit_says() -> None:
    assert least_people(0.05, 0.95) == 59
    assert float(upper_limit(0, 59, 0.95)) <= 0.05 < float(upper_limit(0, 58, 0.95))


def test_people_count_and_not_their_pictures() -> None:
    sample = Sample(np.array([0.9, 0.8, 0.1, 0.1, 0.5], np.float32), np.array([0, 0, 0, 0, 1]))
    assert sample.reaching([0.85, 0.5, 0.0]).tolist() == [0.125, 0.75, 1.0]
    assert sample.threshold(0.3) == 0.5001
    assert sample.threshold(0.0) == 0.9001


def test_the_curve_is_a_picture_of_a_fixed_size(said: Calibration) -> None:
    drawn = curve(said)
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.size == (1600, 800)
    assert curve(said) == drawn
