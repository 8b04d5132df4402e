"""Streams leave sightings, reasons and unknown faces in the gallery; where Redis is away they do not wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from pydantic import SecretStr

from pipeline.edges import to_gallery
from pipeline.edges.redis_store import GalleryStore
from pipeline.edges.redis_tracks import TrackStore
from pipeline.edges.to_gallery import GallerySink
from pipeline.gallery.keys import FILE_VARIABLE, Keys
from pipeline.gallery.subjects import NamespacePolicy, Subject
from pipeline.packets import Embedding, FeltFace, Identity, Quality
from pipeline.servers.redis_server import RedisServer
from pipeline.testing import make_grown

Opened = tuple[str, TrackStore, GalleryStore]
GOOD = Quality(0.8, 0.1, 0.0, 120.0)


@pytest.fixture
def opened(mortal_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """How a graph names a new gallery, and what is in it."""
    Keys.new().write(tmp_path / "keys.json")
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "keys.json"))
    monkeypatch.setenv("REDIS_URL", mortal_redis.url)
    namespace = f"t{uuid4().hex[:8]}"
    with closing(GalleryStore(SecretStr(mortal_redis.url), Keys.from_environment(), namespace)) as store:
        for name in ("ada", "bob"):
            store.add_subject(Subject(id=name))
        yield f"redis:{namespace}", TrackStore(store), store


def face(track: str, decision: str, subject: str = "", quality: float = 0.8, first: bool = False) -> FeltFace:
    drawn = np.random.default_rng(len(track)).normal(size=512)
    vector = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return make_grown(
        FeltFace,
        track_id=track,
        quality=replace(GOOD, score=quality),
        embedding=Embedding(vector, (), "main", 1),
        identity=Identity(decision, subject, 0.7, 0.4, 0.2),  # type: ignore[arg-type]
        first_match=first,
    )


def soon(ask: Callable[[], object], limit_s: float = 8) -> None:
    until = time.monotonic() + limit_s
    while not ask():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def test_who_is_seen_and_who_is_unknown_is_kept(opened: Opened) -> None:
    at, tracks, store = opened
    store.set_policy(NamespacePolicy(keep_photos=True))
    with closing(GallerySink(at)) as sink:
        sink.write([face("a", "known", "ada", first=True), face("a", "known", "ada"), face("b", "unknown")])
        soon(tracks.unknowns)
    (sighting,), _ = tracks.sightings("ada", "", 0, 1e12, "", 10)
    assert (sighting.id, sighting.subject_id, sighting.score) == ("a", "ada", 0.7)
    (track,) = tracks.unknowns()
    assert (track.id, track.quality) == ("b", 0.8)
    photo = tracks.photo("b")
    assert photo is not None
    assert photo.shape == (128, 128, 3)
    assert (tracks.photos(["b", "c"]), tracks.unknowns(["c"])) == (1, [])


def test_what_is_kept_has_the_time_of_its_picture_and_never_one_to_come(opened: Opened) -> None:
    at, tracks, _ = opened
    begun, ahead = datetime.now(UTC), time.time_ns() + 10**15
    taken = begun - timedelta(hours=1)
    with closing(GallerySink(at)) as sink:
        told = {"a": taken.timestamp() * 1e9, "b": ahead, "c": 0}
        sink.write([replace(face(t, "known", "ada", first=True), capture_ns=int(ns)) for t, ns in told.items()])
        sink.write([replace(face("d", "unknown"), capture_ns=ahead)])
        soon(tracks.unknowns)
    assert begun < tracks.unknowns()[0].seen < datetime.now(UTC)
    found = {each.id: each.at for each in tracks.sightings("ada", "", 0, 1e12, "", 10)[0]}
    assert abs(found["a"] - taken) < timedelta(milliseconds=1)
    assert all(begun < found[name] < datetime.now(UTC) for name in "bc")


def test_only_the_best_face_of_a_track_is_kept_and_none_once_somebody_is_known(opened: Opened) -> None:
    at, tracks, _ = opened
    with closing(GallerySink(at)) as sink:
        sink.write([face("b", "unknown", quality=0.5), face("b", "unknown", quality=0.9), face("b", "unknown")])
        soon(lambda: [track.quality for track in tracks.unknowns()] == [0.9])
        assert tracks.photo("b") is None  # nobody asked for photos
        sink.write([face("b", "known", "bob", first=True)])
        soon(lambda: not tracks.unknowns())


def test_what_is_written_again_is_there_once(opened: Opened) -> None:
    at, tracks, _ = opened
    for _ in range(2):
        with closing(GallerySink(at)) as sink:
            sink.write([face("a", "known", "ada", first=True), face("b", "unknown")])
            soon(tracks.unknowns)
    assert len(tracks.sightings("", "", 0, 1e12, "", 10)[0]) == 1
    assert len(tracks.unknowns()) == 1


def test_while_redis_is_away_a_stream_does_not_wait_and_what_is_too_much_is_counted(
    opened: Opened, mortal_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, tracks, _ = opened
    monkeypatch.setattr(to_gallery, "MOST_WAITING", 5)
    with closing(GallerySink(at)) as sink:
        mortal_redis.kill()
        began = time.monotonic()
        for number in range(20):
            sink.write([face(f"t{number:02}", "known", "ada", first=True)])
        assert time.monotonic() - began < 0.5
        assert 14 <= sink.dropped <= 15
        mortal_redis.start()
        soon(lambda: len(tracks.sightings("ada", "", 0, 1e12, "", 10)[0]) >= 5)
        newest = {sighting.id for sighting in tracks.sightings("ada", "", 0, 1e12, "", 10)[0]}
        assert {"t19", "t18", "t17", "t16"} <= newest


def test_a_gallery_in_a_file_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with closing(GallerySink("gallery.npz")) as sink:
        sink.write([face("a", "known", "ada", first=True)])
        assert sink.dropped == 0
