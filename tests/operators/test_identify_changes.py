"""Who a track is while the gallery changes: people are enrolled, renamed and erased before the camera."""

from __future__ import annotations

import pytest

from operators.identify import Identify
from pipeline.packets import Candidate, EmbeddedFace, Embedding
from pipeline.state_codec import decode, encode
from pipeline.testing import make_grown
from tests.support.identified import ALLOWED, BAD, decisions, face, identified, vector

# Who is enrolled


def came(seq: int, cosine: float, version: int, since: int) -> EmbeddedFace:
    """A face like Ann, whom the gallery has since a version."""
    found = (Candidate("ann", cosine, since),) if version >= since else ()
    return make_grown(EmbeddedFace, seq, embedding=Embedding(vector(ann=cosine), found, "main", version))


def test_who_is_enrolled_while_they_stand_before_the_camera_is_known_two_faces_later() -> None:
    faces = [came(n, 0.7, version=3 if n < 100 else 4, since=4) for n in range(103)]
    found = identified(faces)
    assert decisions(found)[98:] == ["unknown", "unknown", "not_evaluated", "known", "known"]
    assert found[-1].identity.score == pytest.approx(0.7, abs=1e-3)
    state, _ = Identify(ALLOWED)({}, faces)
    (person,) = decode(encode({"identify": state}))["identify"].values()
    assert person.bare.ranked()[0][1] == pytest.approx(0.7, abs=1e-3)


def test_who_was_always_there_and_was_not_found_is_not_known_by_the_two_faces_that_are_like_them() -> None:
    nobody = [make_grown(EmbeddedFace, n, embedding=Embedding(vector(), (), "main", 3)) for n in range(20)]
    assert decisions(identified([*nobody, *(came(20 + n, 0.7, 4, 0) for n in range(2))]))[-1] == "unknown"


# Who is erased


def asked(
    seq: int, version: int, lost: int = 0, mask: float = 0.0, gallery: str = "main", **found: float
) -> EmbeddedFace:
    """A face that is like ``found``, as a gallery of this version says whose ``found`` are."""
    best = tuple(Candidate(who, score) for who, score in sorted(found.items(), key=lambda item: -item[1]))
    shot = Embedding(vector(ann=0.7), best, gallery, version, lost=lost)
    return make_grown(EmbeddedFace, seq, mask_probability=mask, embedding=shot, track_id="camera:0:1")


def test_whoever_is_erased_is_named_no_more_from_the_next_embedded_face_on() -> None:
    before = [asked(n, 3, ann=0.7, bob=0.1) for n in range(100)]
    after = [face(100), *(asked(n, 4, 4, bob=0.1) for n in range(101, 104))]
    found = identified([*before, *after])
    assert found[99].identity.subject_id == "ann"
    assert [f.identity.subject_id for f in found[101:]] == [""] * 3
    assert decisions(found)[101:] == ["not_evaluated", "unknown", "unknown"]
    assert not any(f.first_match for f in found[100:])


def test_a_state_holds_no_trace_of_who_is_erased() -> None:
    identify = Identify(ALLOWED)
    seen = [asked(0, 3, ann=0.7), asked(1, 3, ann=0.7), asked(2, 3, mask=0.9, ann=0.5)]
    state, _ = identify(identify.start("camera"), seen)
    assert "ann" in str(state)
    state, _ = identify(state, [asked(3, 4, 4, mask=0.9, bob=0.1)])
    assert "ann" not in str(state)
    assert str(decode(encode({"identify": state}))["identify"]) == str(state)


def test_who_was_told_of_once_and_is_unknown_by_now_leaves_no_trace_either() -> None:
    identify = Identify(ALLOWED)
    seen = [asked(0, 3, ann=0.7), asked(1, 3, ann=0.7), *(asked(n, 3, ann=-0.5) for n in range(2, 9))]
    state, found = identify(identify.start("camera"), seen)
    assert decisions(list(found))[-1] == "unknown"
    state, (last,) = identify(state, [asked(9, 4, 4, bob=0.1)])
    assert (last.identity.decision, last.first_match) == ("unknown", False)
    assert "ann" not in str(state)


