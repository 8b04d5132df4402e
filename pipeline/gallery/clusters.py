"""Which unknown tracks are the same person, whom nobody has enrolled."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.gallery.errors import InvalidError
from pipeline.gallery.subjects import Kept, UnknownTrack
from pipeline.packets import Floats

BLOCK = 512  # tracks that are held against all others at once
LEVELS = (0.8, 0.6)  # cosines down to which groups are joined first
ROUNDING = 1e-6
Ints = NDArray[np.int64]


class Cluster(Kept):
    """Unknown tracks of one person.

    Attributes:
        id: Follows from the oldest member, so it stays while others join and leave.
        members: Ids of the tracks, oldest first.
        best: The member of the best quality.
        streams: Where the person was seen, in alphabetical order.
        first_seen: When, at first.
        last_seen: When, at last.
        cohesion: Mean cosine of two members; 1 for one alone.
    """

    id: str
    members: tuple[str, ...]
    best: str
    streams: tuple[str, ...]
    first_seen: AwareDatetime
    last_seen: AwareDatetime
    cohesion: float


def clusters(unknowns: Sequence[UnknownTrack], *, threshold: float) -> list[Cluster]:
    """Who was seen, the one with the most tracks first; ignored tracks are left out.

    The order of ``unknowns`` makes no difference.

    Args:
        unknowns: Tracks, with vectors of one net.
        threshold: Two groups are one person if the mean cosine between them is at least that.

    Raises:
        InvalidError: The vectors are of several nets.
    """
    kept = sorted((track for track in unknowns if not track.ignored), key=lambda track: (track.seen, track.id))
    if len({track.model for track in kept}) > 1:
        message = "unknown tracks with vectors of several nets cannot be held against each other; ask for one net"
        raise InvalidError(message)
    if not kept:
        return []
    vectors = np.stack([track.vector for track in kept])
    members = _members(grouped(vectors, threshold))
    found = [_cluster([kept[n] for n in group.tolist()], vectors[group]) for group in members]
    return sorted(found, key=lambda cluster: (-len(cluster.members), cluster.first_seen, cluster.id))


def grouped(vectors: Floats, threshold: float) -> Ints:
    """The number of the group of each of ``vectors``, (N, D) of unit length: average linkage, cut at ``threshold``.

    Joining two groups never brings them nearer to a third. So what is joined above a level does not depend on what is
    joined below it, and no group leaves its component of the graph of all pairs that reach the level. That makes many
    small problems of a large one; means of groups are all that is kept, and never an N x N matrix.
    """
    means, sizes, labels = vectors, np.ones(len(vectors), np.float32), np.arange(len(vectors))
    for level in (*(level for level in LEVELS if level > threshold), threshold):
        parts = _members(_components(means, level))
        groups = [part[group] for part in parts for group in _linked(means[part], sizes[part], level)]
        number = np.empty(len(means), np.int64)
        for n, group in enumerate(groups):
            number[group] = n
        labels = number[labels]
        means = np.array([np.average(means[g], axis=0, weights=sizes[g]) for g in groups], np.float32)
        sizes = np.array([sizes[group].sum() for group in groups], np.float32)
    return labels


def _components(means: Floats, level: float) -> Ints:
    """The number of the component of each of ``means`` in the graph of all pairs that reach ``level``."""
    count = len(means)
    labels = np.arange(count, dtype=np.int64)
    for start in range(0, count, BLOCK):
        near = np.nonzero(means[start : start + BLOCK] @ means[start:].T >= level)
        rows, columns = (labels[start + place] for place in near)
        graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
        labels = np.asarray(connected_components(graph, directed=False)[1], np.int64)[labels]
    return labels


def _linked(means: Floats, sizes: Floats, level: float) -> list[Ints]:
    """The groups that average linkage makes of groups with these means and sizes, by chains of nearest neighbours.

    Two that are each other's nearest are joined (Murtagh 1983); one whose nearest is below the level is finished. The
    mean cosine between two groups is the product of their means.
    """
    means, sizes, groups = means.copy(), sizes.copy(), [[n] for n in range(len(means))]
    finished: list[Ints] = []
    chain: list[int] = []
    while groups:
        chain = chain or [0]
        top = chain[-1]
        near = means[: len(groups)] @ means[top]
        near[top] = -np.inf
        best = int(near.argmax())
        if len(chain) > 1 and near[chain[-2]] >= near[best] - ROUNDING:
            best = chain[-2]
        if near[best] < level:
            finished.append(np.array(groups[top]))
            chain, gone = [], top
        elif best in chain:
            means[best] = np.average(means[[best, top]], axis=0, weights=sizes[[best, top]])
            sizes[best] += sizes[top]
            groups[best] += groups[top]
            chain, gone = chain[:-2], top
        else:
            chain.append(best)
            continue
        last = len(groups) - 1
        means[gone], sizes[gone], groups[gone] = means[last], sizes[last], groups[last]
        chain = [gone if slot == last else slot for slot in chain]
        groups.pop()
    return finished


def _members(labels: Ints) -> list[Ints]:
    """The places of each label."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _cluster(tracks: Sequence[UnknownTrack], vectors: Floats) -> Cluster:
    """A cluster of ``tracks``, oldest first."""
    count, length = len(tracks), float(np.square(vectors.sum(axis=0, dtype=np.float64)).sum())
    return Cluster(
        id=sha256(tracks[0].id.encode()).hexdigest()[:16],
        members=tuple(track.id for track in tracks),
        best=max(tracks, key=lambda track: track.quality).id,
        streams=tuple(sorted({track.stream for track in tracks})),
        first_seen=tracks[0].seen,
        last_seen=tracks[-1].seen,
        cohesion=round((length - count) / (count * (count - 1)), 4) if count > 1 else 1.0,
    )
