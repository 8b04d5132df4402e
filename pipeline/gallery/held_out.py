"""What every template of a gallery would score if it were not enrolled: against its own subject, and against others.

To a gallery without a subject that subject's templates are faces of a stranger. So a gallery tells by itself how high
strangers score: leave one subject out, and look at the best of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.protocol import Template
from pipeline.packets import Floats

BLOCK = 4096  # templates on each side of a product: 64 MB of scores
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The N templates of a gallery in columns, sorted by subject.

    Attributes:
        templates: They themselves.
        vectors: (N, D) float32, unit length.
        subject: (N,) number of the subject, ascending.
        photo: (N,) number of the photo; templates of one photo have the same.
        masked: (N,) whether the face wore a mask.
    """

    templates: tuple[Template, ...]
    vectors: Floats
    subject: Ints
    photo: Ints
    masked: Bools

    @property
    def subjects(self) -> int:
        """How many there are."""
        return int(self.subject[-1]) + 1 if len(self.subject) else 0

    def name(self, row: int) -> str:
        """Whose the template in ``row`` is."""
        return self.templates[row].subject_id


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What each of N templates scores when it is held out.

    Attributes:
        own: (N,) float32, best cosine with another photo of its subject; -inf where there is none.
        other: (N,) float32, best cosine with anybody else; -inf where there is nobody.
        nearest: (N,) row of that template of somebody else; -1 where there is nobody.
    """

    own: Floats
    other: Floats
    nearest: Ints


def enrolled(templates: Sequence[Template]) -> Enrolled:
    """The templates in columns, without negative anchors; the order of ``templates`` makes no difference."""
    kept = tuple(sorted((t for t in templates if not t.negative), key=lambda t: (t.subject_id, t.id)))
    vectors = np.stack([t.vector for t in kept]) if kept else np.zeros((0, 512), np.float32)
    photos = [t.source_sha256 or f"template {row}" for row, t in enumerate(kept)]
    masked = np.array([t.masked for t in kept], np.bool_)
    return Enrolled(kept, vectors, _numbers([t.subject_id for t in kept]), _numbers(photos), masked)


def held_out(gallery: Enrolled) -> HeldOut:
    """Each template against all others, block by block: no more than ``BLOCK``² scores are held at once."""
    count = len(gallery.vectors)
    own, other = (np.full(count, -np.inf, np.float32) for _ in range(2))
    nearest = np.full(count, -1, np.int64)
    for rows in _blocks(count):
        for columns in _blocks(count, rows.start):
            scores = gallery.vectors[rows] @ gallery.vectors[columns].T
            if gallery.subject[rows][-1] >= gallery.subject[columns][0]:
                _split(gallery, rows, columns, scores, own)
            _raise(scores, rows, columns, other, nearest)
            if columns != rows:
                _raise(scores.T, columns, rows, other, nearest)
    return HeldOut(own, other, nearest)


def best_match(vectors: Floats, gallery: Enrolled) -> tuple[Floats, Ints]:
    """Best cosine of each of ``vectors``, (M, D), with the gallery, (M,), and the rows of these templates, (M,)."""
    best, nearest = np.full(len(vectors), -np.inf, np.float32), np.full(len(vectors), -1, np.int64)
    for rows in _blocks(len(vectors)):
        for columns in _blocks(len(gallery.vectors)):
            _raise(vectors[rows] @ gallery.vectors[columns].T, rows, columns, best, nearest)
    return best, nearest


def _split(gallery: Enrolled, rows: slice, columns: slice, scores: Floats, own: Floats) -> None:
    """Take a subject's scores with itself out of ``scores``, and raise ``own`` to the best of another photo."""
    same = gallery.subject[rows, None] == gallery.subject[None, columns]
    genuine = np.where(same & (gallery.photo[rows, None] != gallery.photo[None, columns]), scores, -np.inf)
    own[rows] = np.maximum(own[rows], genuine.max(1))
    own[columns] = np.maximum(own[columns], genuine.max(0))
    scores[same] = -np.inf


def _raise(scores: Floats, rows: slice, columns: slice, best: Floats, nearest: Ints) -> None:
    """Raise ``best`` and ``nearest`` of ``rows`` to the highest of ``scores``, (rows, columns)."""
    place = scores.argmax(1)
    found = scores[np.arange(len(scores)), place]
    better = found > best[rows]
    best[rows][better] = found[better]
    nearest[rows][better] = place[better] + columns.start


def _blocks(count: int, first: int = 0) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, count)) for start in range(first, count, BLOCK))


def _numbers(names: Sequence[str]) -> Ints:
    number = {name: n for n, name in enumerate(sorted(set(names)))}
    return np.array([number[name] for name in names], np.int64)
