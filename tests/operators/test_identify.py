"""Who a track is, said in one of six words, and never on the word of one face."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from operators.identify import Evidence, Identify
from pipeline.gallery import Limits
from pipeline.packets import Candidate, EmbeddedFace, Embedding, Floats, Quality
from pipeline.policy import Policy
from pipeline.testing import make_grown
from tests.support.identified import ALLOWED, BAD, axis, decisions, face, identified, shots, vector

# The six words


def test_two_faces_that_agree_make_a_known_subject() -> None:
    first, second = identified(shots(vector(ann=0.6), vector(ann=0.7)))
    assert first.identity.decision == "not_evaluated"
    known = second.identity
    assert (known.decision, known.subject_id, known.votes, known.masked) == ("known", "ann", 2, False)
    assert known.threshold == 0.40
    assert known.margin == pytest.approx(known.score - known.runner_up_score)
    assert (known.gallery, known.gallery_version) == ("main", 3)


def test_a_face_that_is_like_nobody_is_unknown() -> None:
    *_, last = identified(shots(vector(ann=0.2, bob=0.1), vector(ann=0.3)))
    assert (last.identity.decision, last.identity.subject_id) == ("unknown", "")
    assert 0.2 < last.identity.score < 0.40


def test_with_an_empty_gallery_everybody_is_unknown() -> None:
    nobody = [make_grown(EmbeddedFace, n, embedding=Embedding(vector(), (), "main", 0)) for n in range(2)]
    *_, last = identified(nobody)
    assert (last.identity.decision, last.identity.score, last.identity.margin) == ("unknown", 0, 0)


def test_a_face_that_is_like_two_people_is_ambiguous() -> None:
    *_, last = identified(shots(vector(ann=0.6, bob=0.57), vector(ann=0.6, bob=0.57)))
    assert (last.identity.decision, last.identity.subject_id) == ("ambiguous", "ann")
    assert last.identity.margin < 0.08


def test_a_face_below_the_gate_is_of_low_quality_until_a_better_one_comes() -> None:
    faces = [
        face(0, quality=BAD),
        face(1, quality=BAD),
        face(2, vector(ann=0.6)),
        face(3, vector(ann=0.6)),
        face(4, quality=BAD),
    ]
    assert decisions(identified(faces)) == ["low_quality", "low_quality", "not_evaluated", "known", "known"]


def test_a_good_face_that_was_not_chosen_is_not_evaluated() -> None:
    assert decisions(identified([face(0)])) == ["not_evaluated"]


def test_without_a_purpose_everybody_is_suppressed() -> None:
    faces = [face(0), face(1, quality=BAD)]
    assert decisions(identified(faces, policy=Policy())) == ["suppressed", "suppressed"]


# The rules


@pytest.mark.parametrize("votes", [1, 2, 4])
def test_nothing_is_said_before_enough_faces_agree(votes: int) -> None:
    found = decisions(identified(shots(*[vector(ann=0.7)] * 5), votes=votes))
    assert found == ["not_evaluated"] * (votes - 1) + ["known"] * (6 - votes)


def test_the_margin_to_the_runner_up_is_an_argument() -> None:
    close = shots(vector(ann=0.6, bob=0.5), vector(ann=0.6, bob=0.5))
    assert decisions(identified(close, margin=0.05))[-1] == "known"
    assert decisions(identified(close, margin=0.15))[-1] == "ambiguous"


def test_the_threshold_is_an_argument() -> None:
    faces = shots(vector(ann=0.45), vector(ann=0.45))
    assert decisions(identified(faces, threshold=0.4))[-1] == "known"
    assert decisions(identified(faces, threshold=0.5))[-1] == "unknown"


def mean_cosine(vectors: Sequence[Floats], weights: Sequence[float], subject: int) -> float:
    """The slow way: the quality-weighted mean of the vectors, times the subject's vector."""
    return float(np.average(vectors, axis=0, weights=weights) @ axis(subject))


