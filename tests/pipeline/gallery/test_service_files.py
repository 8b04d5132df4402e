"""A gallery goes to a file and comes from one: who of it, once, as a whole, and with what is to be kept."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.gallery.errors import ForbiddenError, InvalidError, RefusedError
from pipeline.gallery.memory import MemoryGallery
from pipeline.gallery.protocol import Template
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, NamespacePolicy, Subject
from tests.support.gallery import likeness
from tests.support.gallery_asked import ADMIN, BLUE, OPERATOR, READER, RED, picture


def test_a_gallery_goes_to_a_file_and_comes_back(service: GalleryService) -> None:
    service.not_me(OPERATOR, "green", picture=picture(BLUE))
    service.change_subject(OPERATOR, "green", consent="withdrawn")
    exported = service.export(ADMIN, photos=True)
    assert exported.subjects == ("red",)
    assert exported.photo("red") is not None
    service.erase(OPERATOR, "red")
    assert service.take_in(ADMIN, exported) == 1
    assert [found.subject_id for found in service.search(READER, picture(RED))] == ["red"]
    empty = MemoryGallery()
    empty.enrol([Template("red", likeness(RED), 1.0)])
    assert empty.subjects == ("red",)


def test_only_who_agreed_to_the_purpose_goes_to_a_file(service: GalleryService) -> None:
    service.change_subject(OPERATOR, "red", purposes=("access_control",))
    assert service.export(ADMIN).subjects == ("green",)
    assert service.export(Caller("a", "admin", "research")).subjects == ("green",)
    assert service.export(Caller("a", "admin", "access_control")).subjects == ("green", "red")


def test_a_file_that_is_taken_in_again_adds_nothing(service: GalleryService) -> None:
    file = service.export(ADMIN)
    file.enrol([Template("red", likeness(BLUE), 1.0), Template("blue", likeness(BLUE), 1.0)])
    assert service.take_in(ADMIN, file) == 2
    before = service.desk.store.version(), service.desk.store.count()
    assert service.take_in(ADMIN, file) == 0
    assert (service.desk.store.version(), service.desk.store.count()) == before == (4, (3, 4))


@pytest.mark.parametrize("wanted", [False, True])
def test_photos_of_a_file_are_kept_where_the_policy_says_so(service: GalleryService, *, wanted: bool) -> None:
    service.set_policy(ADMIN, NamespacePolicy(keep_photos=wanted))
    file = MemoryGallery()
    file.enrol([Template("blue", likeness(BLUE), 1.0, photo=np.zeros((128, 128, 3), np.uint8))])
    service.take_in(ADMIN, file)
    (taken,) = service.templates(READER, "blue")
    assert (service.desk.store.photo(taken.id) is not None) == wanted


def test_a_file_of_another_net_is_not_taken_in(service: GalleryService) -> None:
    before = service.desk.store.version()
    other = MemoryGallery(model="other")
    other.enrol([Template("blue", likeness(BLUE), 1.0, model="other")])
    with pytest.raises(InvalidError, match="'other' cannot be taken in, this gallery's are of 'mobilefacenet'"):
        service.take_in(ADMIN, other)
    assert service.desk.store.version() == before


@pytest.mark.parametrize(
    ("last", "error"), [("withdrawn", ForbiddenError), ("no/name", InvalidError), ("erased", RefusedError)]
)
def test_a_file_is_taken_in_as_a_whole_or_not_at_all(
    service: GalleryService, last: str, error: type[Exception]
) -> None:
    service.add_subject(OPERATOR, Subject(id="withdrawn", consent="withdrawn"))
    service.add_subject(OPERATOR, Subject(id="erased"))
    service.desk.store.remove_subject("erased", lambda _: {"receipt": "not yet"})
    before, file = service.desk.store.version(), MemoryGallery()
    file.enrol([Template("blue", likeness(BLUE), 1.0), Template(last, likeness(RED), 1.0)])
    with pytest.raises(error):
        service.take_in(ADMIN, file)
    assert service.desk.store.version() == before
