"""The templates of an index row by row, and the quick look over all rows that finds the highest scores."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.packets import Floats

Ranks = NDArray[np.intp]

SLAB = 262_144  # rows of a matrix that are allocated at once; a multiple of every size of block


class Matrix:
    """Rows of float32 in slabs that never move: to grow copies nothing, and leaves no old rows behind in memory.

    A slab takes its pages from the system when they are first written.
    """

    def __init__(self, width: int) -> None:
        self.slabs: list[Floats] = []
        self._width = width

    def __getitem__(self, rows: Iterable[int]) -> Floats:
        """A copy of some rows."""
        found = (self.slabs[row // SLAB][row % SLAB] for row in rows)
        return np.concatenate([np.empty(0, np.float32), *found]).reshape(-1, self._width)

    def __setitem__(self, rows: Iterable[int], values: Floats) -> None:
        """Write some rows; new ones must follow the last."""
        for row, value in zip(rows, values, strict=True):
            if row == len(self.slabs) * SLAB:
                self.slabs.append(np.zeros((SLAB, self._width), np.float32))
            self.slabs[row // SLAB][row % SLAB] = value

    def swap_delete(self, row: int, last: int) -> None:
        """Overwrite a row by the last one, and the last one by zeros."""
        self.slabs[row // SLAB][row % SLAB] = self.slabs[last // SLAB][last % SLAB]
        self.slabs[last // SLAB][last % SLAB] = 0

    def parts(self, count: int) -> Iterator[tuple[int, Floats]]:
        """The first ``count`` rows where they lie, slab by slab, each with the number of its first row."""
        for start in range(0, count, SLAB):
            yield start, self.slabs[start // SLAB][: count - start]


class Rows:
    """Templates in a matrix that is always dense: the last one takes the place of one that is dropped.

    Attributes:
        values: (len(rows), D), zeros below.
        subjects: Whose each template is.
    """

    def __init__(self, dimension: int) -> None:
        self.values = Matrix(dimension)
        self.subjects: list[str] = []
        self._hashes: array[int] = array("q")  # of the subjects, to find the rows of one at a glance
        self._ids: list[str] = []
        self._row_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, template_id: str) -> bool:
        return template_id in self._row_of

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the templates, in the order of their rows."""
        return tuple(self._ids)

    def subject_of(self, template_id: str) -> str:
        """Whose template this is."""
        return self.subjects[self._row_of[template_id]]

    def rows_of(self, subject_id: str) -> list[int]:
        """Where the templates of a subject lie."""
        alike = np.flatnonzero(np.frombuffer(self._hashes, np.int64) == hash(subject_id)) if self._hashes else ()
        return [int(row) for row in alike if self.subjects[row] == subject_id]

    def put(self, ids: Sequence[str], subjects: Iterable[str], vectors: Floats) -> list[int]:
        """Write templates, over those of the same id where there are any.

        Returns:
            The row of each.
        """
        rows = [self._row_of.setdefault(template_id, len(self._row_of)) for template_id in ids]
        new = len(self._row_of) - len(self._ids)
        self._ids.extend([""] * new)
        self.subjects.extend([""] * new)
        self._hashes.extend([0] * new)
        for row, template_id, subject in zip(rows, ids, subjects, strict=True):
            self._ids[row], self.subjects[row], self._hashes[row] = template_id, subject, hash(subject)
        self.values[rows] = vectors
        return rows

    def drop(self, template_id: str) -> tuple[int, int]:
        """Remove a template.

        Returns:
            Its row, and the row whose template lies there now: the last one, which is zero from now on.
        """
        row, last = self._row_of.pop(template_id), len(self._ids) - 1
        self.values.swap_delete(row, last)
        moved, subject, hashed = self._ids.pop(), self.subjects.pop(), self._hashes.pop()
        if row != last:
            self._ids[row], self.subjects[row], self._hashes[row] = moved, subject, hashed
            self._row_of[moved] = row
        return row, last


class Scan:
    """The scores of all rows for some queries, with the maximum of each block of rows.

    A block is a comb of rows, equally far apart, so that the maxima of all blocks are an element-wise maximum of
    long contiguous runs, which costs a few per cent of the product. The rows whose score is among the k best lie in
    the k blocks with the highest maxima, and only those are looked at.
    """

    def __init__(self, queries: Floats, values: Matrix, count: int) -> None:
        """Score the first ``count`` rows of ``values``, at least one, for ``queries`` (N, D)."""
        block = 64 if count > 1 << 15 else 8
        scores = np.empty((len(queries), -(-count // block) * block), np.float32)
        for start, part in values.parts(scores.shape[1]):
            np.matmul(queries, part.T, out=scores[:, start : start + len(part)])
        scores[:, count:] = -np.inf
        self._count = count
        self._scores: Floats = scores.reshape(len(queries), block, -1)
        self._highest: Floats = self._scores.max(axis=1)

    def nearest(self, query: int, least: int) -> tuple[Ranks, Floats, float]:
        """At least ``least`` rows with the highest scores for a query, in no order.

        Returns:
            The rows, their scores, and what no score of another row exceeds.
        """
        highest = self._highest[query]
        if least >= self._count:
            return np.arange(self._count), self._row(query), -np.inf
        if 2 * least >= len(highest):  # nearly all blocks are wanted: the blocks save nothing
            scores, bound = self._row(query), lowest_of_best(self._row(query), least)
            rows = np.flatnonzero(scores >= bound)
            return rows, scores[rows], bound
        bound = lowest_of_best(highest, least)
        blocks = np.flatnonzero(highest >= bound)
        scores = self._scores[query][:, blocks]
        places, columns = np.nonzero(scores >= bound)
        return places * len(highest) + blocks[columns], scores[places, columns], bound

    def _row(self, query: int) -> Floats:
        scores: Floats = self._scores[query].reshape(-1)
        return scores[: self._count]


def lowest_of_best(scores: Floats, count: int) -> float:
    """The ``count``-th highest of ``scores``."""
    return float(np.partition(scores, len(scores) - count)[len(scores) - count])