def test_who_has_a_new_name_is_found_under_it_after_as_many_faces_as_anybody() -> None:
    before = [asked(n, 3, ann=0.7) for n in range(50)]
    found = identified([*before, *(asked(n, 4, 4, anna=0.7) for n in range(50, 53))])
    assert [f.identity.subject_id for f in found[49:]] == ["ann", "", "anna", "anna"]
    assert [f.seq for f in found if f.first_match] == [1, 51]


def test_somebody_else_who_is_erased_changes_nothing_but_the_runner_up() -> None:
    before = [asked(n, 3, ann=0.7, bob=0.3) for n in range(3)]
    *_, last = identified([*before, asked(3, 4, 4, ann=0.7)])
    assert (last.identity.decision, last.identity.subject_id, last.identity.votes) == ("known", "ann", 4)
    assert last.identity.runner_up_score == 0


def test_who_is_not_among_the_best_of_one_face_is_not_lost_while_nobody_is() -> None:
    bare = [asked(n, 3, ann=0.7) for n in range(3)]
    masked = [asked(n, 3 + n, lost=3, mask=0.9, bob=0.2) for n in range(3, 30)]
    assert {f.identity.subject_id for f in identified([*bare, *masked])[1:]} == {"ann"}


def test_who_was_named_since_somebody_was_lost_is_there() -> None:
    seen = [asked(0, 3, ann=0.7), asked(1, 3, ann=0.7), asked(2, 4, 4, ann=0.7), asked(3, 4, 4, bob=0.2)]
    assert [f.identity.subject_id for f in identified(seen)] == ["", "ann", "ann", "ann"]


def unseen(seq: int, lost: int) -> EmbeddedFace:
    """A face that was not embedded, while the gallery may have lost whom it named before a version."""
    return make_grown(EmbeddedFace, seq, quality=BAD, lost=lost)


def test_a_name_that_may_be_lost_is_withheld_after_a_second_until_a_face_tells() -> None:
    seen = [asked(0, 3, ann=0.7), asked(1, 3, ann=0.7), unseen(2, 3), *(unseen(n, 4) for n in range(3, 30))]
    erased, there = asked(30, 4, 4, bob=0.1), asked(30, 4, 4, ann=0.7)
    names = [f.identity.subject_id for f in identified(seen)]
    assert (names[1:29], names[29:]) == (["ann"] * 28, [""])  # 25 faces a second
    assert decisions(identified([*seen, erased, unseen(31, 4)]))[29:] == ["not_evaluated"] * 3
    found = identified([*seen, there, unseen(31, 4)])
    assert [f.identity.subject_id for f in found[29:]] == ["", "ann", "ann"]
    assert [f.seq for f in found if f.first_match] == [1]
    renamed = identified([*seen, *(asked(n, 4, 4, anna=0.7) for n in range(30, 32))])
    assert [f.identity.subject_id for f in renamed[29:]] == ["", "", "anna"]


def test_no_name_is_withheld_where_faces_go_on_to_confirm_it() -> None:
    faces = [asked(n, 3 + n // 5, 3 + n // 5, ann=0.7) if n % 25 < 2 else unseen(n, 3 + n // 5) for n in range(100)]
    assert {f.identity.subject_id for f in identified(faces)[1:]} == {"ann"}


@pytest.mark.parametrize("other", [{"version": 1}, {"version": 3, "gallery": "other"}], ids=["wiped", "another"])
def test_in_another_gallery_nobody_is_known_from_before(other: dict[str, object]) -> None:
    found = identified([asked(0, 3, ann=0.7), asked(1, 3, ann=0.7), asked(2, bob=0.1, **other)])
    assert [f.identity.subject_id for f in found] == ["", "ann", ""]
