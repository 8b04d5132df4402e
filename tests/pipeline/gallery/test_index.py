"""An index finds what a slow search finds, while it is written too, and nothing of what was dropped is left in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import sleep
from typing import Any

import numpy as np
import pytest

from pipeline.gallery.errors import InvalidError
from pipeline.gallery.index import Index
from pipeline.gallery.rows import Matrix, Scan
from pipeline.packets import Candidate, Floats

Held = dict[str, tuple[str, Floats, bool]]  # what an index holds: subject, vector, negative


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that templates lie in many."""
    monkeypatch.setattr("pipeline.gallery.rows.SLAB", 64)


def unit(count: int, dimension: int = 16, seed: int = 0) -> Floats:
    drawn = np.random.default_rng(seed).normal(size=(count, dimension))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def near(vectors: Floats, seed: int = 99, noise: float = 0.3) -> Floats:
    drawn = vectors + noise * unit(len(vectors), vectors.shape[1], seed)
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def filled(vectors: Floats, subjects: Sequence[str] = (), *, exact_limit: int = 10**9) -> Index:
    index = Index(vectors.shape[1], exact_limit)
    ids = [f"t{n}" for n in range(len(vectors))]
    index.put_many(ids, subjects or [f"s{n}" for n in range(len(vectors))], vectors)
    return index


def cosine(a: Floats, b: Floats) -> float:
    return float((a.astype(np.float64) * b).sum())


def slow_search(held: Held, query: Floats, top: int) -> list[tuple[str, float]]:
    best: dict[str, float] = {}
    worst: dict[str, float] = {}
    for subject, vector, negative in held.values():
        scores = worst if negative else best
        scores[subject] = max(cosine(vector, query), scores.get(subject, -2.0))
    left = [(subject, score) for subject, score in best.items() if worst.get(subject, -2.0) < score]
    return sorted(left, key=lambda item: (-item[1], item[0]))[:top]


def pairs(found: Sequence[Candidate]) -> list[tuple[str, float]]:
    return [(candidate.subject_id, candidate.score) for candidate in found]


def check(found: Sequence[Candidate], expected: list[tuple[str, float]]) -> None:
    assert [candidate.subject_id for candidate in found] == [subject for subject, _ in expected]
    np.testing.assert_allclose([c.score for c in found], [score for _, score in expected], atol=1e-6)


@pytest.mark.parametrize("people", [3, 40, 2500])
def test_the_best_subjects_are_those_of_a_slow_search(people: int) -> None:
    vectors = unit(2500)
    subjects = [f"s{n % people}" for n in range(len(vectors))]
    held = {str(n): (subject, vector, False) for n, (subject, vector) in enumerate(zip(subjects, vectors, strict=True))}
    queries = near(vectors[::25])
    for query, found in zip(queries, filled(vectors, subjects).search(queries), strict=True):
        check(found, slow_search(held, query, 5))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("exact_limit", [10**9, 40])
def test_any_order_of_writing_leaves_what_a_dict_would_hold(seed: int, exact_limit: int) -> None:
    chance, pool = random.Random(seed), unit(90, 8, seed)  # ids, subjects and vectors all come again: ties are common
    index, held = Index(8, exact_limit), Held()
    for step in range(400):
        name, subject, vector = f"t{chance.randrange(150)}", f"s{chance.randrange(12)}", pool[chance.randrange(90)]
        negative = chance.random() < 0.1
        if chance.random() < 0.3:
            assert index.drop(name) == (held.pop(name, None) is not None)
        else:
            index.put(name, subject, vector, negative)
            held[name] = (subject, vector, negative)
        if step % 5 == 0:
            query, top = pool[chance.randrange(90)], chance.randrange(1, 14)
            check(index.search(query[np.newaxis], top)[0], slow_search(held, query, top))
    assert sorted(index.ids()) == sorted(held)
    assert len(index) == len(held)
    assert all(index.subject_of(name) == subject for name, (subject, _, _) in held.items())
    for subject in {subject for subject, _, _ in held.values()}:
        own = [vector for of, vector, negative in held.values() if of == subject and not negative]
        assert sorted(index.vectors_of(subject).tolist()) == sorted(vector.tolist() for vector in own)


