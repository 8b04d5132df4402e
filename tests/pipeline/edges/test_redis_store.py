"""A gallery in Redis: a change is one step that matchers see, nothing lies there in clear, what is gone is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest
import redis
from pydantic import SecretStr

from pipeline.edges.redis_gallery import RedisFeed
from pipeline.edges.redis_store import GalleryStore
from pipeline.gallery.errors import AwayError, DuplicateError, InvalidError, RefusedError, UnknownError
from pipeline.gallery.keys import Keys
from pipeline.gallery.matcher import Matcher
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Limits, NamespacePolicy, Subject
from pipeline.packets import Floats
from pipeline.servers.redis_server import RedisServer

KEYS = Keys.new()
Open = Callable[..., GalleryStore]


def vectors(count: int, seed: int = 0) -> Floats:
    drawn = np.random.default_rng(seed).normal(size=(count, 512))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def templates(subject: str, count: int = 2, seed: int = 0, **more: object) -> list[Template]:
    crop = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)
    given = {"photo": crop, "created": datetime(2026, 11, 1, tzinfo=UTC), "yaw": -12.5, "size_px": 90.0, **more}
    return [Template(subject, v, 0.75, id=str(uuid4()), **given) for v in vectors(count, seed)]  # type: ignore[arg-type]


@pytest.fixture
def namespace() -> str:
    return f"t{uuid4().hex[:8]}"


@pytest.fixture
def open_store(redis_url: str, namespace: str) -> Iterator[Open]:
    opened: list[GalleryStore] = []

    def make(url: str = redis_url, keys: Keys = KEYS, **more: int) -> GalleryStore:
        opened.append(GalleryStore(SecretStr(url), keys, namespace, **more))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> GalleryStore:
    return open_store()


@pytest.fixture
def matcher(open_store: Open) -> Iterator[Matcher]:
    with closing(Matcher(RedisFeed(open_store()))) as running:
        yield running


def enrolled(store: GalleryStore, name: str, count: int = 2, seed: int = 0) -> list[Template]:
    new = templates(name, count, seed)
    store.enrol(Subject(id=name), new)
    return new


def best(matcher: Matcher, vector: Floats) -> str:
    (answer,) = matcher.match(vector[None], [False])
    return answer.best[0].subject_id if answer.best and answer.best[0].score > 0.9 else ""


def dump(url: str, namespace: str) -> bytes:
    """Every byte that lies in Redis for this namespace."""
    client = redis.Redis.from_url(url)
    with closing(client):
        kept = [client.dump(key) or b"" for key in client.scan_iter(f"omote:{{{namespace}}}:*", count=1000)]
    return b"".join(kept)


def test_what_was_enrolled_comes_back_as_it_was(store: GalleryStore) -> None:
    new = enrolled(store, "Ada Lovelace")
    found = {each.id: each for each in store.templates(store.template_ids("Ada Lovelace"))}
    for template in new:
        kept = found[template.id]
        assert kept.vector.tobytes() == template.vector.tobytes()
        assert replace(kept, vector=template.vector) == replace(template, photo=None)
        photo = store.photo(template.id)
        assert photo is not None
        assert (photo == template.photo).all()
    assert store.count() == (1, 2)


def test_neither_vectors_nor_photos_lie_in_redis_in_clear(store: GalleryStore, redis_url: str, namespace: str) -> None:
    (template,) = enrolled(store, "ada", 1)
    lying = dump(redis_url, namespace)
    assert template.vector.tobytes()[:64] not in lying
    assert b"\x89PNG" not in lying


def test_a_vector_that_was_put_in_the_place_of_another_does_not_open(store: GalleryStore) -> None:
    one, other = enrolled(store, "ada")
    client = store.link.client
    client.hset(store.key("template", one.id), "vector", client.hget(store.key("template", other.id), "vector"))
    with pytest.raises(Exception, match=r"open"):
        store.templates([one.id])


def test_every_change_makes_one_more_version_and_a_line_in_the_log(store: GalleryStore) -> None:
    enrolled(store, "ada")
    enrolled(store, "bob", 3, 1)
    assert store.version() == 5
    lines = store.link.client.xrange(store.key.log)
    assert [line[0] for line in lines] == [f"{n}-0".encode() for n in range(1, 6)]


def test_a_change_that_may_not_be_changes_nothing(store: GalleryStore, redis_url: str, namespace: str) -> None:
    enrolled(store, "ada")
    before = dump(redis_url, namespace)
    with pytest.raises(DuplicateError, match="'ada' already"):
        store.add_subject(Subject(id="ada"))
    with pytest.raises(UnknownError, match="no subject 'bob'"):
        store.change("bob", lambda before: before)
    with pytest.raises(UnknownError, match="no subject 'bob'"):
        store.merge("bob", "ada", lambda one, other: other)
    with pytest.raises(RefusedError, match="forgotten meanwhile"):
        store.enrol(Subject(id="bob"), templates("bob"), new=False)
    wrong = (np.full(512, np.nan, np.float32), np.zeros(512, np.float32), vectors(1)[0][:128])
    for vector in wrong:
        with pytest.raises(InvalidError, match="finite vector of 512"):
            store.enrol(Subject(id="bob"), [Template("bob", vector, 1.0, id="x")])
    assert dump(redis_url, namespace) == before


def test_many_who_write_at_once_lose_nothing(open_store: Open, matcher: Matcher) -> None:
    def write(number: int) -> None:
        with closing(open_store()) as mine:
            for turn in range(10):
                enrolled(mine, f"s{turn % 3}", 1, seed=number * 100 + turn)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert open_store().count() == (3, 80)
    assert matcher.wait_for(80, 5)
    assert len(matcher) == 80


def test_a_matcher_sees_within_a_second_who_comes_changes_and_goes(store: GalleryStore, matcher: Matcher) -> None:
    ada = enrolled(store, "ada")
    assert matcher.wait_for(store.version(), 1)
    assert best(matcher, ada[0].vector) == "ada"
    store.change("ada", lambda before: before.model_copy(update={"id": "Ada King"}))
    assert matcher.wait_for(store.version(), 1)
    assert best(matcher, ada[0].vector) == "Ada King"
    removed = store.remove_templates("Ada King", [ada[0].id])
    assert matcher.wait_for(removed.version, 1)
    assert (best(matcher, ada[0].vector), best(matcher, ada[1].vector)) == ("", "Ada King")
    assert store.remove_subject("Ada King").vectors == 1
    assert matcher.wait_for(store.version(), 1)
    assert len(matcher) == 0
    assert store.count() == (0, 0)


def test_nothing_of_a_removed_subject_is_left_in_redis(store: GalleryStore, redis_url: str, namespace: str) -> None:
    enrolled(store, "Ada Lovelace")
    removed = store.remove_subject("Ada Lovelace")
    assert (removed.vectors, removed.photos, removed.negatives) == (2, 2, 0)
    assert b"Lovelace" not in dump(redis_url, namespace)
    kept = {key.decode().split(":")[2] for key in store.link.client.scan_iter(f"omote:{{{namespace}}}:*")}
    assert kept <= {"version", "log", "birth", "matchers", "step"}


def test_an_erasure_that_is_not_finished_names_nobody_in_clear(
    store: GalleryStore, redis_url: str, namespace: str
) -> None:
    enrolled(store, "Ada Lovelace")
    store.remove_subject("Ada Lovelace", lambda names: {"receipt": "r1"})
    (pseudonym,) = store.erasing()
    assert store.unfinished(pseudonym) == {
        "subject": "Ada Lovelace", "receipt": "r1", "vectors": 2, "photos": 2, "negatives": 0,
    }  # fmt: skip
    assert b"Lovelace" not in dump(redis_url, namespace)
    assert store.finished("Ada Lovelace", "r1", "first") == b"first"
    assert store.finished("Ada Lovelace", "r1", "second") == b"first"
    assert (store.erasing(), store.unfinished(pseudonym)) == ([], None)


def test_who_withdraws_or_whose_date_has_passed_is_not_matched(store: GalleryStore, matcher: Matcher) -> None:
    ada = enrolled(store, "ada")
    _, version = store.change("ada", lambda before: before.model_copy(update={"consent": "withdrawn"}))
    assert matcher.wait_for(version, 1)
    assert best(matcher, ada[0].vector) == ""
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    _, version = store.change("ada", lambda before: Subject(id="ada", expires=soon))
    assert matcher.wait_for(version, 1)
    assert best(matcher, ada[0].vector) == "ada"
    assert store.expired(soon.timestamp() - 1) == []
    assert store.expired(soon.timestamp() + 1) == ["ada"]
    deadline = threading.Event()
    for _ in range(40):
        if not best(matcher, ada[0].vector):
            break
        deadline.wait(0.1)
    assert best(matcher, ada[0].vector) == ""


def test_a_negative_anchor_keeps_a_face_from_being_the_subject(store: GalleryStore, matcher: Matcher) -> None:
    ada = enrolled(store, "ada", 1)[0]
    alike = 0.9 * ada.vector + 0.436 * vectors(1, 9)[0]
    alike = (alike / np.linalg.norm(alike)).astype(np.float32)
    matcher.wait_for(store.version(), 1)
    assert matcher.match(alike[None], [False])[0].best[0].subject_id == "ada"
    anchor = Template("ada", alike, 1.0, id=str(uuid4()), negative=True)
    version = store.enrol(store.subject("ada"), [anchor])
    assert matcher.wait_for(version, 1)
    assert matcher.match(alike[None], [False])[0].best == ()
    assert best(matcher, ada.vector) == "ada"
    assert store.remove_subject("ada").negatives == 1


def test_a_matcher_that_was_left_behind_by_a_trimmed_log_reads_everything_anew(open_store: Open) -> None:
    store = open_store(log_length=5)
    enrolled(store, "ada")
    feed = RedisFeed(open_store())
    mark, _ = feed.snapshot()
    for number in range(40):
        enrolled(store, f"s{number}", 1, number)
    store.link.client.xtrim(store.key.log, maxlen=5, approximate=False)
    assert feed.changes(mark, 0.1) is None
    feed.close()


def test_redis_away_matching_goes_on_and_says_how_old_it_is(mortal_redis: RedisServer, open_store: Open) -> None:
    store = open_store(mortal_redis.url)
    ada = enrolled(store, "ada")
    with closing(Matcher(RedisFeed(open_store(mortal_redis.url)))) as matcher:
        assert matcher.match(ada[0].vector[None], [False])[0].stale_s == 0
        mortal_redis.kill()
        threading.Event().wait(2.5)
        (answer,) = matcher.match(ada[0].vector[None], [False])
        assert answer.best[0].subject_id == "ada"
        assert answer.stale_s >= 1
        with pytest.raises(AwayError, match="does not answer"):
            enrolled(store, "bob", 2, 1)
        mortal_redis.start()
        bob = enrolled(store, "bob", 2, 1)
        assert matcher.wait_for(store.version(), 10)
        assert best(matcher, bob[0].vector) == "bob"
        assert best(matcher, ada[0].vector) == "ada"


def test_a_gallery_that_was_wiped_is_empty_for_matchers_too(store: GalleryStore, matcher: Matcher) -> None:
    ada = enrolled(store, "ada")
    matcher.wait_for(store.version(), 1)
    for key in list(store.link.client.scan_iter(f"{store.key.prefix}*")):
        store.link.client.delete(key)
    for _ in range(50):
        if not len(matcher):
            break
        threading.Event().wait(0.1)
    assert best(matcher, ada[0].vector) == ""


def test_after_rotation_nothing_needs_the_old_key(open_store: Open, redis_url: str) -> None:
    ada = enrolled(open_store(), "ada")
    fresh = KEYS.rotated()
    assert open_store(keys=fresh).reseal() == 4
    assert open_store(keys=fresh).reseal() == 0
    only = fresh.without(KEYS.current)
    kept = open_store(keys=only)
    assert {each.vector.tobytes() for each in kept.templates(kept.template_ids("ada"))} == {
        each.vector.tobytes() for each in ada
    }
    assert kept.photo(ada[0].id) is not None


def test_what_does_not_open_holds_up_nothing_else_that_is_sealed_anew(
    open_store: Open, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    shut = sorted(enrolled(store, "ada"), key=lambda each: each.id)[0]
    store.link.client.hset(store.key("template", shut.id), "vector", Keys.new().seal(b"", b""))
    assert open_store(keys=KEYS.rotated()).reseal() == 3
    assert f"the vector of {shut.id} stays as it is" in caplog.text


def test_a_template_that_redis_tells_twice_is_one(store: GalleryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(each.id for each in enrolled(store, "ada"))
    twice = [name.encode() for name in names * 2]
    monkeypatch.setattr(store.link.client, "sscan_iter", lambda *asked, **more: iter(twice))
    assert store.template_ids("ada") == names


def test_a_policy_is_kept(store: GalleryStore) -> None:
    assert store.policy() == NamespacePolicy()
    policy = NamespacePolicy(limits=Limits(threshold=0.5), purposes=("access_control",), require_consent=True)
    store.set_policy(policy)
    assert store.policy() == policy


def test_namespaces_do_not_know_of_each_other(store: GalleryStore, redis_url: str) -> None:
    enrolled(store, "ada")
    with closing(GalleryStore(SecretStr(redis_url), KEYS, f"{store.namespace}2")) as other:
        assert other.count() == (0, 0)
        assert other.subjects() == []


def test_subjects_come_in_pages(store: GalleryStore) -> None:
    for number in range(7):
        store.add_subject(Subject(id=f"s{number}"))
    first = store.subjects(limit=3)
    assert [subject.id for subject in first] == ["s0", "s1", "s2"]
    assert [subject.id for subject in store.subjects(first[-1].id, 100)] == ["s3", "s4", "s5", "s6"]


def test_a_page_is_full_where_somebody_on_it_is_forgotten_meanwhile(
    store: GalleryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        store.add_subject(Subject(id=f"s{number}"))
    known = store.known

    def meanwhile(names: Sequence[str]) -> dict[str, Subject]:
        return {name: subject for name, subject in known(names).items() if name != "s1"}

    monkeypatch.setattr(store, "known", meanwhile)
    assert [subject.id for subject in store.subjects(limit=3)] == ["s0", "s2", "s3"]
    assert [subject.id for subject in store.subjects("s0", limit=100)] == ["s2", "s3", "s4"]


def test_what_two_change_at_once_is_changed_by_both(open_store: Open) -> None:
    enrolled(open_store(), "ada")

    def withdraw() -> None:
        with closing(open_store()) as mine:
            mine.change("ada", lambda before: before.model_copy(update={"consent": "withdrawn"}))

    def count(number: int) -> None:
        with closing(open_store()) as mine:
            mine.change("ada", lambda b: b.model_copy(update={"metadata": {**b.metadata, str(number): number}}))

    threads = [threading.Thread(target=count, args=(n,)) for n in range(8)] + [threading.Thread(target=withdraw)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ada = open_store().subject("ada")
    assert (ada.consent, len(ada.metadata)) == ("withdrawn", 8)


def test_a_step_that_comes_twice_is_done_once(store: GalleryStore) -> None:
    step = store.step().only_if(0, "EXISTS", store.key("once")).write("SET", store.key("once"), 1).tell("put", "x")
    assert (step.done(), step.done()) == (1, 1)
    assert store.version() == 1


def test_a_template_does_not_come_back_with_an_enrolment_that_was_on_its_way(store: GalleryStore) -> None:
    ada = enrolled(store, "ada", 1)[0]
    store.remove_subject("ada")
    for more in ({"new": False}, {"beside": ada.id}):
        with pytest.raises(RefusedError, match="forgotten meanwhile"):
            store.enrol(Subject(id="ada"), templates("ada"), **more)  # type: ignore[arg-type]
    assert store.count() == (0, 0)
