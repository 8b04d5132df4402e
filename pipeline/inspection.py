"""Looks through the audit log for unusual use, by rules in a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.audit import Entry, Outcome
from pipeline.errors import first_mistake
from pipeline.gallery.desk import INTERNAL, WITHOUT_PURPOSE
from pipeline.gallery.errors import InvalidError

NAMED = 100  # entries and actors that a finding names; the other entries it counts
QUIET = timedelta(hours=1)  # what follows later is a finding of its own

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
V = TypeVar("V")


class Finding(BaseModel):
    """Unusual use. Whether it was wrong is for people to say.

    Attributes:
        rule: Name of the rule.
        kind: Kind of the rule.
        actors: Whose entries they are, in alphabetical order; 100 at most.
        subject: Pseudonym of whom it was about, where the rule is about one.
        count: Number of entries.
        seqs: Numbers of the first 100 of them.
        first: Time of the first.
        last: Time of the last.
        text: All of it in a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    rule: str
    kind: str
    actors: tuple[str, ...]
    subject: str
    count: int
    seqs: tuple[int, ...]
    first: datetime
    last: datetime
    text: str


class Seen(NamedTuple):
    """What is remembered of an entry."""

    seq: int
    at: datetime
    actor: str


class Hit(NamedTuple):
    """A rule is broken by what was ``seen``; hits that are ``about`` the same belong together."""

    about: tuple[str, ...]
    seen: tuple[Seen, ...]


Look = Callable[[Entry], Iterable[Hit]]


class _Recent(Generic[V]):
    """Values by key; those that were not touched for a while are given to ``dropped``."""

    def __init__(
        self, patience: timedelta, make: Callable[[], V], dropped: Callable[[V], None] = lambda _: None
    ) -> None:
        self._patience, self._make, self._dropped = patience, make, dropped
        self._values: OrderedDict[tuple[str, ...], tuple[datetime, V]] = OrderedDict()

    def touch(self, key: tuple[str, ...], at: datetime) -> V:
        """The value of a key, made if there is none."""
        while self._values and next(iter(self._values.values()))[0] < at - self._patience:
            self._dropped(self._values.popitem(last=False)[1][1])
        value = self._values.pop(key)[1] if key in self._values else self._make()
        self._values[key] = (at, value)
        return value

    def drop(self) -> None:
        """Drop all."""
        while self._values:
            self._dropped(self._values.popitem(last=False)[1][1])


