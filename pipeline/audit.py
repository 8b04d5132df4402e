"""The audit log: who asked for what, why and when, chained by hashes so that no entry can be changed unseen."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from heapq import merge
from typing import Annotated, Any, Literal, NamedTuple, Protocol
from uuid import uuid4

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from pipeline.errors import first_mistake
from pipeline.gallery.errors import InvalidError
from pipeline.gallery.keys import PSEUDONYM_DIGITS, Keys, canonical, fingerprint

KIND = b"omote.audit/1\n"  # no signature of something else is one of a head
GENESIS = "0" * 64  # what the first entry names as its predecessor
BEGUN_ANEW = "log begun anew"  # the action of the first entry after a damaged log that was set aside
SET_BACK = "log set back"  # the action of an entry that tells of others which were there before it, and are gone

Outcome = Literal["done", "forbidden", "failed", "unknown"]
Utc = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
Short = Annotated[str, Field(max_length=256)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pseudonym = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{PSEUDONYM_DIGITS}}}$")]
Details = Annotated[dict[Short, Short | bool | int | FiniteFloat], Field(max_length=16)]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(_Kept):
    """Something that is to be logged. It names the people it is about by pseudonym alone.

    Attributes:
        id: Its number, 32 hexadecimal digits: an event that is appended again after an error is written once.
        at: When it happened.
        actor: Who asked.
        role: As what.
        action: What was asked for, such as ``search``, ``enrol``, ``delete`` or ``policy``.
        purpose: Why.
        subject: About whom: `Keys.pseudonym`, or empty.
        shown: Who else stands in the answer; where several events tell of one question, in the first of them.
        outcome: Whether it was done, was not allowed, did not work, or Redis went away, so that nobody knows.
        model: Name of the net that made the vectors; empty if there are none.
        gallery_version: Version of the gallery that answered, or that came of it; 0 if none did.
        count: How many faces, templates or entries it was about.
        details: Whatever else tells; no names, no metadata of subjects.
    """

    id: str = Field(default_factory=lambda: uuid4().hex, pattern=r"^[0-9a-f]{32}$")
    at: Utc = Field(default_factory=lambda: datetime.now(UTC))
    actor: Short
    role: Short = ""
    action: Short
    purpose: Short = ""
    subject: str = Field(default="", pattern=rf"^([0-9a-f]{{{PSEUDONYM_DIGITS}}})?$")
    shown: tuple[Pseudonym, ...] = ()
    outcome: Outcome = "done"
    model: Short = ""
    gallery_version: int = 0
    count: int = 0
    details: Details = {}

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everybody whom it is about, or who was shown."""
        return (*filter(None, (self.subject,)), *self.shown)


