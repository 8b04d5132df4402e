"""What a gallery may be asked: who may, what is decided, and what an erasure, a merge and a change of nets leave."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from pipeline.edges.redis_store import GalleryStore
from pipeline.gallery.errors import (
    AwayError,
    DuplicateError,
    ForbiddenError,
    InvalidError,
    PictureError,
    RefusedError,
    UnknownError,
)
from pipeline.gallery.memory import MemoryGallery
from pipeline.gallery.protocol import Template
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, Limits, NamespacePolicy, Subject
from pipeline.packets import Pixels
from tests.support.gallery import DrawnFaces, likeness
from tests.support.gallery_asked import (
    ADMIN,
    AUDITOR,
    BLUE,
    DULL,
    GREEN,
    NOW,
    OPERATOR,
    READER,
    RED,
    picture,
    seen,
    unknown,
)


def who(service: GalleryService, *colours: tuple[int, int, int], caller: Caller = READER) -> list[tuple[str, str]]:
    return [(found.decision, found.subject_id) for found in service.search(caller, picture(*colours))]


def test_each_face_gets_a_decision(service: GalleryService) -> None:
    assert who(service, RED, BLUE, DULL) == [("known", "red"), ("unknown", ""), ("low_quality", "")]


def test_somebody_like_two_subjects_is_nobody(service: GalleryService) -> None:
    service.enrol(OPERATOR, "scarlet", picture(RED))
    assert who(service, RED)[0][0] == "ambiguous"


@pytest.mark.parametrize(
    ("caller", "ask"),
    [
        (READER, lambda s, c: s.enrol(c, "blue", picture(BLUE))),
        (READER, lambda s, c: s.erase(c, "red")),
        (OPERATOR, lambda s, c: s.set_policy(c, NamespacePolicy())),
        (OPERATOR, lambda s, c: s.audit(c)),
        (OPERATOR, lambda s, c: s.calibrate(c)),
        (AUDITOR, lambda s, c: s.search(c, picture(RED))),
        (AUDITOR, lambda s, c: s.subjects(c)),
    ],
)
def test_who_may_not_is_refused_changes_nothing_and_is_logged(
    service: GalleryService, caller: Caller, ask: Callable[[GalleryService, Caller], object]
) -> None:
    before = service.desk.store.version()
    with pytest.raises(ForbiddenError, match="the role"):
        ask(service, caller)
    assert service.desk.store.version() == before
    (entry,) = [each for each in service.audit(ADMIN) if each.outcome == "forbidden"]
    assert (entry.actor, entry.role) == (caller.name, caller.role)


def test_a_purpose_that_is_not_allowed_is_refused(service: GalleryService) -> None:
    service.set_policy(ADMIN, NamespacePolicy(purposes=("access_control",)))
    with pytest.raises(ForbiddenError, match="without a purpose"):
        who(service, RED)
    with pytest.raises(ForbiddenError, match="for 'curiosity'"):
        who(service, RED, caller=Caller("r", "reader", "curiosity"))
    assert who(service, RED, caller=Caller("r", "reader", "access_control")) == [("known", "red")]


def test_the_log_says_what_of_the_policy_was_changed(service: GalleryService) -> None:
    service.set_policy(ADMIN, NamespacePolicy(match_ttl_s=60))
    (entry,) = service.audit(ADMIN, action="policy")
    assert entry.details == {"what": "match_ttl_s"}


def test_nobody_is_named_for_a_purpose_that_they_did_not_agree_to(service: GalleryService) -> None:
    service.change_subject(OPERATOR, "red", purposes=("access_control",))
    assert who(service, RED) == [("suppressed", "")]
    assert who(service, RED, caller=Caller("r", "reader", "access_control")) == [("known", "red")]


def test_without_consent_nobody_is_enrolled_or_matched(service: GalleryService) -> None:
    service.change_subject(OPERATOR, "red", consent="withdrawn")
    assert who(service, RED) == [("unknown", "")]
    with pytest.raises(ForbiddenError, match="withdrawn"):
        service.enrol(OPERATOR, "red", picture(RED))
    with pytest.raises(UnknownError, match="withdrawn"):
        service.verify(READER, picture(RED), subject_id="red")
    service.set_policy(ADMIN, NamespacePolicy(require_consent=True))
    with pytest.raises(ForbiddenError, match="unstated"):
        service.enrol(OPERATOR, "blue", picture(BLUE))
    service.add_subject(OPERATOR, Subject(id="blue", consent="given"))
    service.enrol(OPERATOR, "blue", picture(BLUE))
    assert who(service, BLUE) == [("known", "blue")]


@pytest.mark.parametrize(
    ("shown", "reason"),
    [(picture(), "no face"), (picture(RED, GREEN), "2 faces"), (picture(DULL), "too poor .*: blurred")],
)
def test_a_picture_without_one_good_face_enrols_nobody(service: GalleryService, shown: Pixels, reason: str) -> None:
    before = service.desk.store.version()
    with pytest.raises(PictureError, match=reason):
        service.enrol(OPERATOR, "blue", shown)
    assert service.desk.store.version() == before
    assert "blue" not in {each.id for each in service.subjects(READER)}


def test_twins_are_refused_where_that_is_asked_for(service: GalleryService) -> None:
    with pytest.raises(DuplicateError, match="looks like 'red'"):
        service.enrol(OPERATOR, "blue", picture(RED), refuse_twins=True)
    service.enrol(OPERATOR, "blue", picture(BLUE), source_sha256="ab", refuse_twins=True)
    with pytest.raises(DuplicateError, match="enrolled already"):
        service.enrol(OPERATOR, "blue", picture(BLUE), source_sha256="ab", refuse_twins=True)


def test_a_photo_that_is_sent_again_adds_nothing(service: GalleryService) -> None:
    service.enrol(OPERATOR, "blue", picture(BLUE), source_sha256="ab")
    version = service.desk.store.version()
    (blue,) = service.desk.store.template_ids("blue")
    assert service.enrol(OPERATOR, "blue", picture(BLUE), source_sha256="ab").id == blue
    assert service.desk.store.version() == version


def test_vectors_are_those_of_the_gallerys_net(service: GalleryService) -> None:
    good = likeness(RED)[None]
    assert [found.subject_id for found in service.search_vectors(READER, 3 * good, "mobilefacenet")] == ["red"]
    wrong = {
        "another net": (good, "sface"),
        "another dimension": (good[:, :128], "mobilefacenet"),
        "no number": (np.full((1, 512), np.nan, np.float32), "mobilefacenet"),
        "no length": (np.zeros((1, 512), np.float32), "mobilefacenet"),
        "nothing": (np.zeros((0, 512), np.float32), "mobilefacenet"),
    }
    for vectors, model in wrong.values():
        with pytest.raises(InvalidError, match="vector"):
            service.search_vectors(READER, vectors, model)
        with pytest.raises(InvalidError, match="vector"):
            service.enrol_vectors(OPERATOR, "red", vectors, model)


def test_verification_minds_negative_anchors(service: GalleryService) -> None:
    assert [found.decision for found in service.verify(READER, picture(RED, BLUE), subject_id="red")] == [
        "known",
        "unknown",
    ]
    service.not_me(OPERATOR, "red", picture=picture(RED))
    assert [found.decision for found in service.verify(READER, picture(RED), subject_id="red")] == ["unknown"]
    assert who(service, RED) == [("unknown", "")]
    with pytest.raises(InvalidError, match="give one of"):
        service.not_me(OPERATOR, "red")


def test_names_are_changed_and_merged_with_all_that_belongs_to_them(service: GalleryService) -> None:
    service.desk.tracks.note(seen("red"), 60)
    service.rename(OPERATOR, "red", "crimson")
    assert who(service, RED) == [("known", "crimson")]
    assert [each.subject_id for each in service.matches(READER).sightings] == ["crimson"]
    with pytest.raises(DuplicateError, match="already"):
        service.rename(OPERATOR, "crimson", "green")
    assert service.merge(OPERATOR, "crimson", "green") == 1
    assert who(service, RED, GREEN) == [("known", "green"), ("known", "green")]
    assert [each.subject_id for each in service.matches(READER, subject="green").sightings] == ["green"]
    with pytest.raises(InvalidError, match="one subject"):
        service.merge(OPERATOR, "green", "green")
    for bad in ("", " a", "a\n", ".."):
        with pytest.raises(InvalidError, match="can be no name"):
            service.rename(OPERATOR, "green", bad)


def test_unknown_people_are_named_or_ignored(service: GalleryService) -> None:
    for number, colour in enumerate((BLUE, BLUE, (240, 240, 20))):
        service.desk.tracks.keep(unknown(f"lobby:1:{number}", colour), 60)
    blue, yellow = service.clusters(READER)
    assert (len(blue.members), len(yellow.members)) == (2, 1)
    assert len(service.assign(OPERATOR, blue.id, "blue")) == 2
    assert who(service, BLUE) == [("known", "blue")]
    assert service.ignore(OPERATOR, yellow.id) == 1
    service.desk.tracks.keep(unknown("lobby:1:9", (240, 240, 20)), 60)
    assert service.clusters(READER) == []
    with pytest.raises(UnknownError, match="no cluster"):
        service.assign(OPERATOR, blue.id, "blue")


def test_matches_come_in_pages_the_latest_first(service: GalleryService) -> None:
    for number in range(7):
        service.desk.tracks.note(seen("red", f"lobby:1:{number}"), 60)
    service.desk.tracks.note(seen("green", "gate:1:1").model_copy(update={"stream": "gate"}), 60)
    first = service.matches(READER, subject="red", limit=3)
    rest = service.matches(READER, subject="red", after=first.next, limit=10)
    names = [each.id for each in (*first.sightings, *rest.sightings)]
    assert names == [f"lobby:1:{number}" for number in reversed(range(7))]
    assert rest.next == ""
    assert [each.stream for each in service.matches(READER, stream="gate").sightings] == ["gate"]
    assert service.matches(READER, until=NOW - timedelta(days=1)).sightings == ()


class OtherNet(DrawnFaces):
    model = "other"

    def vectors(self, crops: list[Pixels]) -> np.ndarray:
        return np.array([-likeness(crop[64, 64]) for crop in crops])


def test_both_nets_answer_while_the_gallery_changes_over(
    open_gallery: Callable[..., GalleryService], service: GalleryService, redis_url: str
) -> None:
    # The same keys: the store of one is the store of the other.
    other = open_gallery(OtherNet(), redis_url, service.desk.store.namespace)
    with pytest.raises(UnknownError, match="embeds with 'other'"):
        other.reembed(ADMIN, "third")
    said = other.reembed(ADMIN, "other")
    assert (said.made, said.there, said.without_photo) == (1, 0, 1)
    again = other.reembed(ADMIN, "other")
    assert (again.made, again.there) == (0, 1)
    assert who(service, RED) == [("known", "red")]
    with pytest.raises(RefusedError, match="net of this gallery"):
        other.drop_model(ADMIN, "other")
    assert other.export(ADMIN).version == 1
    with pytest.raises(RefusedError, match="a matcher still matches with 'mobilefacenet'"):
        other.drop_model(ADMIN, "mobilefacenet")
    service.desk.matcher.close()
    other.desk.matcher.close()  # which the fixture opened for the same net
    service.not_me(OPERATOR, "green", picture=picture(BLUE))
    with pytest.raises(RefusedError, match="1 anchors"):
        other.drop_model(ADMIN, "mobilefacenet")
    (anchor,) = service.desk.store.negatives()
    service.remove_template(OPERATOR, anchor)
    with pytest.raises(RefusedError, match="1 subjects have templates of no other net"):
        other.drop_model(ADMIN, "mobilefacenet")
    assert service.desk.store.count() == (2, 3)
    assert other.drop_model(ADMIN, "mobilefacenet", leave_bare=True) == 2
    assert service.desk.store.count() == (2, 1)


def test_calibration_changes_the_limits_of_the_policy_that_holds_by_then(
    service: GalleryService, open_gallery: Callable[..., GalleryService], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_gallery(namespace=service.desk.store.namespace)
    strict = NamespacePolicy(require_consent=True, purposes=("door",), limits=Limits(margin=0.2))

    class Found:
        def limits(self, before: Limits) -> Limits:
            return before.model_copy(update={"threshold": 0.7})

    def slow(*_: object, **__: object) -> Found:
        other.set_policy(ADMIN, strict)
        return Found()

    monkeypatch.setattr("pipeline.gallery.service.calibrate", slow)
    service.calibrate(ADMIN, apply=True)
    assert service.policy(ADMIN) == strict.model_copy(update={"limits": Limits(margin=0.2, threshold=0.7)})


def test_a_policy_that_somebody_changes_at_the_same_moment_is_not_lost(service: GalleryService) -> None:
    asked: list[NamespacePolicy] = []

    def change(now: NamespacePolicy) -> NamespacePolicy:
        asked.append(now)
        if len(asked) == 1:
            service.set_policy(ADMIN, NamespacePolicy(purposes=("door",)))
        return now.model_copy(update={"keep_photos": True})

    service.desk.store.change_policy(change)
    assert service.policy(ADMIN) == NamespacePolicy(purposes=("door",), keep_photos=True)
    assert len(asked) == 2


@pytest.mark.parametrize("before", [None, 60.0])
def test_a_time_to_live_that_was_interrupted_is_set_by_asking_again(
    service: GalleryService, monkeypatch: pytest.MonkeyPatch, before: float | None
) -> None:
    own, store = NOW + timedelta(days=9), service.desk.store
    service.add_subject(OPERATOR, Subject(id="blue", expires=own))
    service.set_policy(ADMIN, NamespacePolicy(subject_ttl_s=before))
    once, policy = iter([store.change]), NamespacePolicy(subject_ttl_s=86400)

    def away(*given: Any) -> Any:
        for change in once:
            return change(*given)
        message = "away"
        raise AwayError(message)

    with monkeypatch.context() as patched:
        patched.setattr(GalleryStore, "change", lambda _, *given: away(*given))
        with pytest.raises(AwayError):
            service.set_policy(ADMIN, policy)
    service.set_policy(ADMIN, policy)
    dates = {each.id: (each.expires, each.created) for each in service.subjects(READER)}
    assert dates.pop("blue")[0] == own
    assert all(expires == created + timedelta(days=1) for expires, created in dates.values())
    version, kept = store.version(), store.link.client.hgetall(store.key("subject", "red"))
    service.set_policy(ADMIN, policy)
    assert (store.version(), store.link.client.hgetall(store.key("subject", "red"))) == (version, kept)


def test_who_is_enrolled_under_a_policy_that_is_over_gets_the_date_of_the_new_one(
    service: GalleryService, open_gallery: Callable[..., GalleryService]
) -> None:
    other = open_gallery(namespace=service.desk.store.namespace)
    file = MemoryGallery()
    file.enrol([Template("blue", likeness(BLUE), 1.0)])
    for name, add in {
        "eve": lambda: other.enrol(OPERATOR, "eve", picture(BLUE)),
        "zoe": lambda: other.add_subject(OPERATOR, Subject(id="zoe")),
        "blue": lambda: other.take_in(ADMIN, file),
    }.items():
        service.set_policy(ADMIN, NamespacePolicy())
        other.desk.store.policy(0)
        service.set_policy(ADMIN, NamespacePolicy(subject_ttl_s=60))
        add()
        found = service.subject(READER, name)
        assert found.expires == found.created + timedelta(seconds=60)


def test_limits_are_applied_only_where_the_gallery_bears_them(service: GalleryService) -> None:
    before = service.policy(ADMIN).limits
    with pytest.raises(RefusedError, match="no limits are suggested"):
        service.calibrate(ADMIN, apply=True)
    assert service.policy(ADMIN).limits == before
    assert service.calibrate(ADMIN).bare.suggestion is None


def test_one_of_two_who_are_one_may_restrict_what_is_done(service: GalleryService) -> None:
    service.change_subject(OPERATOR, "red", consent="withdrawn")
    with pytest.raises(RefusedError, match="withdrawn"):
        service.merge(OPERATOR, "red", "green")
    service.change_subject(OPERATOR, "red", consent="given", purposes=("payroll",), expires=NOW + timedelta(days=1))
    service.change_subject(OPERATOR, "green", purposes=("ads",))
    with pytest.raises(RefusedError, match="no purpose in common"):
        service.merge(OPERATOR, "red", "green")
    service.change_subject(OPERATOR, "green", purposes=())
    service.merge(OPERATOR, "red", "green")
    green = service.subject(READER, "green")
    assert (green.purposes, green.expires, green.consent) == (("payroll",), NOW + timedelta(days=1), "unstated")


def test_a_change_takes_place_as_a_whole_or_not_at_all(service: GalleryService) -> None:
    with pytest.raises(DuplicateError):
        service.change_subject(OPERATOR, "red", consent="withdrawn", id="green")
    assert service.subject(READER, "red").consent == "unstated"
    service.change_subject(OPERATOR, "red", consent="given", id="crimson")
    assert service.subject(READER, "crimson").consent == "given"
