"""The audit log in Redis: one hash of entries by number, and their signed head."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, islice
from threading import Condition
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError
from redis.exceptions import ResponseError

from pipeline import audit
from pipeline.audit import BEGUN_ANEW, SET_BACK, Anchor, Details, Entry, Event, Fault, Head
from pipeline.edges.redis_link import RedisLink
from pipeline.gallery.errors import AwayError, GalleryError, InvalidError, RefusedError
from pipeline.gallery.keys import Keys, canonical
from pipeline.redact import redact

PATIENCE_S = 2.0  # for one answer of Redis
BUSY_S = 5.0  # for a turn at the head, against all other processes
PAUSE_S = 0.01
BATCH = 256  # most events of one step, if nobody appends more at once
MOST = 1000  # a script cannot hand on many thousands of arguments
PAGE = 1000
REMEMBERED = 10_000  # events that may have been written though their caller was told that nothing is known
DAMAGE = ("DAMAGED", "WRONGTYPE")  # what Redis says where entries lie beyond the head, or where there is no hash
RENEWED = canonical({"action": BEGUN_ANEW})[1:-1]  # what the first entry has in it where another log was set aside
NO_HEAD = "has no head that can be read"

# One step: the entries and the new head, if the head is still the one that they follow. It has a single effect, one
# HSET, and for a reason. Redis keeps several effects of a script between MULTI and EXEC in its append-only file; where
# a kill cuts that off, what is left of it is made one with the next step when the file is read for the second time
# (fixed in Valkey in August 2026, valkey-io/valkey#4342).
STEP = """
local head = redis.call('HGET', KEYS[1], 'head') or ''
if head ~= ARGV[1] then return redis.call('HMGET', KEYS[1], 'head', '1') end
for i = 4, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    return redis.error_reply('DAMAGED entry ' .. ARGV[i] .. ' lies beyond the head')
  end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return ARGV[3]