class Entry(Event):
    """An event with its place in the log of its namespace.

    Attributes:
        namespace: Of which gallery.
        seq: Its number, from 1, without gaps.
        previous: Hash of the entry before it; 64 zeros for the first.
        hash: SHA-256 of its canonical JSON, without this field and without those that have their default.
    """

    namespace: str
    seq: int = Field(ge=1)
    previous: Hash
    hash: Hash

    @property
    def line(self) -> bytes:
        """The entry as it is kept: canonical JSON, no newline."""
        return canonical(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def digest(self) -> str:
        """The hash that it should have."""
        return _digest(self.model_dump(mode="json", exclude_defaults=True, exclude={"hash"}))

    def is_intact(self, line: bytes | None = None) -> bool:
        """Whether it has the hash that it should have, and stands in ``line``, if given, as omote writes it."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        written = line is None or line == canonical(said)
        return written and said.pop("hash") == _digest(said)


class Head(_Kept):
    """The end of a log, signed: entries that are cut off after it was written are missed.

    Attributes:
        namespace: Of which gallery.
        seq: Number of the last entry; 0 if there is none.
        hash: Hash of the last entry.
        signature: Ed25519 over ``omote.audit/1``, a newline, and the canonical JSON of the three above; base64.
    """

    namespace: str
    seq: int = Field(default=0, ge=0)
    hash: Hash = GENESIS
    signature: str = ""

    @classmethod
    def of(cls, entry: Entry, keys: Keys) -> Head:
        """The head of a log that ends with ``entry``."""
        head = cls(namespace=entry.namespace, seq=entry.seq, hash=entry.hash)
        return head.model_copy(update={"signature": base64.b64encode(keys.sign(head.text)).decode()})

    @property
    def text(self) -> bytes:
        """What is signed."""
        return KIND + canonical({"namespace": self.namespace, "seq": self.seq, "hash": self.hash})

    def signed_by(self, public_key: str) -> bool:
        """Whether the private half of ``public_key`` signed it. The head of an empty log claims nothing."""
        try:
            signature = base64.b64decode(self.signature, validate=True)
        except ValueError:
            signature = b""
        return not self.seq or Keys.verify(public_key, self.text, signature)


class Fault(NamedTuple):
    """Something is wrong with entry ``seq``; ``text`` says what, in one sentence."""

    seq: int
    text: str


class Anchor(Protocol):
    """An entry or a head that was kept elsewhere: what the log said then, it must say now."""

    @property
    def seq(self) -> int: ...

    @property
    def hash(self) -> str: ...


def chained(head: Head, events: Iterable[Event]) -> list[Entry]:
    """The events as entries that follow ``head``."""
    seq, previous, entries = head.seq, head.hash, []
    for event in events:
        seq += 1
        place: dict[str, Any] = {"namespace": head.namespace, "seq": seq, "previous": previous}
        previous = _digest({**event.model_dump(mode="json", exclude_defaults=True), **place})
        entries.append(Entry(**{name: getattr(event, name) for name in Event.model_fields}, **place, hash=previous))
    return entries


def parsed(line: bytes | str) -> Entry:
    """The entry that a line holds.

    Raises:
        InvalidError: It holds none, or one that a newer omote wrote.
    """
    try:
        return Entry.model_validate_json(line, strict=True)
    except ValidationError as error:
        message = f"no entry of an audit log: {first_mistake(error)}"
        raise InvalidError(message) from None


def following(lines: Iterable[bytes], head: Head) -> Iterator[Entry]:
    """The entries that the lines hold, for as long as each is whole and follows the one before, from ``head`` on.

    Raises:
        InvalidError: One is not, or does not.
    """
    seq, previous = head.seq, head.hash
    for line in lines:
        entry = parsed(line)
        if (entry.namespace, entry.seq, entry.previous) != (head.namespace, seq + 1, previous):
            found = f"entry {entry.seq} of {entry.namespace!r}"
            message = f"{found} does not follow entry {seq} of {head.namespace!r}: the chain is broken"
            raise InvalidError(message)
        if not entry.is_intact(line):
            message = f"entry {entry.seq} was changed after it was written"
            raise InvalidError(message)
        seq, previous = entry.seq, entry.hash
        yield entry


def verify(
    entries: Iterable[Entry | bytes], head: Head, public_key: str, against: Iterable[Anchor] = ()
) -> list[Fault]:
    """Everything that is wrong with a log; empty if it is whole.

    Whoever can write to the log but has no signing key can set it back, entries and head together, to what it was
    at some time: only ``against`` shows that.

    Args:
        entries: The log, or its lines as they are kept, in their order.
        head: Its signed end.
        public_key: Of the key that signs; base64.
        against: What an earlier export holds, in its order: entries, or heads.

    Returns:
        Faults by number of the entry; memory grows with them, not with the log.
    """
    walk = _Walk(head, against)
    faults = [] if head.signed_by(public_key) else [_unsigned(head, public_key)]
    for each in entries:
        faults += walk.step(each)
    return sorted([*faults, *walk.end()])


class _Walk:
    """Goes along a log and remembers where it is."""

    def __init__(self, head: Head, against: Iterable[Anchor]) -> None:
        self._head = head
        self._anchors: Iterator[Anchor] = merge(against, [head] if head.seq else [], key=lambda each: each.seq)
        self._anchor = next(self._anchors, None)
        self._next, self._hash = 1, GENESIS  # the hash is empty after an entry that cannot be read
        self._gaps: list[range] = []
        self._differs = False

    def step(self, given: Entry | bytes) -> Iterator[Fault]:
        """What is wrong with the next entry."""
        try:
            entry = given if isinstance(given, Entry) else parsed(given)
        except InvalidError as error:
            yield Fault(self._next, f"entry {self._next} cannot be read: {error}")
            self._next, self._hash = self._next + 1, ""
            return
        seq = entry.seq
        if changed := not entry.is_intact(given if isinstance(given, bytes) else None):
            # Its number may have been changed too; that it names its predecessor shows where it belongs.
            seq = self._next if entry.previous == self._hash else seq
            yield Fault(seq, f"entry {seq} was changed after it was written")
        if entry.namespace != self._head.namespace and not changed:
            yield Fault(seq, f"entry {seq} belongs to {entry.namespace!r}, not to {self._head.namespace!r}")
        if entry.action == SET_BACK:
            gone = f"it had {entry.details.get('had')} entries, and {seq - 1} were left"
            yield Fault(seq, f"entry {seq} tells that the log was set back before it was written: {gone}")
        yield from self._placed(seq, entry)

    def end(self) -> Iterator[Fault]:
        """What is wrong with the end of the log, and what is missing."""
        yield from (Fault(gap[0], f"{_named(gap)} missing") for gap in self._gaps)
        last = self._next - 1
        if self._head.seq and last > self._head.seq:
            after = range(self._head.seq + 1, last + 1)
            yield Fault(after[0], f"{_named(after)} not covered by the signed head, which ends at {self._head.seq}")
        elif last > self._head.seq:
            yield Fault(1, f"{_named(range(1, last + 1))} not covered by a signed head: there is none")
        elif last < self._head.seq:
            cut = range(last + 1, self._head.seq + 1)
            yield Fault(cut[0], f"{_named(cut)} missing from the end: the signed head ends at {cut[-1]}")
        kept = max((each.seq for each in self._left() if each is not self._head), default=0)
        if kept > last:
            text = f"the log ends at entry {last}, but an earlier export goes to {kept}: the log was set back"
            yield Fault(last + 1, text)

    def _placed(self, seq: int, entry: Entry) -> Iterator[Fault]:
        """What is wrong with the place of an entry."""
        if seq < self._next:
            moved = any(seq in gap for gap in self._gaps)
            self._gaps = [part for gap in self._gaps for part in _split(gap, seq)]
            why = f"comes after entry {self._next - 1}: the order was changed" if moved else "is there twice"
            yield Fault(seq, f"entry {seq} {why}")
            return
        if seq > self._next:
            self._gaps.append(range(self._next, seq))
        elif self._hash and entry.previous != self._hash:
            before = f"entry {seq - 1}" if seq > 1 else "the beginning"
            yield Fault(seq, f"entry {seq} does not follow {before}: one of the two was replaced")
        yield from self._anchored(seq, entry)
        self._next, self._hash = seq + 1, entry.hash

    def _anchored(self, seq: int, entry: Entry) -> Iterator[Fault]:
        """Where the log is another one than it was said to be; all that follows is another one too."""
        while self._anchor and self._anchor.seq <= seq:
            if self._anchor.seq == seq and self._anchor.hash != entry.hash and not self._differs:
                self._differs = True
                where = "at the signed head" if self._anchor is self._head else "in an earlier export"
                yield Fault(seq, f"entry {seq} is another one than {where}: the log was written anew")
            self._anchor = next(self._anchors, None)

    def _left(self) -> Iterator[Anchor]:
        if self._anchor:
            yield self._anchor
        yield from self._anchors


def _digest(said: dict[str, Any]) -> str:
    return sha256(canonical(said)).hexdigest()


def _unsigned(head: Head, public_key: str) -> Fault:
    return Fault(head.seq, f"the head at entry {head.seq} was not signed by the key {fingerprint(public_key)}")


def _named(numbers: Sequence[int]) -> str:
    return f"entry {numbers[0]} is" if len(numbers) == 1 else f"entries {numbers[0]} to {numbers[-1]} are"


def _split(gap: range, seq: int) -> list[range]:
    """A gap without one number."""
    if seq not in gap:
        return [gap]
    return [part for part in (range(gap.start, seq), range(seq + 1, gap.stop)) if part]