def test_the_score_is_the_product_with_the_quality_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    seen, weights, evidence = [], [], Evidence()
    for weight in rng.uniform(0.1, 1, 7):
        ann, bob, cat = rng.uniform(0, 0.5, 3)
        seen.append(vector(ann, bob, cat))
        weights.append(float(weight))
        shot = face(0, seen[-1]).embedding
        assert shot is not None
        evidence = evidence.with_shot(shot, float(weight))
        ranked = dict(evidence.ranked())
        for n, name in enumerate(("ann", "bob", "cat")):
            assert ranked[name] == pytest.approx(mean_cosine(seen, weights, n), abs=1e-5)
        assert [name for name, _ in evidence.ranked()] == sorted(ranked, key=lambda name: -ranked[name])


def test_no_track_reaches_what_none_of_its_faces_reaches() -> None:
    """Else what is promised of one picture would not hold for several of the same stranger."""
    one = vector(ann=0.38)
    other = 2 * one[0] * axis(0) - one  # they share nothing else
    *_, last = identified(shots(one, other))
    assert (last.identity.decision, last.identity.score) == ("unknown", pytest.approx(0.38, abs=1e-4))


def test_a_blurred_face_weighs_less_than_a_sharp_one() -> None:
    sharp, poor = Quality(0.9, 0.1, 0, 100), Quality(0.1, 0.7, 0, 100)
    *_, last = identified([face(0, vector(ann=0.9), quality=sharp), face(1, vector(bob=0.9), quality=poor)], votes=1)
    assert (last.identity.decision, last.identity.subject_id) == ("known", "ann")


def test_a_known_subject_is_not_lost_for_a_hair() -> None:
    sure, doubtful = vector(ann=0.42), vector(ann=0.36)
    found = identified(shots(sure, sure, *[doubtful] * 4))
    assert found[-1].identity.score < found[-1].identity.threshold
    assert decisions(found)[1:] == ["known"] * 5
    assert decisions(identified(shots(*[vector(ann=0.38)] * 6)))[-1] == "unknown"


# Masks


def test_masked_faces_alone_are_held_against_the_threshold_for_masked_faces() -> None:
    weak = vector(ann=0.36)
    *_, masked = identified(shots(weak, weak, mask=0.9))
    *_, bare = identified(shots(weak, weak))
    assert (masked.identity.decision, masked.identity.masked, masked.identity.threshold) == ("known", True, 0.33)
    assert (bare.identity.decision, bare.identity.masked, bare.identity.threshold) == ("unknown", False, 0.40)


def test_a_mask_that_is_put_on_later_keeps_who_it_was() -> None:
    bare = [face(n, vector(ann=0.7)) for n in range(3)]
    masked = [face(n, vector(bob=0.5), mask=0.95) for n in range(3, 12)]
    found = identified([*bare, *masked])
    assert {(f.identity.decision, f.identity.subject_id) for f in found[1:]} == {("known", "ann")}
    assert found[-1].mask.label == "masked"
    assert [f.first_match for f in found].count(True) == 1


def test_who_takes_the_mask_off_is_judged_by_the_bare_face() -> None:
    masked = [face(n, vector(ann=0.36), mask=0.95) for n in range(3)]
    bare = [face(n, vector(bob=0.8)) for n in range(3, 6)]
    found = identified([*masked, *bare])
    assert (found[2].identity.subject_id, found[2].identity.masked) == ("ann", True)
    assert (found[-1].identity.subject_id, found[-1].identity.masked) == ("bob", False)
    assert [f.seq for f in found if f.first_match] == [1, 4]


def test_the_mask_label_changes_only_once_it_is_clear() -> None:
    found = identified([face(n, mask=p) for n, p in enumerate([0.0] * 5 + [0.5] * 20)])
    assert {f.mask.label for f in found} == {"bare"}
    flicker = identified([face(n, mask=p) for n, p in enumerate([0.02] * 10 + [0.98] + [0.02] * 10)])
    assert {f.mask.label for f in flicker} == {"bare"}
    on = identified([face(n, mask=p) for n, p in enumerate([0.02] * 20 + [0.98] * 20)])
    labels = [f.mask.label for f in on]
    assert labels[:20] == ["bare"] * 20
    assert labels[-1] == "masked"
    assert labels == sorted(labels)  # one change, and no way back