class Rule(BaseModel, ABC):
    """What is unusual.

    Attributes:
        name: Under which findings speak of it.
        actions: Which entries it looks at, by what was asked for; all if empty.
        except_actors: Whose entries it does not look at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=100)]
    actions: tuple[str, ...] = ()
    except_actors: tuple[str, ...] = ()

    def concerns(self, entry: Entry) -> bool:
        """Whether it looks at the entry."""
        return entry.actor not in self.except_actors and (not self.actions or entry.action in self.actions)

    @property
    def patience(self) -> timedelta:
        """How long an entry counts."""
        return QUIET

    @abstractmethod
    def watch(self, purposes: Collection[str]) -> Look:
        """A function to be called with each entry it concerns, in order: it tells how the rule is broken, if it is.

        Args:
            purposes: What the namespace may be asked for; anything if empty.
        """

    @abstractmethod
    def said(self, about: tuple[str, ...], count: int) -> str:
        """What was found, in words."""


class _TooMany(Rule):
    """More than so many within some time are unusual."""

    more_than: Annotated[int, Field(ge=1, le=10_000)]
    within_s: Annotated[float, Field(gt=0, le=31 * 86_400)]

    @property
    def patience(self) -> timedelta:
        return timedelta(seconds=self.within_s)


class Burst(_TooMany):
    """An actor asks more often than people do.

    Attributes:
        more_than: So many entries of an actor are usual ...
        within_s: ... in so many seconds.
        outcomes: Which entries count, by how they ended; all if empty. ``[forbidden, failed]`` finds who tries doors.
    """

    kind: Literal["burst"]
    outcomes: tuple[Outcome, ...] = ()

    def watch(self, purposes: Collection[str]) -> Look:
        recent: _Recent[deque[Seen]] = _Recent(self.patience, lambda: deque(maxlen=self.more_than + 1))

        def look(entry: Entry) -> Iterator[Hit]:
            if self.outcomes and entry.outcome not in self.outcomes:
                return
            seen = recent.touch((entry.actor,), entry.at)
            seen.append(_seen(entry))
            if len(seen) > self.more_than and abs(entry.at - seen[0].at) <= self.patience:
                yield Hit((entry.actor,), tuple(seen))

        return look

    def said(self, about: tuple[str, ...], count: int) -> str:
        ended = f" that ended {' or '.join(self.outcomes)}" if self.outcomes else ""
        what = " or ".join(self.actions) or "anything"
        limit = f"more than {self.more_than} within {self.within_s:g} s"
        return f"{about[0]!r} asked {_times(count)} for {what}{ended}, at times {limit}"


class Curiosity(_TooMany):
    """Many actors ask about one subject, or are shown it.

    Attributes:
        more_than: So many actors who ask about a subject, or are shown it, are usual ...
        within_s: ... in so many seconds.
    """

    kind: Literal["curiosity"]

    def watch(self, purposes: Collection[str]) -> Look:
        recent: _Recent[OrderedDict[str, Seen]] = _Recent(self.patience, OrderedDict)

        def look(entry: Entry) -> Iterator[Hit]:
            for subject in entry.subjects:
                actors = recent.touch((subject,), entry.at)
                actors[entry.actor] = _seen(entry)
                actors.move_to_end(entry.actor)
                while len(actors) > self.more_than + 1 or next(iter(actors.values())).at < entry.at - self.patience:
                    actors.popitem(last=False)
                if len(actors) > self.more_than:
                    yield Hit((subject,), tuple(actors.values()))

        return look

    def said(self, about: tuple[str, ...], count: int) -> str:
        limit = f"more than {self.more_than} actors within {self.within_s:g} s"
        return f"the subject {about[0]} was asked about or shown {_times(count)}, at times by {limit}"


def _is_quoted(given: Any) -> Any:
    """YAML takes 07:00 for a number of minutes."""
    if not isinstance(given, str | time):
        message = 'write the time in quotes, such as "07:00"'
        raise ValueError(message)
    return given


def _is_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        message = f"{name!r} is no time zone that is known here; give one such as Europe/Berlin, or UTC"
        raise ValueError(message) from error
    return name


Clock = Annotated[time, BeforeValidator(_is_quoted)]


class OutOfHours(Rule):
    """Somebody asks when nobody works.

    Attributes:
        days: When people work; a shift over midnight belongs to the day on which it begins.
        begin: From when on they do.
        end: Until when; earlier than ``begin`` if the shift goes over midnight.
        time_zone: Whose days and clock, such as ``Europe/Berlin``.
    """

    kind: Literal["out_of_hours"]
    days: Annotated[tuple[Day, ...], Field(min_length=1)] = DAYS[:5]
    begin: Clock
    end: Clock
    time_zone: Annotated[str, AfterValidator(_is_zone)] = "UTC"

    def watch(self, purposes: Collection[str]) -> Look:
        zone = ZoneInfo(self.time_zone)

        def look(entry: Entry) -> Iterator[Hit]:
            if not self._at_work(entry.at.astimezone(zone)):
                yield Hit((entry.actor,), (_seen(entry),))

        return look

    def said(self, about: tuple[str, ...], count: int) -> str:
        hours = f"{' '.join(self.days)} {self.begin:%H:%M} to {self.end:%H:%M} {self.time_zone}"
        return f"{about[0]!r} asked {_times(count)} outside of {hours}"

    def _at_work(self, moment: datetime) -> bool:
        clock, over_midnight = moment.time(), self.end <= self.begin
        began = moment - timedelta(days=1) if over_midnight and clock < self.end else moment
        inside = clock >= self.begin or clock < self.end if over_midnight else self.begin <= clock < self.end
        return inside and DAYS[began.weekday()] in self.days


class PurposeMismatch(Rule):
    """Somebody asks for a purpose that is not theirs, or not the namespace's.

    Attributes:
        allowed: By actor, for what they may ask; who is not named may ask for whatever the namespace allows.
    """

    kind: Literal["purpose"]
    allowed: dict[str, tuple[str, ...]] = {}

    def watch(self, purposes: Collection[str]) -> Look:
        def look(entry: Entry) -> Iterator[Hit]:
            if entry.role == INTERNAL or entry.action in WITHOUT_PURPOSE:
                return
            own = self.allowed.get(entry.actor, (entry.purpose,))
            if entry.purpose not in own or (purposes and entry.purpose not in purposes):
                yield Hit((entry.actor, entry.purpose), (_seen(entry),))

        return look

    def said(self, about: tuple[str, ...], count: int) -> str:
        actor, purpose = about
        own = self.allowed.get(actor)
        instead = f"; it may for {', '.join(own)}" if own else ""
        return f"{actor!r} asked {_times(count)} for the purpose {purpose!r}, which is not allowed{instead}"


class Rules(BaseModel):
    """The rules of a file; see ``deploy/inspection.yaml``.

    Attributes:
        rules: In any order, each with a name of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    rules: tuple[Annotated[Burst | Curiosity | OutOfHours | PurposeMismatch, Field(discriminator="kind")], ...]

    @model_validator(mode="after")
    def _are_named_apart(self) -> Rules:
        names = [rule.name for rule in self.rules]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            message = f"two rules have the name {doubled[0]!r}; give each its own"
            raise ValueError(message)
        return self

    @classmethod
    def read(cls, path: Path) -> Rules:
        """The rules in a YAML file.

        Raises:
            InvalidError: There is no such file, or it holds something else.
        """
        try:
            return cls.model_validate(yaml.safe_load(path.read_text("utf-8")))
        except OSError as error:
            message = f"cannot read the rules {path}: {error.strerror}"
            raise InvalidError(message) from error
        except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
            mistake = " ".join(first_mistake(error).split())
            message = f"{path}: {mistake}; deploy/inspection.yaml shows every kind of rule"
            raise InvalidError(message) from error


