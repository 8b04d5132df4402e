"""What follows a gallery in Redis goes on, whatever does not open and whenever a change comes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pipeline.edges.redis_gallery import RedisFeed
from pipeline.edges.redis_store import GalleryStore
from pipeline.gallery.keys import Keys, KeysError
from pipeline.gallery.matcher import Changes, Mark, Matcher
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Subject
from tests.support.gallery import likeness

OLD = Keys.new()
NEW = OLD.rotated()
RED, GREEN, BLUE = likeness((200, 20, 30)), likeness((30, 200, 40)), likeness((20, 40, 200))
Open = Callable[..., GalleryStore]


@pytest.fixture
def open_store(redis_url: str) -> Iterator[Open]:
    """``open_store(keys)`` opens one namespace that nobody else has."""
    opened: list[GalleryStore] = []
    namespace = f"t{uuid4().hex[:10]}"

    def make(keys: Keys = OLD) -> GalleryStore:
        opened.append(GalleryStore(SecretStr(redis_url), keys, namespace))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def enrol(store: GalleryStore, name: str, vector: Any, **more: Any) -> int:
    return store.enrol(Subject(id=name), [Template(name, vector, 1.0, id=f"of {name}", **more)])


def who(matcher: Matcher, vector: Any) -> str:
    (answer,) = matcher.match(vector[None], [False])
    return answer.best[0].subject_id if answer.best and answer.best[0].score > 0.9 else ""


def told(store: GalleryStore) -> dict[str, Any]:
    """What the matcher says of itself."""
    (text,) = store.link.client.hvals(store.key("matchers"))
    said: dict[str, Any] = json.loads(text)
    return said


def soon(ask: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not ask():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def test_what_does_not_open_stands_in_the_way_of_no_erasure(open_store: Open, caplog: pytest.LogCaptureFixture) -> None:
    old, new = open_store(OLD), open_store(NEW)
    enrol(old, "ada", RED)
    with closing(Matcher(RedisFeed(open_store(OLD)))) as matcher, caplog.at_level(logging.WARNING):
        enrol(new, "bob", GREEN)
        new.remove_subject("ada")
        assert matcher.wait_for(new.version(), 3)
        assert [who(matcher, each) for each in (RED, GREEN)] == ["", ""]
        soon(lambda: told(new)["version"] == new.version())
        assert (told(new)["rows"], told(new)["shut"]) == (0, 1)
        enrol(old, "eve", BLUE)
        assert matcher.wait_for(old.version(), 3)
        assert (who(matcher, BLUE), matcher.stale_s) == ("eve", 0)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "1 templates" in line
    assert "give this process the keys" in line


def test_what_is_held_and_does_not_open_any_more_is_forgotten(open_store: Open) -> None:
    store = open_store(OLD)
    enrol(store, "ada", RED)
    with closing(Matcher(RedisFeed(open_store(OLD)))) as matcher:
        store.link.client.hset(store.key("template", "of ada"), "vector", b"damaged")
        version = store.step().tell("put", "of ada").done() or 0
        assert matcher.wait_for(version, 3)
        assert (who(matcher, RED), len(matcher)) == ("", 0)


@pytest.mark.parametrize("when", ["while it runs", "before it begins"])
def test_keys_that_come_late_open_what_they_did_not(open_store: Open, tmp_path: Path, when: str) -> None:
    file = tmp_path / "keys.json"
    OLD.write(file)
    enrol(open_store(OLD), "ada", RED)
    early = when == "before it begins"
    if early:
        enrol(open_store(NEW), "bob", GREEN)
    with closing(Matcher(RedisFeed(open_store(Keys.read(file))))) as matcher:
        version = 2 if early else enrol(open_store(NEW), "bob", GREEN)
        assert matcher.wait_for(version, 3)
        assert [who(matcher, each) for each in (RED, GREEN)] == ["ada", ""]
        NEW.replace(file)
        soon(lambda: who(matcher, GREEN) == "bob")
        soon(lambda: told(open_store())["shut"] == 0)
        assert told(open_store())["rows"] == 2


def test_who_begins_with_other_keys_is_told_so(open_store: Open) -> None:
    enrol(open_store(OLD), "ada", RED)
    with closing(RedisFeed(open_store(Keys.new()))) as feed, pytest.raises(KeysError, match=r"none of the templates"):
        Matcher(feed)


def test_a_gallery_that_is_read_anew_need_not_open(open_store: Open) -> None:
    old, new = open_store(OLD), open_store(NEW)
    enrol(old, "ada", RED)
    with closing(Matcher(RedisFeed(open_store(OLD)))) as matcher:
        new.remove_subject("ada")
        enrol(new, "bob", GREEN)
        new.link.client.set(new.key("birth"), "another")
        soon(lambda: len(matcher) == 0)


@pytest.fixture
def feed(open_store: Open) -> Iterator[RedisFeed]:
    with closing(RedisFeed(open_store())) as made:
        yield made


def meanwhile(feed: RedisFeed, monkeypatch: pytest.MonkeyPatch, change: Callable[[], Any]) -> Mark:
    """The mark of a feed on which something changes after it has read the log in vain."""
    mark, ask = feed.snapshot()[0], feed._mark

    def late() -> Mark:
        change()
        return ask()

    monkeypatch.setattr(feed, "_mark", late)
    return mark


def test_a_change_that_comes_after_the_log_was_read_is_told(
    open_store: Open, feed: RedisFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = meanwhile(feed, monkeypatch, lambda: enrol(open_store(), "ada", RED))
    found = feed.changes(mark, 0.01)
    assert found is not None
    assert ([row.subject_id for row in found.rows], found.mark.version) == (["ada"], 1)


@pytest.mark.parametrize("how", ["trimmed", "gone back", "another life"])
def test_what_the_log_cannot_tell_is_read_anew(
    open_store: Open, feed: RedisFeed, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    store = open_store()
    enrol(store, "ada", RED)

    def happen() -> None:
        enrol(store, "bob", GREEN)
        if how == "trimmed":
            store.link.client.xtrim(store.key.log, maxlen=0, approximate=False)
        elif how == "gone back":
            store.link.client.delete(store.key.log)
            store.link.client.set(store.key.version, 0)
        else:
            store.link.client.set(store.key("birth"), "another")

    assert feed.changes(meanwhile(feed, monkeypatch, happen), 0.01) is None


@pytest.mark.parametrize("at", range(4))
def test_a_restart_in_the_middle_of_a_look_hides_no_change(
    open_store: Open, feed: RedisFeed, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    store, client, calls = open_store(), feed._store.link.client, count()
    enrol(store, "ada", RED)
    ask = client.execute_command

    def restarted(*words: Any, **more: Any) -> Any:
        if next(calls) == at:  # the last change was not saved
            store.link.client.delete(store.key.log, store.key.version)
            store.link.client.set(store.key("birth"), "another")
        return ask(*words, **more)

    monkeypatch.setattr(client, "execute_command", restarted)
    mark, _ = feed.snapshot()
    enrol(store, "bob", GREEN)
    found = feed.changes(mark, 0.01)
    assert found is None or [row.subject_id for row in found.rows] == ["bob"]


def test_where_nothing_changes_nothing_is_told(feed: RedisFeed) -> None:
    mark, _ = feed.snapshot()
    assert feed.changes(mark, 0.01) == Changes(mark)
