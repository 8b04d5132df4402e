"""Whoever is forgotten is forgotten everywhere, once and for all; and a receipt says so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from pipeline.gallery.desk import JANITOR
from pipeline.gallery.errors import RefusedError, UnknownError
from pipeline.gallery.keys import KeysError
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, NamespacePolicy, Subject, UnknownTrack
from tests.support.gallery import away
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


def test_what_does_not_open_stands_in_the_way_of_no_erasure(service: GalleryService) -> None:
    store, tracks = service.desk.store, service.desk.tracks
    service.not_me(OPERATOR, "green", picture=picture(RED))
    tracks.keep(unknown("lobby:1:2", RED), 60)
    kept = [store.key("template", name) for name in store.template_ids()] + [store.key("unknown", "lobby:1:2")]
    for key in kept:
        store.link.client.hset(key, "vector", b"of a key that was lost")
    receipt = service.erase(OPERATOR, "red").receipt
    assert (receipt.removed.vectors, receipt.removed.photos) == (1, 1)
    assert set(store.owners(store.template_ids()).values()) == {"green"}
    assert store.link.client.exists(store.key("unknown", "lobby:1:2")), "keys that come late may open it"
    assert receipt.not_compared == 3  # what red looks like, who green is not, and the track
    (told,) = service.erasure(AUDITOR, receipt.id).found
    assert told.startswith("3 faces did not open with the keys and were not compared")


def test_what_does_not_open_is_not_told_where_there_was_nothing_to_compare(service: GalleryService) -> None:
    store = service.desk.store
    (name,) = store.template_ids("red")
    store.link.client.hset(store.key("template", name), "vector", b"of a key that was lost")
    receipt = service.erase(OPERATOR, "red").receipt
    assert (receipt.removed.vectors, receipt.not_compared) == (1, 0)
    assert service.erasure(AUDITOR, receipt.id).holds


def test_sightings_that_do_not_open_are_forgotten_with_the_others(service: GalleryService) -> None:
    tracks, store = service.desk.tracks, service.desk.store
    for name in ("lobby:1:1", "lobby:1:2"):
        tracks.note(seen("red", name), 60)
    tracks.note(seen("green", "lobby:1:3"), 60)
    store.link.client.set(next(store.link.client.scan_iter(store.key("sighting", "lobby:1:1*"))), b"of a lost key")
    receipt = service.erase(OPERATOR, "red").receipt
    assert receipt.removed.matches == 2
    assert service.erasure(AUDITOR, receipt.id).holds
    assert len(list(store.link.client.scan_iter(store.key("sighting", "*")))) == 1
    for kind in ("sightings", "at:lobby"):
        assert store.link.client.zcard(store.key(kind)) == 1


def test_what_cannot_be_finished_holds_up_nothing_else(service: GalleryService) -> None:
    store, tracks = service.desk.store, service.desk.tracks
    tracks.note(seen("green"), 60)
    store.link.client.set(next(store.link.client.scan_iter(store.key("sighting", "*"))), b"of a lost key")
    with pytest.raises(KeysError):
        service.rename(OPERATOR, "green", "lime")
    store.link.client.hset(store.key.erasures, "somebody", b"of a lost key")
    service.enrol(OPERATOR, "blue", picture(BLUE))
    with away(service, "forget"):
        service.erase(OPERATOR, "blue")
    service.change_subject(OPERATOR, "red", expires=NOW - timedelta(seconds=1))
    with pytest.raises(KeysError):
        service.forget_expired(JANITOR)
    assert [each.id for each in service.subjects(READER)] == ["lime"]
    assert store.erasing() == ["somebody"]
    assert service.take_in(ADMIN, service.export(ADMIN)) == 0
    with pytest.raises(KeysError):
        service.erase_all(ADMIN)
    assert store.count() == (0, 0)


def test_an_unknown_face_is_opened_once_however_many_are_forgotten_and_no_late_one_is_missed(
    service: GalleryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks, asked = service.desk.tracks, list[list[str]]()
    ask, forget = tracks.opened, tracks.forget
    tracks.keep(unknown("like red", RED), 60)
    tracks.keep(unknown("like nobody", BLUE), 60)

    def opened(names: list[str]) -> tuple[list[UnknownTrack], int]:
        asked.append(sorted(names))
        return ask(names)

    def meanwhile(subject: str) -> None:
        if subject == "green":
            tracks.keep(unknown("like nobody", RED), 60)
        forget(subject)

    monkeypatch.setattr(tracks, "opened", opened)
    monkeypatch.setattr(tracks, "forget", meanwhile)
    assert [said.receipt.removed.unknown_tracks for said in service.erase_all(ADMIN)] == [0, 2]
    assert asked == [["like nobody", "like red"], ["like nobody"]]
    assert ask() == ([], 0)


def test_a_face_that_says_who_somebody_is_not_goes_also_where_it_does_not_open_any_more(
    service: GalleryService,
) -> None:
    store = service.desk.store
    anchor = service.not_me(OPERATOR, "green", picture=picture(RED))
    with away(service, "drop_unknown"):
        service.erase(OPERATOR, "red")
    store.link.client.hset(store.key("template", anchor.id), "vector", b"of a lost key")
    assert service.erase(OPERATOR, "red").receipt.removed.negatives == 1
    assert store.negatives() == set()


def test_an_erasure_that_was_interrupted_is_finished_by_asking_again(service: GalleryService) -> None:
    service.desk.tracks.note(seen("red"), 60)
    with away(service, "drop_unknown"):
        service.erase(OPERATOR, "red")
    said = service.erase(OPERATOR, "red")
    removed = said.receipt.removed
    assert (removed.vectors, removed.photos, removed.matches) == (1, 1, 1)
    assert service.matches(READER).sightings == ()
    assert service.erasure(AUDITOR, said.receipt.id).holds
    with pytest.raises(UnknownError, match="no subject"):
        service.erase(OPERATOR, "red")


def test_nobody_is_given_a_name_before_the_erasure_of_whoever_had_it_is_finished(service: GalleryService) -> None:
    service.desk.tracks.note(seen("red"), 60)
    with away(service, "forget"):
        service.erase(OPERATOR, "red")
    taking = (
        lambda: service.enrol(OPERATOR, "red", picture(RED)),
        lambda: service.add_subject(OPERATOR, Subject(id="red")),
        lambda: service.rename(OPERATOR, "green", "red"),
    )
    for take in taking:
        with pytest.raises(RefusedError, match="erasure of who was 'red' is not finished"):
            take()
    assert [each.id for each in service.subjects(READER)] == ["green"]
    first = service.erase(OPERATOR, "red")
    service.enrol(OPERATOR, "red", picture(RED))
    second = service.erase(OPERATOR, "red")
    assert (first.receipt.removed.matches, second.receipt.removed.matches) == (1, 0)
    assert service.erasure(AUDITOR, second.receipt.id).holds


def test_an_erasure_that_nobody_asks_for_again_is_finished_all_the_same(service: GalleryService) -> None:
    store = service.desk.store
    service.desk.tracks.note(seen("red"), 60)
    service.change_subject(OPERATOR, "red", expires=NOW - timedelta(seconds=1))
    with away(service, "forget"):
        service.forget_expired(JANITOR)
    (said,) = service.forget_expired(JANITOR)
    assert (said.receipt.removed.vectors, said.receipt.removed.matches) == (1, 1)
    assert service.erasure(AUDITOR, said.receipt.id).holds
    assert sum(service.desk.tracks.left(said.receipt.subject)) == 0
    assert (store.erasing(), service.forget_expired(JANITOR)) == ([], [])


def test_an_erasure_has_one_receipt_whoever_finishes_it(
    service: GalleryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.desk.tracks.note(seen("red"), 60)
    drop, sooner = service.desk.tracks.drop_unknown, []

    def janitor_is_faster(names: list[str]) -> int:
        monkeypatch.setattr(service.desk.tracks, "drop_unknown", drop)
        sooner.extend(service.forget_expired(JANITOR))
        return drop(names)

    monkeypatch.setattr(service.desk.tracks, "drop_unknown", janitor_is_faster)
    said = service.erase(OPERATOR, "red")
    assert sooner == [said]
    assert (said.receipt.asked_by, said.receipt.removed.matches) == (OPERATOR.name, 1)


def test_who_is_added_again_is_not_erased_by_whoever_finishes_the_erasure_before(
    service: GalleryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    red = service.desk.store.keys.pseudonym(service.desk.store.namespace, "red")
    monkeypatch.setattr(service.desk.store, "erasing", lambda: [red])  # as it was a moment ago
    assert service.forget_expired(JANITOR) == []
    assert service.subject(READER, "red").id == "red"


def test_what_looks_like_a_template_that_came_during_the_erasure_goes_with_it(
    service: GalleryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks = service.desk.tracks
    tracks.keep(unknown("lobby:1:1", BLUE), 60)
    photos = tracks.photos

    def enrolled_meanwhile(names: list[str]) -> int:
        monkeypatch.setattr(tracks, "photos", photos)
        service.enrol(OPERATOR, "red", picture(BLUE))
        return photos(names)

    monkeypatch.setattr(tracks, "photos", enrolled_meanwhile)
    removed = service.erase(OPERATOR, "red").receipt.removed
    assert (removed.vectors, removed.unknown_tracks) == (2, 1)
    assert tracks.unknowns() == []


def test_a_face_that_says_who_somebody_is_not_goes_whatever_their_name_is_by_now(service: GalleryService) -> None:
    service.not_me(OPERATOR, "green", picture=picture(RED))
    with away(service, "drop_unknown"):
        service.erase(OPERATOR, "red")
    service.rename(OPERATOR, "green", "lime")
    assert service.erase(OPERATOR, "red").receipt.removed.negatives == 1
    assert service.desk.store.negatives() == set()


@pytest.mark.parametrize("shorter_s", [60, 3600])
def test_what_was_kept_while_it_was_kept_for_longer_goes_too(service: GalleryService, shorter_s: float) -> None:
    tracks, store, hour = service.desk.tracks, service.desk.store, timedelta(hours=1)
    tracks.note(seen("red").model_copy(update={"at": NOW - hour / 2}), 86400)
    tracks.explain("x1", "red", {"why": "eyes"}, 86400)
    tracks.note(seen("red", "lobby:1:2"), shorter_s)
    tracks.explain("x2", "red", {"why": "mouth"}, shorter_s)
    for kind in ("seen", "explained"):
        (key,) = store.link.client.scan_iter(store.key(kind, "*"))
        assert store.link.client.pttl(key) > 80_000_000
    service.erase(OPERATOR, "red")
    for kind in ("sighting", "explanation"):
        assert list(store.link.client.scan_iter(store.key(kind, "*"))) == []


def test_what_streams_say_of_whom_was_erased_is_not_kept(service: GalleryService) -> None:
    tracks, said = service.desk.tracks, service.erase(OPERATOR, "red")
    assert not tracks.note(seen("red"), 60)
    assert not tracks.explain("x1", "red", {}, 60)
    assert service.matches(READER).sightings == ()
    assert service.erasure(AUDITOR, said.receipt.id).found == ()


def test_everybody_can_be_forgotten_but_not_what_was_asked(service: GalleryService) -> None:
    with away(service, "drop_unknown"):
        service.erase(OPERATOR, "red")
    service.enrol(OPERATOR, "blue", picture(BLUE))
    assert len(service.erase_all(ADMIN)) == 3
    assert service.desk.store.count() == (0, 0)
    assert service.desk.store.erasing() == []
    assert service.verify_audit(ADMIN) == []
    assert len(service.audit(ADMIN)) >= 4


def test_everybody_is_forgotten_also_where_somebody_is_forgotten_meanwhile(
    service: GalleryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_every_subject", lambda: iter(("gone", "green", "red")))
    assert len(service.erase_all(ADMIN)) == 2
    assert service.desk.store.count() == (0, 0)


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
    assert service.change_subject(OPERATOR, "green", expires=None).expires == service.subject(READER, "green").expires
    green = service.subject(READER, "green")
    assert green.expires == green.created + timedelta(seconds=60), "nobody is taken out of it"
    service.set_policy(ADMIN, NamespacePolicy())
    assert [service.subject(READER, name).expires for name in ("red", "green")] == [None, None]


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
    tracks.note(seen("red").model_copy(update={"at": NOW - timedelta(hours=1)}), 86400)
    tracks.note(seen("green"), 60)  # while they are kept for less time: red's is in no list of all any more
    tracks.explain("x1", "red", {"why": "eyes"}, 60)
    with away(service, "drop_unknown"):
        service.erase(OPERATOR, "green")
    old, store.keys = store.keys, store.keys.rotated()
    assert service.reseal(ADMIN) == 1 + 1 + 4 + 1
    store.keys = store.keys.without(old.current)
    assert tracks.explanation("x1") == {"why": "eyes"}
    assert len(service.clusters(READER)) == 1
    assert [each.subject_id for each in service.matches(READER, subject="red").sightings] == ["red"]
    assert store.link.client.pttl(store.key("explanation", "x1")) > 0
    assert len(service.forget_expired(JANITOR)) == 1
