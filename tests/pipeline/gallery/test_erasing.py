"""Whoever is forgotten is forgotten everywhere, once and for all; and a receipt says so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from pipeline.gallery.errors import (
    AwayError,
    UnknownError,
)
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, NamespacePolicy, Subject
from tests.support.gallery_asked import (
    ADMIN,
    AUDITOR,
    BLUE,
    NOW,
    OPERATOR,
    READER,
    RED,
    picture,
    seen,
    unknown,
)


def test_an_erasure_counts_what_went_and_is_verified_by_looking(service: GalleryService) -> None:
    tracks = service.desk.tracks
    tracks.note(seen("red"), 60)
    tracks.explain("x1", "red", {"why": "eyes"}, 60)
    service.not_me(OPERATOR, "green", picture=picture(RED))
    tracks.keep(unknown("lobby:1:2", RED, photo=True), 60)
    tracks.keep(unknown("lobby:1:3", BLUE), 60)
    said = service.erase(OPERATOR, "red")
    removed = said.receipt.removed
    assert (removed.vectors, removed.photos, removed.matches, removed.explanations) == (1, 1, 1, 1)
    assert (removed.unknown_tracks, removed.crops, removed.index_entries) == (1, 1, 1)
    assert removed.negatives == 1  # the face of the one is what the other is not
    assert all(word.confirmed for word in said.receipt.matchers)
    assert [track.id for track in tracks.unknowns()] == ["lobby:1:3"]
    assert '"red"' not in said.model_dump_json()
    with pytest.raises(UnknownError, match="no explanation"):
        tracks.explanation("x1")
    assert service.erasure(AUDITOR, said.receipt.id).holds
    service.enrol(OPERATOR, "red", picture(RED))
    again = service.erasure(AUDITOR, said.receipt.id)
    assert not again.holds
    assert "added again" in again.found[0]
    with pytest.raises(UnknownError, match="no receipt"):
        service.erasure(AUDITOR, "0" * 32)


def test_an_erasure_that_was_interrupted_is_finished_by_asking_again(
    service: GalleryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.desk.tracks.note(seen("red"), 60)

    def away(names: object) -> int:
        message = "Redis is away"
        raise AwayError(message)

    with monkeypatch.context() as patched:
        patched.setattr(service.desk.tracks, "drop_unknown", away)
        with pytest.raises(AwayError):
            service.erase(OPERATOR, "red")
    said = service.erase(OPERATOR, "red")
    assert (said.receipt.removed.vectors, said.receipt.removed.photos) == (1, 1)
    assert service.matches(READER).sightings == ()
    assert service.erasure(AUDITOR, said.receipt.id).holds
    with pytest.raises(UnknownError, match="no subject"):
        service.erase(OPERATOR, "red")


def test_what_streams_say_of_whom_was_erased_is_not_kept(service: GalleryService) -> None:
    tracks, said = service.desk.tracks, service.erase(OPERATOR, "red")
    assert not tracks.note(seen("red"), 60)
    assert not tracks.explain("x1", "red", {}, 60)
    assert service.matches(READER).sightings == ()
    assert service.erasure(AUDITOR, said.receipt.id).found == ()


def test_everybody_can_be_forgotten_but_not_what_was_asked(service: GalleryService) -> None:
    assert len(service.erase_all(ADMIN)) == 2
    assert service.desk.store.count() == (0, 0)
    assert service.verify_audit(ADMIN) == []
    assert len(service.audit(ADMIN)) >= 4


def test_whose_date_has_passed_is_forgotten(service: GalleryService) -> None:
    service.change_subject(OPERATOR, "red", expires=NOW - timedelta(seconds=1))
    assert [found.decision for found in service.search(READER, picture(RED))] == ["unknown"]
    (said,) = service.forget_expired(Caller("expiry", "operator"))
    assert said.receipt.removed.vectors == 1
    assert [each.id for each in service.subjects(READER)] == ["green"]
    service.set_policy(ADMIN, NamespacePolicy(subject_ttl_s=60))
    assert service.add_subject(OPERATOR, Subject(id="late")).expires is not None


def test_a_new_time_after_which_subjects_are_forgotten_holds_for_all(service: GalleryService) -> None:
    own = NOW + timedelta(days=9)
    service.change_subject(OPERATOR, "green", expires=own)
    service.set_policy(ADMIN, NamespacePolicy(subject_ttl_s=60))
    red = service.subject(READER, "red")
    assert red.expires == red.created + timedelta(seconds=60)
    assert service.subject(READER, "green").expires == own
    service.set_policy(ADMIN, NamespacePolicy())
    assert service.subject(READER, "red").expires is None


def test_a_matcher_that_is_silent_has_not_confirmed(service: GalleryService) -> None:
    store, told = service.desk.store, {"version": 1, "at": time.time() - 60, "rows": 2}
    store.link.client.hset(store.key("matchers"), "cut off", json.dumps(told))
    words = {word.name: word.confirmed for word in service.erase(OPERATOR, "red").receipt.matchers}
    assert words.pop("cut off") is False
    assert all(words.values())


def test_an_unknown_face_that_expires_while_it_is_ignored_harms_nobody(service: GalleryService) -> None:
    service.desk.tracks.keep(unknown("lobby:1:1", BLUE), 60)
    service.desk.store.link.client.delete(service.desk.store.key("unknown", "lobby:1:1"))
    service.desk.tracks.ignore(["lobby:1:1"])
    assert service.clusters(READER) == []
    assert service.erase(OPERATOR, "red").receipt.removed.vectors == 1


def test_after_rotation_nothing_of_a_stream_needs_the_old_key(
    service: GalleryService, open_gallery: Callable[..., GalleryService]
) -> None:
    tracks, store = service.desk.tracks, service.desk.store
    tracks.keep(unknown("lobby:1:1", BLUE, photo=True), 60)
    tracks.note(seen("red"), 60)
    tracks.explain("x1", "red", {"why": "eyes"}, 60)
    old, store.keys = store.keys, store.keys.rotated()
    assert service.reseal(ADMIN) == 2 + 1 + 4
    store.keys = store.keys.without(old.current)
    assert tracks.explanation("x1") == {"why": "eyes"}
    assert len(service.clusters(READER)) == 1
    assert [each.subject_id for each in service.matches(READER).sightings] == ["red"]
    assert store.link.client.pttl(store.key("explanation", "x1")) > 0
