"""The templates of a gallery in memory: exact search by one matrix product, and what is dropped is overwritten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Lock, get_ident

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.coarse import Coarse
from pipeline.gallery.errors import InvalidError
from pipeline.gallery.rows import Matrix, Ranks, Rows, Scan
from pipeline.packets import Candidate, Floats

BATCH = 64  # queries scored at once: their scores take 256 bytes a template
SLICE = 4096  # templates written at once: the lock is held for a few milliseconds
EXACT_ROWS, COARSE_ROWS = 32, 256  # rows looked at for one query at first
WIDER = 8  # times as many rows are looked at where those do not do


@dataclass(frozen=True, slots=True)
class _Look:
    """What a search has seen without the lock, and the rows that a writer has changed since.

    Attributes:
        scan: Scores of all rows as they were when the search began.
        coarse: Whether those are scores of the coarse scan.
        stale: Rows that the scan may have seen half written, or that are no more.
        fresh: (C,) the rows among those that are in use now.
        scores: (N, C) their scores as they are now.
        guarded: Subjects with negative anchors.
    """

    scan: Scan
    coarse: bool
    stale: Ranks
    fresh: Ranks
    scores: Floats
    guarded: frozenset[str]


class Index:
    """Templates by id, in one matrix, for one writer and any number of searching threads.

    A search sees the templates of one moment. It does not hold the lock while it multiplies: writers note the rows
    they change for each search under way, and the search, in the short time it holds the lock to rank subjects,
    scores those rows again. So a writer waits for milliseconds, not for a product over the whole gallery, and a search
    never uses a row that it may have read half written. Where everything was replaced meanwhile it begins again.

    Erasure: the row of a dropped template is overwritten at once, here and in the coarse scan, and rows are never
    copied to a larger matrix. What numpy gave back to the allocator (rows gathered for scoring) is out of its reach
    and is written over by whatever comes next.

    Memory for a million templates of 512 dimensions: 2.05 GB, 0.51 GB for the coarse scan (twice, while it is fitted
    again), about 0.25 GB for names, and 0.26 GB while a batch of 64 is searched.
    """

    def __init__(self, dimension: int = 512, exact_limit: int = 200_000) -> None:
        """An empty index.

        Args:
            dimension: Of all vectors.
            exact_limit: With more templates than this, searches begin with the coarse scan.
        """
        self.dimension, self._exact_limit = dimension, exact_limit
        self._templates, self._anchors = Rows(dimension), Rows(dimension)
        self._coarse: Coarse | None = None
        self._lock = Lock()  # held to look at or change anything, for short times
        self._writing = Lock()  # held by the one who writes
        # A product takes all cores. Where many threads ask for one at once, the threads of OpenBLAS wait for each other
        # in a spin, and 30 searches take as long as 200 one after the other.
        self._multiplying = Lock()
        self._changed: dict[int, set[int]] = {}  # by the thread that searches
        # Two sums of D products in single precision differ by less than this (Higham 2002, section 3.1, doubled).
        self._rounding = 4 * dimension * 2.0**-24

    def __len__(self) -> int:
        return len(self._templates) + len(self._anchors)

    def ids(self) -> tuple[str, ...]:
        """Ids of all templates, negative ones too."""
        with self._lock:
            return self._templates.ids + self._anchors.ids

    def subject_of(self, template_id: str) -> str | None:
        """Whose template (or negative anchor) this is; None if it is not here."""
        with self._lock:
            holders = [rows for rows in (self._templates, self._anchors) if template_id in rows]
            return holders[0].subject_of(template_id) if holders else None

    def subjects(self) -> frozenset[str]:
        """Who can be found."""
        with self._lock:
            return frozenset(self._templates.subjects)

    def holds(self, subject_id: str) -> bool:
        """Whether somebody can be found."""
        with self._lock:
            return bool(self._templates.rows_of(subject_id))

    def vectors_of(self, subject_id: str) -> Floats:
        """A subject's templates without its negative anchors, (K, D) float32; K is 0 for an unknown subject."""
        with self._lock:
            return self._templates.values[self._templates.rows_of(subject_id)]

    def put(self, template_id: str, subject_id: str, vector: Floats, negative: bool = False) -> None:
        """Add a template, or overwrite the one of this id.

        Args:
            template_id: Its name.
            subject_id: Whose it is.
            vector: (D,) float32 of unit length.
            negative: It says who is not the subject: a query that is at least as close to it as to the subject's best
                template does not find the subject.

        Raises:
            InvalidError: The vector is not finite, of unit length and of this index's dimension.
        """
        self.put_many([template_id], [subject_id], np.asarray(vector)[np.newaxis], [negative])

    def put_many(
        self, ids: Sequence[str], subject_ids: Sequence[str], vectors: Floats, negatives: Sequence[bool] | None = None
    ) -> None:
        """Add or overwrite templates, the last of equal ids counts; a search meanwhile may find the first part of them.

        Args:
            ids: N names.
            subject_ids: Whose each is.
            vectors: (N, D) float32 of unit length.
            negatives: Which are negative anchors; None for none.

        Raises:
            InvalidError: A vector is not valid, or the lengths differ; nothing is written.
        """
        vectors = checked(vectors, self.dimension)
        negative = np.zeros(len(ids), np.bool_) if negatives is None else np.asarray(negatives, np.bool_)
        if not len(ids) == len(subject_ids) == len(vectors) == len(negative):
            message = (
                f"there are {len(ids)} ids, {len(subject_ids)} subjects and {len(vectors)} vectors; give one of each"
            )
            raise InvalidError(message)
        with self._writing:
            for start in range(0, len(ids), SLICE):
                part = slice(start, start + SLICE)
                self._put(ids[part], subject_ids[part], vectors[part], negative[part])
            self._fit_coarse()

    def drop(self, template_id: str) -> bool:
        """Remove and overwrite a template; False if there is none of this id."""
        with self._writing, self._lock:
            return self._drop(self._templates, template_id) or self._drop(self._anchors, template_id)

    def clear(self) -> None:
        """Remove and overwrite everything."""
        with self._writing, self._lock:
            _overwrite(self._templates.values, len(self._templates))
            _overwrite(self._anchors.values, len(self._anchors))
            if self._coarse:
                _overwrite(self._coarse.values, len(self._templates))
            self._templates, self._anchors, self._coarse = Rows(self.dimension), Rows(self.dimension), None

    def search(self, vectors: Floats, top: int = 5) -> list[tuple[Candidate, ...]]:
        """The best ``top`` subjects for each vector, each with the cosine of its best template; ties go by subject id.

        Exact up to ``exact_limit`` templates: scores are summed in double precision, so that the answer to a vector
        depends neither on the batch it came in nor on where its templates lie. Above, the best few hundred rows
        of the coarse scan are scored so.

        Args:
            vectors: (N, D) float32 of unit length.
            top: Subjects at most for each.

        Raises:
            InvalidError: A vector is not valid, or ``top`` is less than one.
        """
        queries = checked(vectors, self.dimension)
        if top < 1:
            message = f"a search for the best {top} subjects finds none; ask for one at least"
            raise InvalidError(message)
        batches = (queries[start : start + BATCH] for start in range(0, len(queries), BATCH))
        return [found for batch in batches for found in self._search(batch, top)]

    # Writing

    def _put(self, ids: Sequence[str], subjects: Sequence[str], vectors: Floats, negative: NDArray[np.bool_]) -> None:
        with self._lock:
            for rows, others, chosen in (
                (self._templates, self._anchors, np.flatnonzero(~negative)),
                (self._anchors, self._templates, np.flatnonzero(negative)),
            ):
                if not len(chosen):
                    continue
                names = [ids[n] for n in chosen.tolist()]
                for name in names:
                    self._drop(others, name)
                placed = rows.put(names, [subjects[n] for n in chosen.tolist()], vectors[chosen])
                if rows is self._templates:
                    self._note(placed)
                    if self._coarse:
                        self._coarse.put(placed, vectors[chosen])

    def _drop(self, rows: Rows, template_id: str) -> bool:
        if template_id not in rows:
            return False
        row, last = rows.drop(template_id)
        if rows is self._templates:
            self._note([row, last])
            if self._coarse:
                self._coarse.drop(row, last)
        return True

    def _note(self, rows: Iterable[int]) -> None:
        """Tell the searches under way what they may not have seen."""
        for changed in self._changed.values():
            changed.update(rows)

    def _fit_coarse(self) -> None:
        """Fit a coarse scan where there are enough templates, again when there are twice as many."""
        count = len(self._templates)
        if count <= self._exact_limit or (self._coarse and count < 2 * self._coarse.fitted_on):
            return
        old, new = self._coarse, Coarse(self._templates.values, count)  # only a writer changes them, so no lock
        with self._lock:
            self._coarse = new
        if old:
            _overwrite(old.values, count)

    # Searching

    def _search(self, queries: Floats, top: int) -> list[tuple[Candidate, ...]]:
        """Search as the size of the gallery asks for; where the coarse scan finds too few, look at all rows."""
        found = self._found(queries, top, coarse=len(self._templates) > self._exact_limit)
        missed = [n for n, best in enumerate(found) if best is None]
        if missed:
            for n, best in zip(missed, self._found(queries[missed], top, coarse=False), strict=True):
                found[n] = best
        return [best or () for best in found]

    def _found(self, queries: Floats, top: int, *, coarse: bool) -> list[tuple[Candidate, ...] | None]:
        """The answers; None where the coarse scan does not do."""
        while True:
            with self._noting() as changed:
                with self._lock:
                    templates, count, eye = self._templates, len(self._templates), self._coarse if coarse else None
                if not count:
                    return [()] * len(queries)
                with self._multiplying:
                    scan = Scan(*((eye.project(queries), eye.values) if eye else (queries, templates.values)), count)
                with self._lock:
                    if templates is self._templates and eye is (self._coarse if coarse else None):
                        look = self._look(queries, scan, changed, coarse=eye is not None)
                        return [self._answer(look, n, query, top) for n, query in enumerate(queries)]

    @contextmanager
    def _noting(self) -> Iterator[set[int]]:
        """The rows that writers change from now on."""
        changed: set[int] = set()
        with self._lock:
            self._changed[get_ident()] = changed
        try:
            yield changed
        finally:
            with self._lock:
                del self._changed[get_ident()]

    def _look(self, queries: Floats, scan: Scan, changed: set[int], *, coarse: bool) -> _Look:
        stale = np.array(sorted(changed), np.intp)
        fresh = stale[stale < len(self._templates)]
        scores = queries @ self._templates.values[fresh.tolist()].T
        return _Look(scan, coarse, stale, fresh, scores, frozenset(self._anchors.subjects))

    def _answer(self, look: _Look, n: int, query: Floats, top: int) -> tuple[Candidate, ...] | None:
        """The best subjects for the ``n``-th query: look at ever more rows until no other can be among them."""
        least = COARSE_ROWS if look.coarse else EXACT_ROWS
        while True:
            rows, scores, bound = self._pool(look, n, query, least)
            best = self._best(query, rows, scores, look.guarded, top)
            full = len(best) == top and (look.coarse or best[-1].score > bound + self._rounding)
            if full or bound == -np.inf:
                return best
            if look.coarse and least > COARSE_ROWS:
                return None
            least *= WIDER

    def _pool(self, look: _Look, n: int, query: Floats, least: int) -> tuple[Ranks, Floats, float]:
        """At least ``least`` of the rows that score highest, their scores to rounding, and the bound of all others."""
        rows, scores, bound = look.scan.nearest(n, least)
        if len(look.stale):
            kept = ~np.isin(rows, look.stale)
            near = look.coarse | (look.scores[n] > bound)
            rows = np.concatenate([rows[kept], look.fresh[near]])
            scores = np.concatenate([scores[kept], look.scores[n][near]])
        return rows, self._templates.values[rows.tolist()] @ query if look.coarse else scores, bound

    def _best(
        self, query: Floats, rows: Ranks, scores: Floats, guarded: frozenset[str], top: int
    ) -> tuple[Candidate, ...]:
        """The best of the subjects that have templates in ``rows``, without those that an anchor rules out."""
        subjects, rivals = self._templates.subjects, self._rivals(rows, scores, guarded, top)
        exact = similarities(self._templates.values[rivals], query)
        best: dict[str, float] = {}
        for negated, subject in sorted(zip((-exact).tolist(), (subjects[row] for row in rivals), strict=True)):
            best.setdefault(subject, -negated)
        left = (s for s in best if s not in guarded or not self._ruled_out(s, query, best[s]))
        return tuple(Candidate(subject, min(1.0, max(-1.0, best[subject]))) for subject in islice(left, top))

    def _rivals(self, rows: Ranks, scores: Floats, guarded: frozenset[str], top: int) -> list[int]:
        """The rows that can decide the answer: each subject's best, to rounding, until ``top`` subjects are certain."""
        subjects, sure, floor, order = self._templates.subjects, 0, -np.inf, np.argsort(-scores)
        best: dict[str, float] = {}
        rivals: list[int] = []
        for row, score in zip(rows[order].tolist(), scores[order].tolist(), strict=True):
            if score < floor:
                break
            if (subject := subjects[row]) not in best:
                best[subject] = score
                sure += subject not in guarded
                if sure == top and subject not in guarded:
                    floor = score - self._rounding
            if score >= best[subject] - self._rounding:
                rivals.append(row)
        return rivals

    def _ruled_out(self, subject_id: str, query: Floats, score: float) -> bool:
        """Whether the query is at least as close to one of the subject's anchors."""
        anchors = self._anchors.values[self._anchors.rows_of(subject_id)]
        return bool(similarities(anchors, query).max() >= score)


def _overwrite(values: Matrix, count: int) -> None:
    for _, part in values.parts(count):
        part.fill(0)


def similarities(vectors: Floats, query: Floats) -> NDArray[np.float64]:
    """The inner product of each of ``vectors`` (N, D) with ``query`` (D,), summed in double precision, always alike."""
    return np.asarray((vectors.astype(np.float64) * query).sum(axis=1))


def checked(vectors: Floats, dimension: int) -> Floats:
    """``vectors`` as a contiguous (N, D) float32 array.

    Raises:
        InvalidError: They are not (N, D), not finite or not of unit length within 1e-3.
    """
    try:
        found = np.ascontiguousarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        message = f"vectors must be numbers in rows of {dimension}"
        raise InvalidError(message) from error
    if found.ndim != 2 or found.shape[1] != dimension:
        message = f"this gallery holds vectors of {dimension} dimensions, and got an array of shape {found.shape}"
        raise InvalidError(message)
    lengths = np.sqrt(np.einsum("nd,nd->n", found, found))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= 1e-3))  # NaN compares false
    if len(wrong):
        message = f"vector {wrong[0]} has length {lengths[wrong[0]]:.4g}; a vector must be finite and of length 1"
        raise InvalidError(message)
    return found
