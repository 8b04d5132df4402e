"""What every question passes: who may ask, for what, and that it leaves its line in the log however it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.edges.redis_link import Step
from pipeline.gallery.desk import AUDITING, CHANGING, JANITOR, ROLES, WITHOUT_PURPOSE
from pipeline.gallery.errors import (
    AwayError,
    DuplicateError,
    ForbiddenError,
    GalleryError,
    InvalidError,
    RefusedError,
    UnknownError,
)
from pipeline.gallery.keys import Keys
from pipeline.gallery.memory import MemoryGallery
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, NamespacePolicy, Subject
from pipeline.gallery.uploads import picture
from pipeline.packets import Pixels
from pipeline.servers.redis_server import RedisServer
from tests.support.gallery import drawing, likeness

ADMIN, READER = Caller("root", "admin", "access"), Caller("door", "reader", "access")
AUDITOR = Caller("inspector", "auditor")
RED, GREEN, BLUE = (200, 40, 40), (40, 200, 40), (40, 40, 200)
VECTOR, STRANGE = likeness(RED), np.full(512, np.nan, np.float32)


def photo(colour: tuple[int, int, int] = RED) -> Pixels:
    return picture(drawing(colour))


Ask = Callable[[GalleryService, Caller], Any]

# Every question there is: what it is logged as, and one that is answered and one that is refused.
DONE: list[tuple[str, Ask]] = [
    ("detect", lambda g, c: g.detect(c, photo())),
    ("detect", lambda g, c: g.embed(c, photo())),
    ("search", lambda g, c: g.search(c, photo())),
    ("search", lambda g, c: g.search_vectors(c, VECTOR[None], "")),
    ("verify", lambda g, c: g.verify(c, photo(), subject_id="ada")),
    ("verify", lambda g, c: g.verify_vectors(c, VECTOR[None], "", subject_id="ada")),
    ("compare", lambda g, c: g.compare(c, photo(), photo())),
    ("compare", lambda g, c: g.compare_vectors(c, VECTOR, VECTOR[None])),
    ("list", lambda g, c: g.faces(c)),
    ("list", lambda g, c: g.subjects(c)),
    ("list", lambda g, c: g.templates(c, "ada")),
    ("read", lambda g, c: g.subject(c, "ada")),
    ("read", lambda g, c: g.coverage(c, "ada")),
    ("matches", lambda g, c: g.matches(c)),
    ("unknowns", lambda g, c: g.clusters(c)),
    ("enrol", lambda g, c: g.enrol(c, "bob", photo(BLUE))),
    ("enrol", lambda g, c: g.enrol_vectors(c, "bob", likeness(BLUE)[None], "")),
    ("change", lambda g, c: g.add_subject(c, Subject(id="eve"))),
    ("change", lambda g, c: g.change_subject(c, "ada", metadata={"a": 1})),
    ("change", lambda g, c: g.rename(c, "ada", "eve")),
    ("merge", lambda g, c: g.merge(c, "ada", "bob")),
    ("not me", lambda g, c: g.not_me(c, "ada", vector=likeness(GREEN))),
    ("delete", lambda g, c: g.erase(c, "ada")),
    ("calibrate", lambda g, c: g.calibrate(c)),
    ("export", lambda g, c: g.export(c)),
    ("import", lambda g, c: g.take_in(c, MemoryGallery())),
    ("re-embed", lambda g, c: g.reembed(c, "mobilefacenet")),
    ("re-embed", lambda g, c: g.drop_model(c, "other")),
    ("policy", lambda g, c: g.set_policy(c, NamespacePolicy())),
    ("read policy", lambda g, c: g.policy(c)),
    ("audit", lambda g, c: g.audit(c)),
    ("audit", lambda g, c: g.verify_audit(c)),
    ("rotate keys", lambda g, c: g.reseal(c)),
]
FAILED: list[tuple[str, Ask]] = [
    ("search", lambda g, c: g.search_vectors(c, STRANGE[None], "")),
    ("search", lambda g, c: g.desk.picture(c, "search", b"no picture")),
    ("enrol", lambda g, c: g.desk.picture(c, "enrol", b"no picture", "ada")),
    ("verify", lambda g, c: g.verify(c, photo(), subject_id="nobody")),
    ("verify", lambda g, c: g.verify_vectors(c, VECTOR[None], "", template_id="none")),
    ("compare", lambda g, c: g.compare_vectors(c, STRANGE, VECTOR[None])),
    ("read", lambda g, c: g.subject(c, "nobody")),
    ("read", lambda g, c: g.coverage(c, "nobody")),
    ("read", lambda g, c: g.photo(c, "none")),
    ("enrol", lambda g, c: g.enrol(c, "bob", photo((0, 0, 0)))),
    ("enrol", lambda g, c: g.enrol_vectors(c, "bob", STRANGE[None], "")),
    ("change", lambda g, c: g.add_subject(c, Subject(id="ada"))),
    ("change", lambda g, c: g.change_subject(c, "nobody", metadata={})),
    ("merge", lambda g, c: g.merge(c, "ada", "ada")),
    ("not me", lambda g, c: g.not_me(c, "ada")),
    ("delete", lambda g, c: g.erase(c, "nobody")),
    ("delete", lambda g, c: g.remove_template(c, "none")),
    ("assign", lambda g, c: g.assign(c, "none", "ada")),
    ("ignore", lambda g, c: g.ignore(c, "none")),
    ("re-embed", lambda g, c: g.reembed(c, "another")),
    ("erasure", lambda g, c: g.erasure(c, "none")),
]


@pytest.fixture
def gallery(gallery_service: GalleryService) -> GalleryService:
    gallery_service.enrol(ADMIN, "ada", photo())
    gallery_service.enrol(ADMIN, "bob", photo(BLUE))
    return gallery_service


def logged(gallery: GalleryService, ask: Ask, caller: Caller = ADMIN) -> list[tuple[str, str]]:
    """Action and outcome of what a question has left in the log."""
    before = gallery.desk.log.head().seq
    with suppress(GalleryError, AttributeError):
        ask(gallery, caller)
    return [(entry.action, entry.outcome) for entry in gallery.desk.log.read(before)]


@pytest.mark.parametrize(("action", "ask"), DONE)
def test_what_is_answered_leaves_one_line(gallery: GalleryService, action: str, ask: Ask) -> None:
    assert logged(gallery, ask) == [(action, "done")]


@pytest.mark.parametrize(("action", "ask"), FAILED)
def test_what_is_refused_leaves_one_line(gallery: GalleryService, action: str, ask: Ask) -> None:
    assert logged(gallery, ask) == [(action, "failed")]


def test_what_breaks_leaves_its_line_too(gallery: GalleryService) -> None:
    assert logged(gallery, lambda g, c: g.search(c, None)) == [("search", "failed")]  # type: ignore[arg-type]


def test_what_may_not_be_asked_leaves_one_line_of_its_own(gallery: GalleryService) -> None:
    gallery.change_subject(ADMIN, "ada", purposes=("payroll",))
    assert logged(gallery, lambda g, c: g.verify(c, photo(), subject_id="ada")) == [("verify", "forbidden")]
    gallery.change_subject(ADMIN, "ada", consent="withdrawn")
    assert logged(gallery, lambda g, c: g.enrol(c, "ada", photo())) == [("enrol", "forbidden")]
    assert logged(gallery, lambda g, c: g.erase(c, "ada"), READER) == [("delete", "forbidden")]


def test_a_purpose_that_is_not_allowed_is_refused_also_where_the_picture_is_none(gallery: GalleryService) -> None:
    gallery.set_policy(ADMIN, NamespacePolicy(purposes=("payroll",)))
    with pytest.raises(ForbiddenError):
        gallery.desk.picture(READER, "search", b"no picture")
    assert gallery.desk.log.read(gallery.desk.log.head().seq - 1)[0].outcome == "forbidden"


def test_a_question_says_who_it_was_about_also_where_it_named_a_face(gallery: GalleryService) -> None:
    (template,) = gallery.desk.store.template_ids("ada")
    gallery.verify(ADMIN, photo(), template_id=template)
    gallery.search(ADMIN, photo())
    ada = gallery.desk.store.keys.pseudonym(gallery.desk.store.namespace, "ada")
    told = gallery.desk.log.read(0)[-2:]
    assert [(entry.action, entry.subject, entry.count) for entry in told] == [("verify", ada, 1), ("search", ada, 1)]


def test_what_cannot_be_logged_is_not_answered(
    open_gallery: Callable[..., GalleryService], mortal_redis: RedisServer
) -> None:
    gallery = open_gallery(url=mortal_redis.url)
    with pytest.raises(AwayError), gallery.desk.asked(ADMIN, "search"):
        mortal_redis.kill()


def test_where_redis_went_away_a_line_tells_of_a_change_and_nobody_waits_for_one_of_a_look(
    gallery: GalleryService,
) -> None:
    def look(gallery: GalleryService, caller: Caller, action: str = "search", version: int | None = None) -> None:
        with gallery.desk.asked(caller, action) as question:
            question.version = version
            message = "away"
            raise AwayError(message)

    assert logged(gallery, look) == []
    for version in (None, 1):
        assert logged(gallery, lambda g, c: look(g, c, "delete", version)) == [("delete", "unknown")]  # noqa: B023


@pytest.mark.parametrize(("action", "ask"), [each for each in DONE if each[0] in CHANGING])
@pytest.mark.parametrize("damage", ["no head", "an entry beyond it"])
def test_nothing_is_changed_that_could_not_be_logged(
    gallery: GalleryService, action: str, ask: Ask, damage: str
) -> None:
    store, last = gallery.desk.store, gallery.desk.log.head().seq
    place = {"no head": "head", "an entry beyond it": str(last + 1)}[damage]
    store.link.client.hset(store.key("audit"), place, "garbage")
    before = store.version(), store.count(), store.policy(0)
    with pytest.raises(RefusedError, match="the audit log"):
        ask(gallery, ADMIN)
    assert (store.version(), store.count(), store.policy(0)) == before


@pytest.mark.parametrize("place", ["head", "1"])
def test_a_damaged_log_is_told_of_and_another_can_be_begun(gallery: GalleryService, place: str) -> None:
    store, (before, *_) = gallery.desk.store, gallery.audit(AUDITOR)
    with pytest.raises(InvalidError, match="is whole"):
        gallery.begin_audit_anew(ADMIN)
    store.link.client.hset(store.key("audit"), place, "garbage")
    assert gallery.verify_audit(AUDITOR)
    with pytest.raises(ForbiddenError if place == "1" else RefusedError):
        gallery.begin_audit_anew(AUDITOR)
    aside = gallery.begin_audit_anew(ADMIN)
    gallery.enrol_vectors(ADMIN, "eve", VECTOR[None], "")
    assert gallery.verify_audit(AUDITOR) == []
    assert [each.action for each in gallery.audit(AUDITOR)][:2] == ["log begun anew", "enrol"]
    assert store.link.client.hexists(aside, place)
    assert gallery.verify_audit(AUDITOR, [before])[0].seq == 1, "an export still tells what was there"


def test_a_change_that_was_made_though_its_answer_was_lost_has_a_line(
    gallery: GalleryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(step: Step) -> int | None:
        make(step)
        message = "the answer is lost"
        raise AwayError(message)

    make = Step.done
    with monkeypatch.context() as patched:
        patched.setattr(Step, "done", lost)
        told = logged(gallery, lambda g, c: g.enrol_vectors(c, "eve", VECTOR[None], ""))
    assert told == [("enrol", "unknown")]
    assert len(gallery.desk.store.template_ids("eve")) == 1


def test_what_was_done_in_part_is_not_said_to_have_failed(
    gallery: GalleryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        message = "no"
        raise RefusedError(message)

    monkeypatch.setattr(gallery, "_follow_names", refuse)
    assert logged(gallery, lambda g, c: g.rename(c, "ada", "lovelace"))[-1] == ("change", "unknown")
    assert "lovelace" in {each.id for each in gallery.subjects(READER)}


def test_a_line_that_redis_could_not_take_is_written_once_it_is_back(
    open_gallery: Callable[..., GalleryService], mortal_redis: RedisServer
) -> None:
    gallery = open_gallery(url=mortal_redis.url)
    with suppress(AwayError), gallery.desk.asked(ADMIN, "delete", "ada"):
        mortal_redis.kill()
        gallery.desk.store.version()
    with pytest.raises(AwayError):
        gallery.enrol_vectors(ADMIN, "ada", VECTOR[None], "")  # never begun
    mortal_redis.start()
    assert logged(gallery, lambda g, c: g.add_subject(c, Subject(id="eve"))) == [
        ("delete", "unknown"),
        ("change", "done"),
    ]
    assert gallery.desk.log.verify() == []


def test_a_search_says_who_stood_in_its_answer_also_where_nobody_was_known(gallery: GalleryService) -> None:
    ada, bob = (gallery.desk.store.keys.pseudonym(gallery.desk.store.namespace, name) for name in ("ada", "bob"))
    between = (VECTOR + likeness(BLUE)) / np.linalg.norm(VECTOR + likeness(BLUE))
    before = gallery.desk.log.head().seq
    gallery.search(ADMIN, photo(), top=2)
    gallery.search_vectors(ADMIN, between[None], "", top=2)
    gallery.search_vectors(ADMIN, likeness(GREEN)[None], "", top=1)
    known, ambiguous, unknown = gallery.desk.log.read(before)
    assert (known.subject, known.shown) == (ada, (bob,))
    assert (ambiguous.subject, set(ambiguous.shown)) == ("", {ada, bob})
    assert (unknown.subject, len(unknown.shown)) == ("", 1)
    gallery.erase(ADMIN, "bob")
    assert {entry.action for entry in gallery.audit(ADMIN, subject="bob")} == {"enrol", "search", "delete"}


def test_a_look_for_twins_is_a_search_and_names_nobody_for_a_purpose_that_is_not_theirs(
    gallery: GalleryService,
) -> None:
    template = gallery.desk.store.templates(gallery.desk.store.template_ids("ada"))[0]
    gallery.refuse_twin(ADMIN, template)
    before = gallery.desk.log.head().seq
    other = Subject(id="eve")
    mine = type(template)(other.id, template.vector, 0.9)
    with pytest.raises(DuplicateError, match="looks like 'ada'"):
        gallery.refuse_twin(ADMIN, mine)
    (entry,) = gallery.desk.log.read(before)
    ada = gallery.desk.store.keys.pseudonym(gallery.desk.store.namespace, "ada")
    assert (entry.action, entry.outcome, entry.subject) == ("search", "done", ada)
    gallery.change_subject(ADMIN, "ada", purposes=("payroll",))
    with pytest.raises(DuplicateError, match="looks like somebody else"):
        gallery.refuse_twin(ADMIN, mine)


def test_whoever_answers_for_the_gallery_is_asked_for_no_purpose(gallery: GalleryService) -> None:
    gallery.set_policy(ADMIN, NamespacePolicy(purposes=("access",)))
    silent = Caller("root", "admin")
    assert {action for action, roles in ROLES.items() if roles == AUDITING} <= WITHOUT_PURPOSE
    for action in ROLES:
        if action in WITHOUT_PURPOSE:
            gallery.desk.admit(silent, action)
        else:
            with pytest.raises(ForbiddenError, match="without a purpose"):
                gallery.desk.admit(silent, action)
    gallery.desk.admit(JANITOR, "delete")
    with pytest.raises(ForbiddenError, match="the role"):
        gallery.desk.admit(JANITOR, "policy")


def test_those_whose_date_has_passed_are_forgotten_whatever_may_be_asked_for(gallery: GalleryService) -> None:
    gallery.change_subject(ADMIN, "ada", expires=datetime.now(UTC) - timedelta(days=1))
    gallery.set_policy(ADMIN, NamespacePolicy(purposes=("access",)))
    gallery.forget_expired(JANITOR)
    with pytest.raises(UnknownError):
        gallery.desk.store.subject("ada")


def test_a_page_of_faces_counts_all_and_opens_its_own_alone(
    gallery: GalleryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.enrol_vectors(ADMIN, "bob", np.eye(5, 512, dtype=np.float32), "")
    gallery.not_me(ADMIN, "bob", vector=likeness(GREEN))
    opened, open_blob = [], Keys.open
    monkeypatch.setattr(Keys, "open", lambda *given: opened.append(1) or open_blob(*given))
    pages = [gallery.faces(ADMIN, "bob", skip=skip, limit=4) for skip in (0, 4, 8)]
    assert [(len(page.templates), page.total) for page in pages] == [(4, 6), (2, 6), (0, 6)]
    assert len(opened) == 6
    assert len({template.id for page in pages for template in page.templates}) == 6
    assert gallery.faces(ADMIN).total == 7


@pytest.fixture
def rotating(
    open_gallery: Callable[..., GalleryService], tmp_path: Path
) -> tuple[Path, Callable[[str], GalleryService]]:
    """A file of keys, and what opens a gallery as a process does that begins now."""
    file = tmp_path / "keys.json"
    Keys.new().write(file)

    def begin(namespace: str = "") -> GalleryService:
        return open_gallery(namespace=namespace, keys=Keys.read(file))

    return file, begin


def test_keys_are_rotated_and_dropped_under_a_matcher_that_goes_on(
    rotating: tuple[Path, Callable[[str], GalleryService]],
) -> None:
    file, begin = rotating
    running = begin("")
    running.enrol(ADMIN, "ada", photo())
    old = Keys.read(file).current
    Keys.read(file).rotated().replace(file)
    fresh = begin(running.desk.store.namespace)
    fresh.enrol(ADMIN, "bob", photo(BLUE))
    assert running.desk.matcher.wait_for(fresh.desk.store.version(), 5.0)
    until = time.monotonic() + 5  # a file of keys is looked at every second
    while [found.subject_id for found in running.search(ADMIN, photo(BLUE))] != ["bob"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    running.enrol(ADMIN, "eve", photo(GREEN))  # sealed with the new key by now
    assert fresh.reseal(ADMIN) == 1
    Keys.read(file).without(old).replace(file)
    last = begin(running.desk.store.namespace)
    assert [last.search(ADMIN, photo(each))[0].subject_id for each in (RED, BLUE, GREEN)] == ["ada", "bob", "eve"]
    running.enrol(ADMIN, "eve", photo(GREEN))
    assert last.desk.matcher.wait_for(running.desk.store.version(), 5.0)