@dataclass(slots=True)
class _Episode:
    """Hits of one rule that belong together."""

    about: tuple[str, ...] = ()
    count: int = 0
    named: list[Seen] = field(default_factory=list)
    actors: set[str] = field(default_factory=set)
    last: Seen | None = None

    def add(self, hit: Hit) -> None:
        """Count what was not counted yet."""
        self.about = hit.about
        for seen in hit.seen:
            if self.last is None or seen.seq > self.last.seq:
                self.count, self.last = self.count + 1, seen
                self.named += [seen] if len(self.named) < NAMED else []
                self.actors |= {seen.actor} if len(self.actors) < NAMED else set()


def inspect(entries: Iterable[Entry], rules: Rules, purposes: Collection[str] = ()) -> list[Finding]:
    """What is unusual in a log.

    Args:
        entries: In their order; memory grows with who is active within the time that a rule looks back, not with them.
        rules: What is unusual.
        purposes: What the namespace may be asked for; anything if empty.

    Returns:
        Findings by time of their first entry; entries that belong together are one.
    """
    findings: list[Finding] = []
    inspectors = [_inspector(rule, purposes, findings) for rule in rules.rules]
    for entry in entries:
        for rule, look, episodes in inspectors:
            for hit in look(entry) if rule.concerns(entry) else ():
                episodes.touch(hit.about, entry.at).add(hit)
    for _, _, episodes in inspectors:
        episodes.drop()
    return sorted(findings, key=lambda finding: (finding.first, finding.rule))


def _inspector(rule: Rule, purposes: Collection[str], findings: list[Finding]) -> tuple[Rule, Look, _Recent[_Episode]]:
    """A rule, how it looks, and what it has found but not yet told."""

    def tell(episode: _Episode) -> None:
        findings.append(_finding(rule, episode))

    return rule, rule.watch(purposes), _Recent(max(QUIET, rule.patience), _Episode, tell)


def _finding(rule: Rule, episode: _Episode) -> Finding:
    first, last = episode.named[0], episode.last or episode.named[-1]
    times = f"from {first.at:%Y-%m-%d %H:%M:%S} to {last.at:%Y-%m-%d %H:%M:%S} UTC"
    return Finding(
        rule=rule.name,
        kind=str(getattr(rule, "kind", "")),
        actors=tuple(sorted(episode.actors)),
        subject=episode.about[0] if isinstance(rule, Curiosity) else "",
        count=episode.count,
        seqs=tuple(seen.seq for seen in episode.named),
        first=first.at,
        last=last.at,
        text=f"{rule.said(episode.about, episode.count)} ({times})",
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _seen(entry: Entry) -> Seen:
    return Seen(entry.seq, entry.at, entry.actor)