def test_what_cannot_be_told_is_unsure() -> None:
    (only,) = identified([face(0, mask=0.5)])
    assert (only.mask.label, only.mask.probability) == ("unsure", 0.5)


# The moment of the match


def test_the_first_match_is_told_exactly_once() -> None:
    found = identified(shots(*[vector(ann=0.7)] * 10))
    assert [f.seq for f in found if f.first_match] == [1]


def test_a_match_that_was_ambiguous_before_is_told() -> None:
    close, clear = vector(ann=0.6, bob=0.57), vector(ann=0.9)
    found = identified(shots(close, close, clear, clear, clear))
    assert decisions(found)[1] == "ambiguous"
    assert decisions(found)[-1] == "known"
    assert [f.first_match for f in found].count(True) == 1


def test_a_match_that_was_in_doubt_for_a_while_is_not_told_twice() -> None:
    ann, nobody = vector(ann=0.6), vector()
    found = identified(shots(ann, ann, *[nobody] * 4, *[ann] * 8))
    assert decisions(found)[1] == "known"
    assert "unknown" in decisions(found)
    assert decisions(found)[-1] == "known"
    assert [f.seq for f in found if f.first_match] == [1]


# The limits of a gallery


def test_the_limits_of_the_gallery_count_more_than_the_arguments() -> None:
    def limited(n: int, limits: Limits | None, mask: float = 0.0) -> EmbeddedFace:
        shot = Embedding(vector(ann=0.45), (Candidate("ann", 0.45), Candidate("bob", 0.3)), "main", 3, limits=limits)
        return make_grown(EmbeddedFace, n, mask_probability=mask, embedding=shot)

    strict, wide = Limits(threshold=0.5, masked_threshold=0.47), Limits(margin=0.2)
    found = identified([limited(n, limits) for n, limits in enumerate([None, None, strict, wide, None])])
    assert decisions(found)[1:] == ["known", "unknown", "ambiguous", "known"]
    assert [f.identity.threshold for f in found[1:]] == [0.40, 0.5, 0.40, 0.40]
    *_, masked = identified([limited(n, strict, mask=0.9) for n in range(2)])
    assert (masked.identity.decision, masked.identity.threshold) == ("unknown", 0.47)


# Promises of every keyed operator


def crowd() -> list[EmbeddedFace]:
    out = []
    for n in range(12):
        out.append(face(n, vector(ann=0.7) if n % 3 == 0 else None))
        out.append(face(n, vector(bob=0.5) if n % 4 == 0 else None, mask=0.9, track="camera:0:2"))
    return out


def test_tracks_do_not_mix_and_faces_keep_their_order() -> None:
    found = identified(crowd())
    assert [(f.seq, f.track_id) for f in found] == [(f.seq, f.track_id) for f in crowd()]
    last = {f.track_id: f.identity.subject_id for f in found}
    assert last == {"camera:0:1": "ann", "camera:0:2": "bob"}


@pytest.mark.parametrize("together", [2, 7, 100])
def test_the_result_does_not_depend_on_how_the_stream_is_cut(together: int) -> None:
    one, other = identified(crowd()), identified(crowd(), together)
    assert [(f.identity, f.mask, f.first_match) for f in one] == [(f.identity, f.mask, f.first_match) for f in other]


def test_the_state_is_a_value_that_can_be_stored_and_is_never_edited() -> None:
    identify = Identify(ALLOWED)
    state, _ = identify(identify.start("camera"), crowd()[:12])
    stored = pickle.dumps(state)
    _, once = identify(state, crowd()[12:])
    assert pickle.dumps(state) == stored
    _, again = Identify(ALLOWED)(pickle.loads(stored), crowd()[12:])
    assert [f.identity for f in once] == [f.identity for f in again]


def test_a_track_that_is_gone_is_forgotten() -> None:
    identify = Identify(ALLOWED, forget_s=1.0)
    state, _ = identify(identify.start("camera"), shots(vector(ann=0.7), vector(ann=0.7)))
    state, _ = identify(state, [face(100, track="camera:0:2")])
    assert set(state) == {"camera:0:2"}
