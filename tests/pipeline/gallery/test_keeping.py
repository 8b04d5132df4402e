"""Who is given another name, or is found to be somebody else, keeps what was seen of them; nobody else gets it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.gallery.desk import JANITOR
from pipeline.gallery.errors import InvalidError
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Subject
from tests.support.gallery import away
from tests.support.gallery_asked import AUDITOR, BLUE, OPERATOR, READER, picture, seen, unknown


def who(service: GalleryService, subject: str = "") -> dict[str, str]:
    """Whom each track shows."""
    return {each.id: each.subject_id for each in service.matches(READER, subject=subject).sightings}


def test_what_was_seen_follows_two_names_one_of_which_was_interrupted(service: GalleryService) -> None:
    service.desk.tracks.note(seen("red"), 60)
    with away(service, "rename"):
        service.rename(OPERATOR, "red", "ruby")
    service.rename(OPERATOR, "ruby", "rose")
    assert who(service, "rose") == {"lobby:1:1": "rose"}
    assert service.desk.store.renamed() == {}


def test_who_is_erased_is_erased_under_all_names_they_had(service: GalleryService) -> None:
    service.desk.tracks.note(seen("red"), 60)
    service.desk.tracks.explain("x1", "red", {"why": "eyes"}, 60)
    with away(service, "rename"):
        service.rename(OPERATOR, "red", "ruby")
    with away(service, "rename"):
        service.merge(OPERATOR, "ruby", "green")
    with away(service, "rename"):
        service.rename(OPERATOR, "green", "rose")
    said = service.erase(OPERATOR, "rose")
    assert (said.receipt.removed.matches, said.receipt.removed.explanations) == (1, 1)
    store = service.desk.store
    for kind in ("sighting", "seen", "at", "explanation", "explained"):
        assert list(store.link.client.scan_iter(store.key(kind, "*"))) == []
    assert service.erasure(AUDITOR, said.receipt.id).holds
    assert store.renamed() == {}


@pytest.mark.parametrize("taken", ["enrolled", "added", "renamed"])
def test_who_is_given_an_old_name_has_nothing_of_whoever_had_it(service: GalleryService, taken: str) -> None:
    service.desk.tracks.note(seen("red"), 60)
    with away(service, "rename"):
        service.rename(OPERATOR, "red", "ruby")
    if taken == "enrolled":
        service.enrol(OPERATOR, "red", picture(BLUE))
    elif taken == "added":
        service.add_subject(OPERATOR, Subject(id="red"))
    else:
        service.rename(OPERATOR, "green", "red")
    service.desk.tracks.note(seen("red", "lobby:1:2"), 60)
    service.change_subject(OPERATOR, "ruby", metadata={"floor": 2})
    assert who(service) == {"lobby:1:1": "ruby", "lobby:1:2": "red"}
    service.erase(OPERATOR, "ruby")
    assert who(service) == {"lobby:1:2": "red"}


def test_who_gets_their_old_name_back_keeps_what_was_seen_under_both(service: GalleryService) -> None:
    service.desk.tracks.note(seen("red"), 60)
    with away(service, "rename"):
        service.rename(OPERATOR, "red", "ruby")
    service.desk.tracks.note(seen("ruby", "lobby:1:2"), 60)
    service.rename(OPERATOR, "ruby", "red")
    assert who(service) == {"lobby:1:1": "red", "lobby:1:2": "red"}


def test_a_renaming_that_nobody_asks_for_again_is_finished_all_the_same(service: GalleryService) -> None:
    service.desk.tracks.note(seen("red"), 60)
    with away(service, "rename"):
        service.rename(OPERATOR, "red", "ruby")
    assert service.forget_expired(JANITOR) == []
    assert who(service) == {"lobby:1:1": "ruby"}
    assert service.desk.store.renamed() == {}


def test_what_was_seen_does_not_go_to_a_name_that_is_nobodys_by_now(service: GalleryService) -> None:
    tracks, store = service.desk.tracks, service.desk.store
    tracks.note(seen("red"), 60)
    tracks.explain("x1", "red", {"why": "eyes"}, 60)
    with away(service, "rename"):
        service.rename(OPERATOR, "red", "ruby")
    service.desk.store.change("ruby", lambda before: before.model_copy(update={"id": "rose"}))
    assert not tracks.rename("red", "ruby", 60)  # whoever was slow
    assert sum(tracks.left(store.keys.pseudonym(store.namespace, "ruby"))) == 0
    assert service.forget_expired(JANITOR) == []
    assert tracks.left(store.keys.pseudonym(store.namespace, "rose")) == (1, 1)


def test_a_photo_that_is_enrolled_again_opens_no_other_template(service: GalleryService) -> None:
    store, photo = service.desk.store, "f" * 64
    (first,) = store.template_ids("red")
    again = service.enrol(OPERATOR, "red", picture(BLUE), source_sha256=photo)
    store.link.client.hset(store.key("template", first), "vector", b"of a key that was lost")
    assert service.enrol(OPERATOR, "red", picture(BLUE), source_sha256=photo).id == again.id
    service.enrol(OPERATOR, "red", picture(BLUE), source_sha256="e" * 64)
    assert len(store.template_ids("red")) == 3


def test_an_unknown_track_of_another_net_shows_nobody_here(service: GalleryService) -> None:
    service.desk.tracks.keep(replace(unknown("lobby:1:1", BLUE), model="other"), 60)
    with pytest.raises(InvalidError, match="vectors of 'other' cannot be compared here"):
        service.not_me(OPERATOR, "red", track_id="lobby:1:1")
    assert service.desk.store.negatives() == set()