def test_an_answer_depends_neither_on_the_batch_nor_on_the_order_of_the_templates() -> None:
    vectors = unit(3001, 512)
    queries = near(vectors[:130])
    index, turned = filled(vectors), Index()
    turned.put_many([f"t{n}" for n in range(3001)][::-1], [f"s{n}" for n in range(3001)][::-1], vectors[::-1])
    together = index.search(queries)
    assert together == [index.search(query[np.newaxis])[0] for query in queries]
    assert together == turned.search(queries)


def test_equal_scores_go_by_the_name_of_the_subject() -> None:
    vectors = np.repeat(unit(1), 600, axis=0)
    names = [f"{n:03}" for n in range(600)]
    random.Random(1).shuffle(names)
    assert [c.subject_id for c in filled(vectors, names).search(vectors[:1])[0]] == ["000", "001", "002", "003", "004"]


def test_scores_that_single_precision_cannot_tell_apart_are_ranked_all_the_same() -> None:
    vectors = near(np.repeat(unit(1, 512), 5000, axis=0), noise=1e-6)
    held = {str(n): (f"s{n}", vector, False) for n, vector in enumerate(vectors)}
    query = near(unit(1, 512), seed=5)
    check(filled(vectors).search(query)[0], slow_search(held, query[0], 5))


def test_a_subject_of_a_thousand_templates_hides_no_other() -> None:
    crowd = near(np.repeat(unit(1), 1000, axis=0), noise=0.05)
    index = filled(np.concatenate([crowd, unit(4000, seed=2)]), ["many"] * 1000 + [f"s{n}" for n in range(4000)])
    found = index.search(unit(1))[0]
    assert found[0].subject_id == "many"
    assert len({candidate.subject_id for candidate in found}) == 5


def test_a_query_nearer_to_an_anchor_does_not_find_the_subject() -> None:
    vectors = unit(2000)
    index = filled(vectors)
    query = near(vectors[:1])
    before = index.search(query, top=6)[0]
    index.put("not", "s0", query[0], negative=True)
    assert pairs(index.search(query)[0]) == pairs(before[1:])
    assert index.search(vectors[:1])[0][0].subject_id == "s0"  # nearer to the template than to the anchor
    assert index.vectors_of("s0").shape == (1, 16)
    index.put("t0", "s0", query[0])  # as close to both: the anchor wins
    assert pairs(index.search(query)[0]) == pairs(before[1:])
    assert index.drop("not")
    assert index.search(query)[0][0].subject_id == "s0"


def test_a_template_may_become_an_anchor_and_the_other_way_round() -> None:
    index = filled(unit(3))
    index.put("t0", "s1", unit(3)[0], negative=True)
    assert (len(index), index.subject_of("t0"), len(index.vectors_of("s0"))) == (3, "s1", 0)
    index.put("t0", "s0", unit(3)[0])
    assert (len(index), index.subject_of("t0"), len(index.vectors_of("s0"))) == (3, "s0", 1)


