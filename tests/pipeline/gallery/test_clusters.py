from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from pipeline.gallery import clusters as module
from pipeline.gallery.clusters import clusters, grouped
from pipeline.gallery.errors import InvalidError
from pipeline.gallery.subjects import UnknownTrack

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def vectors(people: int, shots: int, noise: float = 0.8, seed: int = 0) -> np.ndarray:
    """(people * shots, 64) unit vectors."""
    rng = np.random.default_rng(seed)
    who = np.repeat(rng.normal(size=(people, 64)), shots, axis=0)
    made = who + noise * rng.normal(size=who.shape)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def tracks(made: np.ndarray) -> list[UnknownTrack]:
    return [
        UnknownTrack(f"t{n}", f"cam{n % 2}", vector, "net", n / 100, False, NOON + timedelta(minutes=n))
        for n, vector in enumerate(made)
    ]


def sets(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}


@pytest.mark.parametrize("threshold", [0.15, 0.3, 0.5, 0.65, 0.9])
@pytest.mark.parametrize("block", [16, 512])
def test_groups_are_those_of_average_linkage(threshold: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    made = vectors(20, 6)
    distances = np.clip(1 - made.astype(float) @ made.T.astype(float), 0, None)[np.triu_indices(len(made), 1)]
    expected = fcluster(linkage(distances, "average"), 1 - threshold, "distance")
    assert sets(grouped(made, threshold)) == sets(expected)


def test_each_person_is_one_cluster_largest_first() -> None:
    made = tracks(vectors(3, 4))
    found = clusters(made[:-1], threshold=0.4)
    assert [cluster.members for cluster in found] == [
        ("t0", "t1", "t2", "t3"),
        ("t4", "t5", "t6", "t7"),
        ("t8", "t9", "t10"),
    ]
    first = found[0]
    assert first.best == "t3"
    assert first.streams == ("cam0", "cam1")
    assert (first.first_seen, first.last_seen) == (NOON, NOON + timedelta(minutes=3))


def test_cohesion_is_the_mean_cosine_of_two_members() -> None:
    made = tracks(vectors(1, 4))
    (found,) = clusters(made, threshold=0.1)
    matrix = np.array([t.vector for t in made])
    assert found.cohesion == pytest.approx((matrix @ matrix.T)[np.triu_indices(4, 1)].mean(), abs=1e-4)
    assert clusters(made[:1], threshold=0.4)[0].cohesion == 1


def test_a_chain_of_people_who_resemble_their_neighbours_is_not_one_person() -> None:
    turns = np.linspace(0, np.pi, 13)
    chain = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    assert (np.einsum("nd,nd->n", chain[:-1], chain[1:]) > 0.9).all()
    found = clusters(tracks(chain), threshold=0.9)
    assert len(found) > 3
    assert min(cluster.cohesion for cluster in found) >= 0.9


def test_the_order_of_tracks_makes_no_difference() -> None:
    made = tracks(vectors(10, 5, noise=1.2))
    assert clusters(made[::-1], threshold=0.4) == clusters(made, threshold=0.4)


def test_an_id_stays_while_others_join_and_follows_from_the_oldest() -> None:
    made = tracks(vectors(1, 6))
    ids = {clusters(made[:count], threshold=0.2)[0].id for count in range(1, 7)}
    assert len(ids) == 1
    assert clusters(made[1:], threshold=0.2)[0].id not in ids


def test_ignored_tracks_are_left_out() -> None:
    made = tracks(vectors(2, 3))
    ignored = [replace(t, ignored=n < 3) for n, t in enumerate(made)]
    assert [cluster.members for cluster in clusters(ignored, threshold=0.4)] == [("t3", "t4", "t5")]
    assert clusters([replace(t, ignored=True) for t in made], threshold=0.4) == []


def test_the_same_vector_many_times_is_one_cluster() -> None:
    same = np.repeat(vectors(1, 1), 300, axis=0)
    (found,) = clusters(tracks(same), threshold=0.9999)
    assert len(found.members) == 300


def test_vectors_of_two_nets_are_refused() -> None:
    one, two = tracks(vectors(1, 2))
    with pytest.raises(InvalidError, match="several nets"):
        clusters([one, replace(two, model="other")], threshold=0.4)


def test_two_thousand_tracks_take_seconds() -> None:
    found = clusters(tracks(vectors(250, 8, noise=0.6)), threshold=0.4)
    assert len(found) == 250
