"""The coarse scan keeps in step with the templates and loses next to nobody."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.gallery.coarse import WIDTH, principal_directions
from pipeline.gallery.index import Index
from pipeline.packets import Floats


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that templates lie in many."""
    monkeypatch.setattr("pipeline.gallery.rows.SLAB", 4096)


def unit(drawn: Floats) -> Floats:
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def faces(people: int, dimension: int = 512) -> tuple[Floats, Floats]:
    """A template and a query of each: 48 directions that all share, and noise of their own; their cosine is 0.72."""
    rng = np.random.default_rng(0)
    own = unit(rng.normal(size=(people, 48)) @ rng.normal(size=(48, dimension)))
    template, query = (unit(own + 0.624 * unit(rng.normal(size=(people, dimension)))) for _ in range(2))
    return template, query


def filled(vectors: Floats, exact_limit: int, people: int = 10**9) -> Index:
    index = Index(vectors.shape[1], exact_limit)
    names = [str(n) for n in range(len(vectors))]
    index.put_many(names, [str(n % people) for n in range(len(vectors))], vectors)
    return index


def test_the_directions_keep_inner_products_best() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(200, 20)) * np.linspace(0.1, 1, 20))
    directions = principal_directions(vectors, 5)
    left, singular, right = np.linalg.svd(vectors)
    best = (left[:, :5] * singular[:5]) @ right[:5]
    np.testing.assert_allclose(vectors @ directions @ directions.T, best, atol=1e-5)
    np.testing.assert_allclose(directions.T @ directions, np.eye(5), atol=1e-5)


def test_rows_follow_those_of_the_templates() -> None:
    vectors, others = faces(1000, 160)
    index = filled(vectors, exact_limit=900)
    for n in range(0, 600, 3):
        index.drop(str(n))
    index.put("1", "1", others[1])
    index.put_many([f"n{n}" for n in range(500)], ["new"] * 500, others[:500])
    coarse, held = index._coarse, index._templates
    assert coarse
    assert coarse.values.slabs[0].shape[1] == WIDTH
    rows = np.arange(len(held))
    np.testing.assert_allclose(coarse.values[rows], coarse.project(held.values[rows]), atol=1e-5)
    assert not np.concatenate(coarse.values.slabs)[len(held) :].any()


def test_the_directions_are_fitted_again_when_there_are_twice_as_many_templates() -> None:
    vectors, _ = faces(400, 32)
    index, fitted = Index(32, 100), []
    for n, vector in enumerate(vectors):
        index.put(str(n), str(n), vector)
        fitted.append(index._coarse.fitted_on if index._coarse else 0)
    assert sorted(set(fitted)) == [0, 101, 202]


def test_the_best_subject_and_the_runner_up_are_those_of_the_exact_search() -> None:
    vectors, queries = faces(8000)
    coarse, exact = filled(vectors, exact_limit=1000), filled(vectors, exact_limit=10**9)
    pairs = list(zip(coarse.search(queries[:256]), exact.search(queries[:256]), strict=True))
    assert sum(ours[0] == theirs[0] for ours, theirs in pairs) >= 0.99 * 256
    assert sum(ours[1] == theirs[1] for ours, theirs in pairs) >= 0.95 * 256


def test_scores_are_exact() -> None:
    vectors, queries = faces(3000, 160)
    for query, found in zip(queries[:20], filled(vectors, exact_limit=1000).search(queries[:20]), strict=True):
        for candidate in found:
            exact = float(vectors[int(candidate.subject_id)].astype(np.float64) @ query)
            assert abs(candidate.score - exact) < 1e-12


def test_where_few_subjects_have_all_templates_everything_is_looked_at() -> None:
    vectors, queries = faces(6000, 160)
    coarse, exact = (filled(vectors, exact_limit=limit, people=4) for limit in (1000, 10**9))
    assert coarse.search(queries[:3]) == exact.search(queries[:3])
    assert all(len(found) == 4 for found in coarse.search(queries[:3]))


def test_a_narrow_gallery_is_not_made_wider() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(300, 16)))
    coarse = filled(vectors, exact_limit=100)._coarse
    assert coarse
    assert coarse.values.slabs[0].shape[1] == 16