def test_an_empty_index_finds_nobody() -> None:
    index = Index(16)
    assert index.search(unit(2)) == [(), ()]
    assert index.search(unit(2)[:0]) == []
    assert (len(index), index.ids(), index.subject_of("t"), index.drop("t")) == (0, (), None, False)
    assert index.vectors_of("s").shape == (0, 16)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda v: v[:, :15], "16 dimensions"),
        (lambda v: v[0], "16 dimensions"),
        (lambda v: v * 1.01, "length 1.01"),
        (lambda v: v * 0, "length 0"),
        (lambda v: v * np.nan, "length nan"),
        (lambda v: v * np.float32(1e30), "length inf"),
        (lambda v: np.where(np.arange(16) == 3, np.inf, v), "length inf"),
        (lambda v: [["a"] * 16] * len(v), "must be numbers"),
        (lambda v: [[None] * 16] * len(v), "length nan"),
    ],
)
def test_what_is_no_vector_of_the_gallery_is_refused_and_nothing_is_written(
    spoil: Callable[[Floats], Floats], reason: str
) -> None:
    index = Index(16)
    with pytest.raises(InvalidError, match=reason):
        index.put_many(["a", "b"], ["s", "s"], spoil(unit(2)))
    with pytest.raises(InvalidError, match=reason):
        index.search(spoil(unit(2)))
    assert len(index) == 0


def test_names_and_vectors_must_be_as_many_and_a_search_must_ask_for_someone() -> None:
    index = Index(16)
    with pytest.raises(InvalidError, match="2 ids, 1 subjects and 2 vectors"):
        index.put_many(["a", "b"], ["s"], unit(2))
    with pytest.raises(InvalidError, match="at least"):
        index.search(unit(1), top=0)
    assert len(index) == 0


# Erasure: what matters is what the memory holds, so these tests look at it.


def memory(matrix: Matrix) -> Floats:
    return np.concatenate(matrix.slabs)


def lies_in(vector: Floats, matrix: Matrix) -> bool:
    return vector.tobytes() in memory(matrix).tobytes()


@pytest.mark.parametrize("gone", [0, 70, 199])
def test_nothing_of_a_dropped_template_is_left(gone: int) -> None:
    vectors = unit(200)
    index = filled(vectors, exact_limit=100)
    assert index._coarse
    seen = index._coarse.values[[gone]]
    assert lies_in(vectors[gone], index._templates.values)
    assert lies_in(seen, index._coarse.values)
    assert index.drop(f"t{gone}")
    for vector, matrix in ((vectors[gone], index._templates.values), (seen, index._coarse.values)):
        assert not lies_in(vector, matrix)
        assert not memory(matrix)[199:].any()
    kept = [n for n in range(200) if n != gone]
    assert [found[0].subject_id for found in index.search(vectors[kept])] == [f"s{n}" for n in kept]


def test_nothing_of_an_overwritten_template_is_left() -> None:
    vectors = unit(200)
    index = filled(vectors[:150], exact_limit=100)
    assert index._coarse
    seen = index._coarse.values[[7]]
    index.put("t7", "s7", vectors[180])
    assert not lies_in(vectors[7], index._templates.values)
    assert not lies_in(seen, index._coarse.values)


def test_an_index_that_grows_leaves_no_smaller_one_behind() -> None:
    index = filled(unit(150))
    before = list(index._templates.values.slabs)
    index.put_many([f"n{n}" for n in range(1000)], ["s"] * 1000, unit(1000, seed=1))
    assert all(now is then for now, then in zip(index._templates.values.slabs, before, strict=False))


def test_a_coarse_scan_that_was_fitted_again_is_overwritten() -> None:
    index = filled(unit(150), exact_limit=100)
    assert index._coarse
    old = index._coarse
    index.put_many([f"n{n}" for n in range(200)], ["s"] * 200, unit(200, seed=1))
    assert index._coarse is not old
    assert not memory(old.values).any()


def test_a_cleared_index_holds_nothing_and_can_be_filled_again() -> None:
    index = filled(unit(150), exact_limit=100)
    assert index._coarse
    index.put("not", "s0", unit(1)[0], negative=True)
    matrices = [index._templates.values, index._anchors.values, index._coarse.values]
    index.clear()
    assert not any(memory(matrix).any() for matrix in matrices)
    assert (len(index), index.search(unit(1))) == (0, [()])
    index.put("t", "s", unit(1)[0])
    assert index.search(unit(1))[0][0].subject_id == "s"


# One writer, many readers


