"""What streams leave in Redis for a while: nothing of who was forgotten is left in any list, and rotation goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pipeline.edges.redis_store import GalleryStore
from pipeline.edges.redis_tracks import TrackStore
from pipeline.gallery.keys import Keys
from pipeline.gallery.subjects import Subject
from tests.support.gallery_asked import RED, seen, unknown

KEYS = Keys.new()


@pytest.fixture
def store(redis_url: str) -> Iterator[GalleryStore]:
    """A gallery that knows two people."""
    with closing(GalleryStore(SecretStr(redis_url), KEYS, f"t{uuid4().hex[:8]}")) as opened:
        for name in ("ada", "bob"):
            opened.add_subject(Subject(id=name))
        yield opened


@pytest.fixture
def tracks(store: GalleryStore) -> TrackStore:
    return TrackStore(store)


def test_a_sighting_whose_time_is_over_is_forgotten_in_lists_that_others_keep_alive(
    store: GalleryStore, tracks: TrackStore
) -> None:
    ada = store.pseudonym("ada")
    tracks.note(seen("ada"), 60)
    tracks.note(seen("bob", "lobby:1:2"), 60)
    store.link.client.delete(store.key("seen", ada), store.key("sighting", f"lobby:1:1|{ada}"))  # as Redis does then
    assert tracks.left(ada) == (1, 0)
    tracks.forget("ada")
    assert tracks.left(ada) == (0, 0)
    for kind in ("sightings", "at:lobby"):
        (name,) = store.link.client.zrange(store.key(kind), 0, -1)
        assert name.decode().startswith("lobby:1:2|")


def test_what_does_not_open_holds_up_nothing_else_that_is_sealed_anew(store: GalleryStore, tracks: TrackStore) -> None:
    for number in range(3):
        tracks.keep(unknown(f"lobby:1:{number}", RED), 60)
        tracks.note(seen("ada", f"lobby:1:{number}"), 60)
    strange = Keys.new().seal(b"", b"")
    store.link.client.hset(store.key("unknown", "lobby:1:0"), "vector", strange)
    store.link.client.set(next(store.link.client.scan_iter(store.key("sighting", "*"))), strange)
    store.keys = KEYS.rotated()
    assert (tracks.reseal(), tracks.reseal()) == (4, 0)
