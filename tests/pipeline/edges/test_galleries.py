"""All namespaces of one Redis: opened once each, and those whose date has passed forgotten by whoever serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pipeline.edges.galleries import Galleries
from pipeline.gallery.desk import JANITOR
from pipeline.gallery.errors import GalleryError
from pipeline.gallery.keys import Keys
from pipeline.gallery.receipts import SignedReceipt
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, NamespacePolicy, Subject
from tests.support.gallery import DrawnFaces, away

ADMIN = Caller("root", "admin", "access")
OFTEN_S, SOON_S = 0.05, 10.0
Opener = Callable[..., Galleries]


@pytest.fixture
def galleries(redis_url: str) -> Iterator[Opener]:
    """``galleries()`` are those of one Redis with the same keys; closed in the end."""
    made: list[Galleries] = []
    keys = Keys.new()

    def make(url: str = redis_url) -> Galleries:
        made.append(Galleries(SecretStr(url), keys, DrawnFaces()))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def people(service: GalleryService, *names: str, days: float) -> None:
    for name in names:
        service.add_subject(ADMIN, Subject(id=name, expires=datetime.now(UTC) + timedelta(days=days)))


def left(service: GalleryService, count: int) -> list[str]:
    """Who is there, once as many as expected are, or time is over."""
    until = time.monotonic() + SOON_S
    while len(found := service.desk.store.subjects()) > count and time.monotonic() < until:
        time.sleep(OFTEN_S)
    return [subject.id for subject in found]


def deleted(service: GalleryService, *names: str) -> bool:
    """Whether the log says so of all of these, at last: a line follows its deed."""
    store, until = service.desk.store, time.monotonic() + SOON_S
    wanted = {store.keys.pseudonym(store.namespace, name) for name in names}
    while time.monotonic() < until:
        found = [entry for entry in service.desk.log.read(0, 1000, action="delete") if entry.outcome == "done"]
        if {entry.subject for entry in found} == wanted:
            return True
        time.sleep(OFTEN_S)
    return False


def test_whoever_has_expired_is_forgotten_also_where_nobody_asks_and_for_whatever_purpose(galleries: Opener) -> None:
    names = [f"t{uuid4().hex[:8]}" for _ in range(2)]
    services = [galleries().of(name) for name in names]
    for service in services:
        service.set_policy(ADMIN, NamespacePolicy(purposes=("access",)))
        people(service, "ada", "bob", days=-1)
        people(service, "eve", days=1)
    galleries().sweep(OFTEN_S)
    assert [left(service, 1) for service in services] == [["eve"], ["eve"]]
    assert deleted(services[0], "ada", "bob")
    told = [entry for entry in services[0].desk.log.read(0) if entry.actor == JANITOR.name]
    assert {(entry.outcome, entry.role) for entry in told} == {("done", "internal")}


def test_several_janitors_do_not_hurt(galleries: Opener) -> None:
    service = galleries().of(f"t{uuid4().hex[:8]}")
    names = [f"p{number}" for number in range(20)]
    people(service, *names, days=-1)
    for _ in range(3):
        galleries().sweep(OFTEN_S)
    assert left(service, 0) == []
    assert deleted(service, *names)


def test_closing_does_not_wait_until_everybody_who_has_expired_is_forgotten(
    galleries: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, janitor, erase = galleries().of(f"t{uuid4().hex[:8]}"), galleries(), GalleryService._erase
    people(service, "ada", "bob", "cat", days=-1)

    def closing(*asked: Any) -> SignedReceipt:
        janitor._over.set()
        return erase(*asked)

    monkeypatch.setattr(GalleryService, "_erase", closing)
    janitor.sweep(OFTEN_S)
    assert left(service, 2) == ["bob", "cat"]
    janitor._janitor.join(SOON_S)
    assert left(service, 2) == ["bob", "cat"]


def test_an_erasure_that_was_interrupted_is_finished_by_whoever_serves(galleries: Opener) -> None:
    service = galleries().of(f"t{uuid4().hex[:8]}")
    people(service, "ada", days=1)
    with away(service, "forget"):
        service.erase(ADMIN, "ada")
    assert len(service.desk.store.erasing()) == 1
    galleries().sweep(OFTEN_S)
    assert deleted(service, "ada")
    assert service.desk.store.erasing() == []


def test_a_note_that_does_not_open_keeps_nobody_waiting(galleries: Opener) -> None:
    service = galleries().of(f"t{uuid4().hex[:8]}")
    store = service.desk.store
    store.link.client.hset(store.key.erasures, "somebody", b"of keys that come later")
    people(service, "ada", days=-1)
    galleries().sweep(OFTEN_S)
    assert deleted(service, "ada")
    assert store.erasing() == ["somebody"]


def test_one_namespace_that_does_not_open_keeps_nobody_waiting(
    galleries: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, forgotten = galleries(), []
    monkeypatch.setattr(here, "_namespaces", lambda link: iter(("broken", "well")))
    monkeypatch.setattr("pipeline.edges.galleries.GalleryStore.expired", lambda self, now: ["ada"])

    def opened(self: Galleries, namespace: str, later: bool) -> closing:  # type: ignore[type-arg]
        if namespace == "broken":
            message = "it does not open"
            raise GalleryError(message)
        forgotten.append(namespace)
        raise ValueError

    monkeypatch.setattr(Galleries, "_open", opened)
    here.sweep(OFTEN_S)
    until = time.monotonic() + SOON_S
    while len(forgotten) < 2 and time.monotonic() < until:
        time.sleep(OFTEN_S)
    assert forgotten[:2] == ["well", "well"]


def test_who_asks_for_one_namespace_does_not_wait_for_another(
    galleries: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, go_on, opened = galleries(), threading.Event(), Galleries._open
    calls = []

    def open_slowly(self: Galleries, namespace: str, *, later: bool) -> GalleryService:
        calls.append(namespace)
        if namespace == "slow":
            go_on.wait(SOON_S)
        return opened(self, f"t{uuid4().hex[:8]}", later=later)

    monkeypatch.setattr(Galleries, "_open", open_slowly)
    threads = [threading.Thread(target=here.of, args=("slow",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    assert here.of("quick") is here.of("quick")
    assert time.perf_counter() - began < SOON_S / 2
    go_on.set()
    for thread in threads:
        thread.join()
    assert sorted(calls) == ["quick", "slow"]