@pytest.mark.parametrize("exact_limit", [10**9, 3000])
@pytest.mark.parametrize(
    "write",
    [
        lambda index, vectors: index.put_many([f"n{n}" for n in range(999)], ["new"] * 999, unit(999, seed=1)),
        lambda index, vectors: index.put_many(
            [f"n{n}" for n in range(4000)], ["n"] * 4000, unit(4000, seed=1)
        ),  # fits again
        lambda index, vectors: index.put("t3999", "s17", vectors[17]),
        lambda index, vectors: index.put("t17", "other", -vectors[17]),
        lambda index, vectors: index.put("t18", "s17", vectors[17], negative=True),
        lambda index, vectors: index.drop("t17"),
        lambda index, vectors: index.drop("t3999"),
        lambda index, vectors: [index.drop(f"t{n}") for n in range(4000) if n != 17],
        lambda index, vectors: (index.drop("t17"), index.put("new", "other", vectors[17])),
        lambda index, vectors: index.clear(),
        lambda index, vectors: (index.clear(), index.put("new", "other", vectors[17])),
    ],
)
def test_what_is_written_while_a_search_multiplies_is_in_its_answer(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[Index, Floats], object], exact_limit: int
) -> None:
    vectors = unit(4000)
    index, writes = filled(vectors, exact_limit=exact_limit), [write]

    def scan(*given: Any) -> Scan:
        if writes:
            writes.pop()(index, vectors)
        return Scan(*given)

    monkeypatch.setattr("pipeline.gallery.index.Scan", scan)
    during = index.search(vectors[[17, 18, 3999]])
    assert not writes
    assert during == index.search(vectors[[17, 18, 3999]])


@pytest.mark.parametrize("exact_limit", [10**9, 5000])
def test_a_search_sees_one_moment_of_an_index_that_changes(exact_limit: int) -> None:
    """Rows move at each drop, and the coarse scan (here without loss) is fitted again."""
    queries, strangers = unit(8, 64, seed=1), unit(6000, 64)
    writes = history(queries, 250)

    def fresh() -> Index:
        return filled(strangers[:4900], exact_limit=exact_limit)

    live, written, ended = fresh(), [0], Event()

    def read() -> list[tuple[int, list[tuple[Candidate, ...]], int]]:
        answers = []
        while not ended.is_set():
            before = written[0]
            answers.append((before, live.search(queries, top=3), written[0]))
        return answers

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for write in writes:
            write(live)
            written[0] += 1
            sleep(0.002)
        ended.set()
        answers = [answer for reader in readers for answer in reader.result()]
    replayed = fresh()
    moments = [replayed.search(queries, top=3)]
    for write in writes:
        write(replayed)
        moments.append(replayed.search(queries, top=3))
    assert len({before for before, _, _ in answers}) > 10
    for before, found, after in answers:
        assert found in moments[before : after + 2]  # the write under way may be seen before it is counted


def history(queries: Floats, steps: int) -> list[Callable[[Index], object]]:
    """Writes that change the best subjects of the queries nearly each time."""
    chance, writes = random.Random(5), list[Callable[[Index], object]]()

    def put(name: str, subject: str, vector: Floats, negative: bool) -> None:
        writes.append(lambda index: index.put(name, subject, vector, negative))

    def drop(name: str) -> None:
        writes.append(lambda index: index.drop(name))

    def put_many(names: list[str], vectors: Floats) -> None:
        writes.append(lambda index: index.put_many(names, names, vectors))

    for step in range(steps):
        close = near(queries[chance.randrange(8)][np.newaxis], seed=step)[0]
        if step % 3 == 2:
            drop(f"t{chance.randrange(4000)}")
        elif step == 100:
            put_many([f"x{n}" for n in range(4000)], unit(4000, 64, seed=9))
        else:
            put(f"p{chance.randrange(30)}", f"p{chance.randrange(9)}", close, chance.random() < 0.2)
    return writes
