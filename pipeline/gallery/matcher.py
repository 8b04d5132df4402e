"""Matches from memory what is kept elsewhere: reads everything once, then follows the changes."""

from __future__ import annotations

import heapq
import logging
import math
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from pipeline.errors import PipelineError
from pipeline.gallery.index import Index
from pipeline.gallery.protocol import Candidates
from pipeline.gallery.subjects import NamespacePolicy
from pipeline.packets import Candidate, Floats, Pixels

FRESH_S = 2.0  # a feed answers at least once a second, also where nothing has changed
WAIT_S = 1.0
RETRY_S = 0.25

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a matcher has read.

    Attributes:
        birth: Which life of the gallery: one that was wiped and filled again has another.
        version: How many changes were read.
    """

    birth: str
    version: int


@dataclass(frozen=True, slots=True)
class Row:
    """A template as a matcher holds it.

    Attributes:
        id: Of the template.
        subject_id: Whose it is, or is not.
        vector: (D,) float32, unit length.
        negative: Whether it says who somebody is not.
        until: Seconds since 1970 from which it is not matched; infinity if always, 0 if never.
        purposes: What it may be found for; anything if empty.
    """

    id: str
    subject_id: str
    vector: Floats
    negative: bool
    until: float
    purposes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed: rows to hold, ids to forget, each id once, and how far that goes.

    A mark that has not moved means that rows which were there already could not be told before.
    """

    mark: Mark
    rows: tuple[Row, ...] = ()
    gone: tuple[str, ...] = ()


class Feed(Protocol):
    """Where the truth of a gallery is read."""

    def snapshot(self) -> tuple[Mark, Iterable[Sequence[Row]]]:
        """A mark, and all rows that can be read, at least as new as the mark.

        Raises:
            PipelineError: The truth is away, or at the first reading not one row can be read.
        """

    def changes(self, after: Mark, wait_s: float) -> Changes | None:
        """What has changed since ``after``, as soon as anything has or ``wait_s`` are over.

        None where it cannot be told any more, so that everything must be read anew.

        Raises:
            PipelineError: The truth is away.
        """

    def policy(self) -> NamespacePolicy:
        """What the namespace allows by now.

        Raises:
            PipelineError: The truth is away.
        """

    def photo(self, subject_id: str) -> Pixels | None:
        """The best photo of a subject that was kept; None where there is none."""

    def confirm(self, mark: Mark, rows: int) -> None:
        """Tell those who ask that this matcher has read as far as ``mark``."""

    def interrupt(self) -> None:
        """End a call of `changes` that waits; may be called from any thread."""

    def close(self) -> None:
        """End the connection."""


@dataclass
class Memory:
    """What a matcher holds: replaced as a whole when everything is read anew.

    Attributes:
        index: The templates.
        mark: How far it was read.
        lost: As in ``Candidates``.
        since: By subject that came after the first reading, the version from which it could be found.
        until: Of the rows that are not matched for ever.
        expiring: A heap; may hold what is no longer so.
    """

    index: Index
    mark: Mark
    lost: int
    since: dict[str, int] = field(default_factory=dict)
    until: dict[str, float] = field(default_factory=dict)
    expiring: list[tuple[float, str]] = field(default_factory=list)


