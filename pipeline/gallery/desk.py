"""What every question to a gallery passes: who may ask, for what, and the line in the audit log."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pipeline.audit import Event, Outcome
from pipeline.gallery.errors import AwayError, ForbiddenError, PictureError, UnknownError
from pipeline.gallery.faces import Faces
from pipeline.gallery.matcher import Matcher
from pipeline.gallery.subjects import Caller, NamespacePolicy, Role
from pipeline.gallery.uploads import picture
from pipeline.packets import Pixels

if TYPE_CHECKING:  # what they need is an extra
    from pipeline.edges.redis_audit import AuditLog
    from pipeline.edges.redis_store import GalleryStore
    from pipeline.edges.redis_tracks import TrackStore

READING: Final[frozenset[Role]] = frozenset({"reader", "operator", "admin"})
WRITING: Final[frozenset[Role]] = frozenset({"operator", "admin"})
RULING: Final[frozenset[Role]] = frozenset({"admin"})
AUDITING: Final[frozenset[Role]] = frozenset({"auditor", "admin"})
MOST_SIGNS = 256  # of a name or a purpose in the log
PART = 500  # subjects that are looked at in one go
WAIT_S = 1.0  # for our own matcher to see our own change

ROLES: Final[dict[str, frozenset[Role]]] = {
    **dict.fromkeys(("detect", "search", "verify", "compare", "list", "read", "matches", "unknowns"), READING),
    **dict.fromkeys(("enrol", "change", "delete", "merge", "not me", "assign", "ignore"), WRITING),
    **dict.fromkeys(("policy", "calibrate", "re-embed", "export", "import", "rotate keys"), RULING),
    **dict.fromkeys(("audit", "erasure", "read policy"), AUDITING),
}
# They are not begun where they could not be logged, and leave a line where nobody knows whether they were done.
CHANGING: Final[frozenset[str]] = frozenset(a for a, roles in ROLES.items() if roles in (WRITING, RULING)) - {"export"}
# They answer for the gallery and look for nobody, so that no purpose of the namespace stands in their way.
WITHOUT_PURPOSE: Final[frozenset[str]] = frozenset({"audit", "erasure", "read policy", "policy", "rotate keys"})
INTERNAL: Final = "internal"  # what the log has as the role of omote itself, which no API key has
JANITOR: Final = Caller("expiry", "operator", internal=True)


@dataclass(slots=True)
class Question:
    """A question that may be asked, and what the log is to say of it.

    Attributes:
        policy: Under which it is asked.
        about: Ids of the subjects it is about; a line for each, and one line where there is none.
        shown: Ids of other subjects that stand in the answer; they are told in the first line.
        count: How many faces, templates or entries it was about.
        version: Of the gallery, as soon as the question has changed it; else that of the matcher is told.
        details: Whatever else tells; no names.
        outcome: How it ended; `failed` until its end is reached.
    """

    policy: NamespacePolicy
    about: Sequence[str]
    shown: Collection[str] = ()
    count: int = 0
    version: int | None = None
    details: dict[str, str | bool | int | float] = field(default_factory=dict)
    outcome: Outcome = "failed"


@dataclass(frozen=True)
class Desk:
    """One namespace, with everything that answers for it.

    Attributes:
        store: The truth.
        tracks: What streams leave there.
        matcher: The truth in memory.
        faces: What finds and embeds faces.
        log: The audit log.
        topics: How long messages stay in topics that may name subjects, seconds by topic.
    """

    store: GalleryStore
    tracks: TrackStore
    matcher: Matcher
    faces: Faces
    log: AuditLog
    topics: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def asked(self, caller: Caller, action: str, subject_id: str = "") -> Iterator[Question]:
        """A question that is logged once, however it ends: done, forbidden, or failed where anything was raised.

        It is logged before it is answered, and where it has changed the gallery our own matcher has seen that by then.
        What changes something is not begun unless the log can be written. Where Redis goes away meanwhile nobody knows
        whether it was done, and a line says so, later if need be; of a look there is no answer, and no line.

        Raises:
            ForbiddenError: The role or the purpose does not allow it.
            AwayError: Redis does not answer, so that it could not be logged.
            RefusedError: The log is damaged.
        """
        question, away, done = Question(self.admit(caller, action, subject_id), [subject_id]), False, False
        changing = action in CHANGING
        if changing:
            self.log.ready()
        try:
            yield question
            self.follow_policy(question, question.about)
            question.outcome, done = "done", True
        except ForbiddenError:
            question.outcome = "forbidden"
            raise
        except AwayError:
            question.outcome, away = "unknown", True
            raise
        finally:
            if question.version is not None and not done:
                question.outcome = "unknown"  # something was changed, and what follows from it was not done
            if changing or not away:  # else who waits for Redis in vain is not to wait once more
                self._note(caller, action, question, owed=changing)
        if question.version is not None:
            self.seen(question.version)

    def picture(self, caller: Caller, action: str, data: bytes, subject_id: str = "") -> Pixels:
        """The picture in a file that is shown with a question; one that is none was asked about all the same.

        Returns:
            (H, W, 3) uint8 RGB, upright.

        Raises:
            PictureError: It is none; the question is logged as failed.
            ForbiddenError: It is none, and the role or the purpose does not allow the question.
        """
        try:
            return picture(data)
        except PictureError:
            with self.asked(caller, action, subject_id):
                raise

    def admit(self, caller: Caller, action: str, subject_id: str = "") -> NamespacePolicy:
        """The policy under which ``caller`` may do this; a refusal is logged, too.

        Raises:
            ForbiddenError: The role or the purpose does not allow it.
            AwayError: Redis does not answer, so that it could not be logged.
        """
        policy = self.store.policy()
        reason = ""
        if caller.role not in ROLES[action]:
            reason = f"the role {caller.role!r} may not {action}; it takes {' or '.join(sorted(ROLES[action]))}"
        elif not self._serves(policy, caller, action):
            asked = f"for {caller.purpose!r}" if caller.purpose else "without a purpose"
            reason = f"nobody may {action} here {asked}; the purposes are {', '.join(policy.purposes)}"
        if reason:
            self._note(caller, action, Question(policy, [subject_id], outcome="forbidden"), owed=False)
            raise ForbiddenError(reason)
        return policy

    def follow_policy(self, question: Question, names: Sequence[str]) -> None:
        """Date those who may have been added under a policy that is over: whoever ended it may not have seen them."""
        changed = question.version is not None and any(names)
        if changed and self.store.policy(0).subject_ttl_s != question.policy.subject_ttl_s:
            self.redate(names)

    def redate(self, names: Sequence[str]) -> None:
        """Give subjects the date that the policy gives by now, where they have none of their own."""
        lifetime_s, former_s = self.store.policy(0).subject_ttl_s, self.store.lifetimes()
        for at in range(0, len(names), PART):
            for subject in self.store.known(names[at : at + PART]).values():
                if subject.dated(lifetime_s, former_s) != subject:
                    with suppress(UnknownError):  # forgotten meanwhile
                        self.store.change(subject.id, lambda now: now.dated(lifetime_s, former_s))

    def _note(self, caller: Caller, action: str, question: Question, *, owed: bool) -> None:
        """Write a line into the audit log for each subject that a question is about; they are safe when this returns.

        Raises:
            AwayError: Redis does not answer; what is ``owed`` is written later.
        """
        said: dict[str, Any] = {
            "at": datetime.now(UTC),
            "actor": caller.name[:MOST_SIGNS],
            "role": INTERNAL if caller.internal else caller.role,
            "action": action,
            "purpose": caller.purpose[:MOST_SIGNS],
            "outcome": question.outcome,
            "model": self.faces.model,
            "gallery_version": self._version() if question.version is None else question.version,
            "count": question.count,
            "details": question.details,
        }
        first, *others = map(self.store.pseudonym, question.about or [""])
        shown = tuple(sorted(map(self.store.pseudonym, question.shown)))
        events = [Event(**said, subject=first, shown=shown), *(Event(**said, subject=each) for each in others)]
        self.log.append(events, owed=owed)

    def seen(self, version: int) -> None:
        """Wait until our own matcher has seen a change, so that who made it finds it."""
        if self.matcher.follows:
            self.matcher.wait_for(version, WAIT_S)

    @staticmethod
    def _serves(policy: NamespacePolicy, caller: Caller, action: str) -> bool:
        """Whether it is asked for a purpose of the namespace, or needs none."""
        free = caller.internal or action in WITHOUT_PURPOSE or not policy.purposes
        return free or caller.purpose in policy.purposes

    def _version(self) -> int:
        """The version that answers are of; 0 where Redis does not tell."""
        with suppress(AwayError):
            return self.matcher.version if self.matcher.follows else self.store.version()
        return 0

    def close(self) -> None:
        """End the connections."""
        self.matcher.close()
        self.log.close()
        self.store.close()