"""


@dataclass(eq=False, slots=True)
class _Waiting:
    """Events of one caller, and what became of them."""

    events: Sequence[Event]
    done: bool = False
    entries: Sequence[Entry] = ()
    error: GalleryError | None = None


class _Known(NamedTuple):
    """The head as it was last seen: its exact text, empty if there is none, what it says, and the first entry."""

    text: str
    head: Head
    first: bytes = b""


class AuditLog:
    """The log of one namespace. Any number of threads and processes may append to it at once.

    Threads that append at the same time are written together, in one step; against other processes the step counts
    only if nobody was faster, and is made anew if somebody was.
    """

    def __init__(self, url: SecretStr, namespace: str, keys: Keys) -> None:
        """Nothing is asked before the first call.

        Raises:
            GalleryError: The URL is none of Redis.
        """
        self.namespace, self._keys = namespace, keys
        self._key = f"omote:{{{namespace}}}:audit"
        # A step whose answer was lost is looked for before it is made again.
        self._link = RedisLink(url, AwayError, patience_s=PATIENCE_S, tries=1)
        self._step = self._link.client.register_script(STEP)
        self._changed, self._writing = Condition(), False
        self._waiting: deque[_Waiting] = deque()
        self._known: _Known | None = None
        self._notices: list[Event] = []  # to be written before anything else; only who writes takes some away
        # What was sent and not answered, until the head tells; and what turned out to have been written.
        self._unsure: list[list[Entry]] = []
        self._late: dict[str, Entry] = {}

    def ready(self) -> None:
        """Find out whether the log can be written, before anything is done that it must tell of.

        What is owed is written first.

        Raises:
            AwayError: Redis does not answer.
            RefusedError: The log in Redis is damaged, or signed by another key.
        """
        if self._notices:
            self.append([])
        known = self._known or self._signed(self._ends()[0])
        with self._errors():
            text, beyond = self._link.client.hmget(self._key, "head", str(known.head.seq + 1))
        if (text or b"") != known.text.encode():
            self._signed(text)  # somebody else has written since
        elif beyond:
            message = self._damaged("is not as it was left: an entry lies beyond its head")
            raise RefusedError(message)

    def append(self, events: Iterable[Event], *, owed: bool = False) -> list[Entry]:
        """Write events, all or none; returns once Redis has them.

        An event whose ``id`` was given before, in an attempt that failed, is not written twice by this process.

        Args:
            events: What happened.
            owed: Whether they are to be written with what comes next, where they cannot be written now.

        Raises:
            AwayError: Redis does not answer, and it is not known whether they were written.
            RefusedError: The log in Redis is damaged, or signed by another key: nothing was written.
            InvalidError: These are more than 1000 events.
        """
        mine = _Waiting(list(events))
        if len(mine.events) > MOST:
            message = f"{len(mine.events)} events are too many for one step; append up to {MOST} at once"
            raise InvalidError(message)
        with self._changed:
            self._waiting.append(mine)
        while taken := self._turn(mine):
            self._write_all(taken)
        if mine.error:
            if owed:
                self._notices.extend(mine.events[: max(0, MOST - len(self._notices))])
            raise type(mine.error)(str(mine.error)) from mine.error
        return list(mine.entries)

    def read(
        self, after_seq: int = 0, limit: int = 100, action: str = "", actor: str = "", subject: str = ""
    ) -> list[Entry]:
        """Up to ``limit`` entries after one, of an action, an actor, or one that tells of a subject, if given.

        Raises:
            AwayError: Redis does not answer.
            RefusedError: An entry cannot be read.
        """
        wanted = {name: said for name, said in {"action": action, "actor": actor}.items() if said}
        # What is wanted has these bytes in it: of the rest nothing needs to be understood.
        marks = [canonical({name: said})[1:-1] for name, said in wanted.items()]
        marks += [f'"{subject}"'.encode()] if subject else []
        likely = (self._understood(line) for line in self.lines(after_seq) if all(mark in line for mark in marks))
        found = (entry for entry in likely if all(getattr(entry, name) == said for name, said in wanted.items()))
        return list(islice((entry for entry in found if not subject or subject in entry.subjects), limit))

    def entries(self, after_seq: int = 0) -> Iterator[Entry]:
        """Every entry after one, in order.

        Raises:
            AwayError: Redis does not answer.
            RefusedError: An entry cannot be read.
        """
        yield from map(self._understood, self.lines(after_seq))

    def lines(self, after_seq: int = 0, last: int = 0) -> Iterator[bytes]:
        """Entries after one as they are kept, up to number ``last``, or to the head; those that are missing are not.

        Raises:
            AwayError: Redis does not answer.
            RefusedError: There is no head that these keys signed.
        """
        end = last or self.head().seq
        for first in range(after_seq + 1, end + 1, PAGE):
            numbers = list(map(str, range(first, min(first + PAGE, end + 1))))
            with self._errors():
                page: Any = self._link.client.hmget(self._key, numbers)
            yield from (line for line in page if line is not None)

    def head(self) -> Head:
        """The signed end of the log.

        Raises:
            AwayError: Redis does not answer.
            RefusedError: What is there is no head, or not signed by these keys.
        """
        return self._signed(self._ends()[0]).head

    def verify(self, against: Iterable[Anchor] = ()) -> list[Fault]:
        """Everything that is wrong with the log now, also against an earlier export; see `pipeline.audit.verify`.

        Raises:
            AwayError: Redis does not answer.
            RefusedError: What is there is no log at all.
        """
        with self._errors(), self._link.client.pipeline(transaction=True) as both:
            text, size = both.hget(self._key, "head").hlen(self._key).execute()
        try:
            head, faults = self._parsed(text).head, []
        except RefusedError:
            head, faults = Head(namespace=self.namespace), [Fault(0, f"the audit log of {self.namespace!r} {NO_HEAD}")]
        key, present = self._keys.public_key, count()
        lines = self.lines(last=head.seq if head.seq and head.signed_by(key) else size)
        faults += audit.verify((line for line, _ in zip(lines, present, strict=False)), head, key, against)
        beyond = size - (text is not None) - next(present)
        if beyond > 0:
            more = f"{beyond} more {'entry lies' if beyond == 1 else 'entries lie'} in the log than its head tells of"
            faults.append(Fault(head.seq + 1, more))
        return faults

    def begin_anew(self, actor: str) -> str:
        """Set a damaged log aside, and begin another one that says so first; the key where the old one lies.

        Raises:
            AwayError: Redis does not answer.
            InvalidError: The log is whole.
        """
        with suppress(RefusedError):
            if not self.verify():
                message = f"the audit log of {self.namespace!r} is whole: there is no reason to begin another"
                raise InvalidError(message)
        aside = f"{self._key}:{time.time_ns()}"
        begun = Event(actor=actor, action=BEGUN_ANEW, details={"aside": aside})
        (first,) = audit.chained(Head(namespace=self.namespace), [begun])
        there = {"head": Head.of(first, self._keys).model_dump_json(), "1": first.line}
        with self._errors(), self._link.client.pipeline(transaction=True) as both:  # in between there is no log
            both.rename(self._key, aside).hset(self._key, mapping=there).execute()
        self._known, self._unsure = None, []
        return aside

    def close(self) -> None:
        """End the connections."""
        self._link.close()

    def _turn(self, mine: _Waiting) -> list[_Waiting]:
        """What to write for all who wait, from the oldest on; empty once somebody wrote what is ``mine``."""
        with self._changed:
            self._changed.wait_for(lambda: mine.done or not self._writing)
            if mine.done:
                return []
            self._writing = True
            taken, size = [self._waiting.popleft()], 0
            while self._waiting and (size := size + len(taken[-1].events)) < BATCH:
                taken.append(self._waiting.popleft())
            return taken

    def _write_all(self, taken: list[_Waiting]) -> None:
        written: dict[str, Entry] = {}
        error: GalleryError | None = AwayError("the writer was interrupted; nothing is known to be written")
        try:
            written = self._written([event for each in taken for event in each.events])
            error = None
        except GalleryError as raised:
            error = raised
        finally:  # also where the writer is interrupted, nobody waits for ever
            with self._changed:
                self._writing = False
                for each in taken:
                    each.done, each.error = True, error
                    each.entries = [written[event.id] for event in each.events if event.id in written]
                self._changed.notify_all()

    def _written(self, events: list[Event]) -> dict[str, Entry]:
        """The entries of the events, by id, once Redis has them all."""
        until, failed = time.monotonic() + BUSY_S, False
        while time.monotonic() < until:
            try:
                first = [*self._notices]
                if (done := self._attempt([*first, *events])) is not None:
                    del self._notices[: len(first)]
                    return done
            except AwayError as error:
                if failed:
                    message = f"{error}; nothing is known to be written, ask again later"
                    raise AwayError(message) from error
                failed = True  # an idle connection may have been closed meanwhile: that is no reason to give up
            else:
                time.sleep(random.random() * PAUSE_S)
        message = f"the audit log of {self.namespace!r} was too busy for {BUSY_S:.0f} s; nothing is known to be written"
        raise AwayError(message)

    def _attempt(self, events: list[Event]) -> dict[str, Entry] | None:
        """The entries of the events, by id; None if somebody else was faster."""
        known = self._current()
        late = {event.id: self._late[event.id] for event in events if event.id in self._late}
        new = {event.id: event for event in events if event.id not in late}
        entries = audit.chained(known.head, new.values())
        if entries and not self._stepped(known, entries):
            return None
        return late | {entry.id: entry for entry in entries}

    def _stepped(self, known: _Known, entries: list[Entry]) -> bool:
        """Whether the entries were written after the head that is ``known``."""
        head = Head.of(entries[-1], self._keys)
        text = head.model_dump_json()
        numbered = [part for entry in entries for part in (entry.seq, entry.line)]
        self._unsure.append(entries)
        with self._errors():
            try:
                answer: Any = self._step(keys=[self._key], args=[known.text, "head", text, *numbered])
            except ResponseError:  # Redis refused the step, so it was not made
                self._unsure.pop()
                raise
        self._unsure.pop()
        if answer != text.encode():
            self._look(answer)
            return False
        self._known = _Known(text, head, known.first or entries[0].line)
        return True

    def _current(self) -> _Known:
        """The head as far as it is known; after a step that was not answered, as it is now."""
        if self._known is None or self._unsure:
            return self._look(self._ends())
        return self._known

    def _ends(self) -> Any:
        """The head and the first entry, as they are kept."""
        with self._errors():
            return self._link.client.hmget(self._key, "head", "1")

    def _look(self, ends: Sequence[bytes | None]) -> _Known:
        """Take note of the head that is there now, and of the first entry, which tells one log from another."""
        seen = self._signed(ends[0])._replace(first=ends[1] or b"")  # not what somebody else wrote anew
        before = self._known or seen
        renewed = seen.first != before.first and RENEWED in seen.first
        if seen.head.seq < before.head.seq and not renewed:
            gone: Details = {"had": before.head.seq, "hash": before.head.hash}
            self._notices.append(Event(actor="omote", action=SET_BACK, outcome="failed", details=gone))
        self._settle(seen.head)
        self._known = seen
        return seen

    def _settle(self, head: Head) -> None:
        """Find out which unanswered steps were made: the head is past their beginning, so none can be made any more.

        The last entry tells, for it names all before it; the first may be there through a later, shorter step.
        """
        for entries in [each for each in self._unsure if each[0].seq <= head.seq]:
            with self._errors():
                there: Any = self._link.client.hget(self._key, str(entries[-1].seq))
            if there == entries[-1].line:
                self._late.update({entry.id: entry for entry in entries})
            self._unsure.remove(entries)
        while len(self._late) > REMEMBERED:
            self._late.pop(next(iter(self._late)))

    def _signed(self, text: bytes | None) -> _Known:
        """The head that is kept as ``text``, if these keys signed it."""
        known = self._parsed(text)
        if not known.head.signed_by(self._keys.public_key):
            message = self._damaged(f"ends with a head that the key {self._keys.fingerprint} did not sign")
            raise RefusedError(message)
        return known

    def _parsed(self, text: bytes | None) -> _Known:
        """The head that is kept as ``text``.

        Raises:
            RefusedError: It is none, or of another log.
        """
        if not text:
            return _Known("", Head(namespace=self.namespace))
        try:
            head = Head.model_validate_json(text, strict=True)
        except ValidationError:
            head = None
        if head is None or head.namespace != self.namespace:
            message = self._damaged(NO_HEAD)
            raise RefusedError(message)
        return _Known(text.decode(), head)

    def _understood(self, line: bytes) -> Entry:
        try:
            return audit.parsed(line)
        except InvalidError as error:
            message = self._damaged(f"is damaged: {error}")
            raise RefusedError(message) from error

    def _damaged(self, how: str) -> str:
        """What is wrong with the log, and the way out."""
        way = "run `omote gallery audit verify`, and `omote gallery audit renew` to begin another"
        return f"the audit log of {self.namespace!r} {how}; {way}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with self._link.errors():
            try:
                yield
            except ResponseError as error:
                said = redact(str(error))
                if not any(word in said for word in DAMAGE):
                    raise
                message = self._damaged(f"is not as it was left: {said}")
                raise RefusedError(message) from error