class Matcher:
    """A gallery that answers from memory, and follows the truth in a thread of its own.

    While the truth is away it goes on with what it knows, and says for how long.
    """

    def __init__(
        self, feed: Feed, name: str = "main", top: int = 5, *, purpose: str | None = None, later: bool = False
    ) -> None:
        """Read everything, and begin to follow.

        Args:
            feed: The truth; closed with the matcher.
            name: What answers call this gallery.
            top: Most subjects of an answer.
            purpose: Whoever is not to be found for it is left out, and everybody where the namespace is not to be asked
                for it; nobody if None.
            later: Read only when something is to be matched.

        Raises:
            PipelineError: The truth is away.
        """
        self.name, self._feed, self._top, self._purpose = name, feed, top, purpose
        self._stopped, self._moved, self._lock = threading.Event(), threading.Condition(), threading.Lock()
        self._read_memory: Memory | None = None
        self._policy = NamespacePolicy()
        self._heard_s = 0.0
        self._thread: threading.Thread | None = None
        if not later:
            self.read()

    @property
    def follows(self) -> bool:
        """Whether it has read the gallery."""
        return self._read_memory is not None

    def read(self) -> Memory:
        """What it holds, read now where it was not yet.

        Raises:
            PipelineError: The truth is away.
        """
        with self._lock:
            if self._read_memory is None:
                self._policy = self._feed.policy()
                memory = self._read_memory = self._snapshot()
                self._feed.confirm(memory.mark, len(memory.index))
                self._heard_s = time.monotonic()
                self._thread = threading.Thread(target=self._follow, name=f"gallery-{self.name}", daemon=True)
                self._thread.start()
        return self._read_memory

    @property
    def version(self) -> int:
        """How many changes of the gallery it has seen."""
        return self.read().mark.version

    @property
    def lost(self) -> int:
        """See ``Gallery``; 0 before it has read the gallery."""
        memory = self._read_memory
        if memory is None:
            return 0
        return min(memory.lost, memory.mark.version) if self._serves(self._policy) else memory.mark.version + 1

    @property
    def stale_s(self) -> float:
        """Seconds since it last heard from the truth; 0 while it hears from it."""
        silent_s = time.monotonic() - self._heard_s
        return 0.0 if silent_s < FRESH_S else float(int(silent_s))

    def __len__(self) -> int:
        """How many templates it holds."""
        return len(self.read().index)

    def match(self, vectors: Floats, masked: Sequence[bool], top: int = 0) -> list[Candidates]:
        """The best subjects of each of ``vectors``, (N, D); masked and bare faces are held against all templates.

        ``top`` is how many, where it is not the matcher's own number.
        """
        del masked
        stale_s, memory, policy = self.stale_s, self.read(), self._policy
        version, lost = memory.mark.version, memory.lost  # before the search: whoever it finds was not lost by then
        limits = policy.limits if "limits" in policy.model_fields_set else None
        if not self._serves(policy):
            return [Candidates((), self.name, version, stale_s, version + 1, limits) for _ in vectors]
        found = memory.index.search(vectors, top or self._top) if len(vectors) else []
        if memory is not self._read_memory:  # it was replaced, and cleared, meanwhile
            return self.match(vectors, [], top)
        return [Candidates(_dated(best, memory), self.name, version, stale_s, lost, limits) for best in found]

    def vectors(self, subject_id: str) -> Floats:
        """(N, D) templates of a subject."""
        return self.read().index.vectors_of(subject_id)

    def template(self, subject_id: str) -> Floats | None:
        """The subject's mean vector, (D,) float32 of unit length; None for an unknown subject."""
        own = self.vectors(subject_id)
        if not len(own):
            return None
        mean = own.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)

    def photo(self, subject_id: str) -> Pixels | None:
        """The subject's best photo that was kept; None where there is none, or the truth is away."""
        try:
            return self._feed.photo(subject_id)
        except PipelineError as error:
            log.warning("no photo for an explanation: %s", error)
            return None

    def wait_for(self, version: int, limit_s: float) -> bool:
        """Wait until it has seen ``version`` changes; False if it took longer than ``limit_s``."""
        with self._moved:
            return self._moved.wait_for(lambda: self.version >= version, limit_s)

    def close(self) -> None:
        """Stop following."""
        self._stopped.set()
        self._feed.interrupt()
        if self._thread is not None:
            self._thread.join(2 * WAIT_S)
        self._feed.close()

    def _snapshot(self) -> Memory:
        mark, parts = self._feed.snapshot()
        memory = Memory(Index(), mark, mark.version)  # who was there before is not known
        for rows in parts:
            self._put(memory, rows)
        return memory

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._advance(self._feed.changes(self.read().mark, WAIT_S))
                self._policy = self._feed.policy()
                self._heard_s = time.monotonic()
            except PipelineError as error:
                if self._stopped.is_set():
                    return
                log.warning("gallery %r is %.0f s old: %s", self.name, self.stale_s, error)
                self._stopped.wait(RETRY_S)
            self._expire(self.read())

    def _advance(self, changes: Changes | None) -> None:
        memory = self.read()
        if changes is None:
            before, memory = memory, self._snapshot()
            memory.since = dict.fromkeys(memory.index.subjects() - before.index.subjects(), memory.mark.version)
        else:
            self._apply(memory, changes)
        with self._moved:
            before, self._read_memory = self._read_memory or memory, memory
            self._moved.notify_all()
        if before is not memory:
            before.index.clear()  # what is freed would keep vectors that may have been erased
        self._feed.confirm(memory.mark, len(memory.index))

    def _apply(self, memory: Memory, changes: Changes) -> None:
        version, index = changes.mark.version, memory.index
        touched = {index.subject_of(name) or "" for name in (*changes.gone, *(row.id for row in changes.rows))}
        fresh = {row.subject_id for row in changes.rows if not index.holds(row.subject_id)}
        memory.since |= dict.fromkeys(fresh, version)  # before anybody can find them
        added = sum(self._is_new(memory, row) for row in changes.rows)
        self._put(memory, changes.rows)
        self._drop(memory, changes.gone)
        if added < max(version - memory.mark.version, len(changes.rows)):  # any other change may have cost a subject
            memory.lost = max(version, memory.mark.version + 1)  # what came late counts with the next change
        for who in touched & memory.since.keys():
            if not index.holds(who):
                del memory.since[who]
        memory.mark = changes.mark

    def _serves(self, to: NamespacePolicy | Row) -> bool:
        """Whether what it is asked for is what the namespace, or somebody, agrees to."""
        return self._purpose is None or not to.purposes or self._purpose in to.purposes

    def _is_matched(self, row: Row, now: float) -> bool:
        return self._serves(row) and row.until > now

    def _is_new(self, memory: Memory, row: Row) -> bool:
        """Whether a row can only add to what is found."""
        return not row.negative and self._is_matched(row, time.time()) and memory.index.subject_of(row.id) is None

    def _put(self, memory: Memory, rows: Sequence[Row]) -> None:
        now = time.time()
        kept = {row.id: row for row in rows if self._is_matched(row, now)}
        self._drop(memory, [row.id for row in rows if row.id not in kept])
        if any(0 < row.until <= now for row in rows):
            memory.lost = memory.mark.version + 1  # somebody's time was over without a change
        if kept:
            ids, subjects, vectors, negatives = zip(
                *((r.id, r.subject_id, r.vector, r.negative) for r in kept.values()), strict=True
            )
            memory.index.put_many(ids, subjects, np.array(vectors, np.float32), negatives)
        for row in kept.values():
            memory.until.pop(row.id, None)
            if row.until < math.inf:
                memory.until[row.id] = row.until
                heapq.heappush(memory.expiring, (row.until, row.id))

    def _drop(self, memory: Memory, names: Iterable[str]) -> None:
        for name in names:
            memory.index.drop(name)
            memory.until.pop(name, None)

    def _expire(self, memory: Memory) -> None:
        now = time.time()
        while memory.expiring and memory.expiring[0][0] <= now:
            until, name = heapq.heappop(memory.expiring)
            if memory.until.get(name) == until:
                self._drop(memory, [name])
                memory.lost = memory.mark.version + 1  # not a change of its own: it counts with the next


def _dated(best: tuple[Candidate, ...], memory: Memory) -> tuple[Candidate, ...]:
    """The candidates, those who came lately with the version at which they came."""
    if not any(each.subject_id in memory.since for each in best):
        return best
    return tuple(replace(each, since=memory.since.get(each.subject_id, 0)) for each in best)
