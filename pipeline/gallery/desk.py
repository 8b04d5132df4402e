"""What every question to a gallery passes: who may ask, for what, and the line in the audit log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pipeline.audit import Event, Outcome
from pipeline.gallery.errors import AwayError, ForbiddenError
from pipeline.gallery.faces import Faces
from pipeline.gallery.matcher import Matcher
from pipeline.gallery.subjects import Caller, NamespacePolicy, Role

if TYPE_CHECKING:  # what they need is an extra
    from pipeline.edges.redis_audit import AuditLog
    from pipeline.edges.redis_store import GalleryStore
    from pipeline.edges.redis_tracks import TrackStore

READING: Final[frozenset[Role]] = frozenset({"reader", "operator", "admin"})
WRITING: Final[frozenset[Role]] = frozenset({"operator", "admin"})
RULING: Final[frozenset[Role]] = frozenset({"admin"})
AUDITING: Final[frozenset[Role]] = frozenset({"auditor", "admin"})
MOST_SIGNS = 256  # of a name or a purpose in the log
WAIT_S = 1.0  # for our own matcher to see our own change

ROLES: Final[dict[str, frozenset[Role]]] = {
    **dict.fromkeys(("detect", "search", "verify", "compare", "list", "read", "matches", "unknowns"), READING),
    **dict.fromkeys(("enrol", "change", "delete", "merge", "not me", "assign", "ignore"), WRITING),
    **dict.fromkeys(("policy", "calibrate", "re-embed", "export", "import", "rotate keys"), RULING),
    **dict.fromkeys(("audit", "erasure", "read policy"), AUDITING),
}
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
        count: How many faces, templates or entries it was about.
        version: Of the gallery, as soon as the question has changed it; else that of the matcher is told.
        details: Whatever else tells; no names.
        outcome: How it ended; `failed` until its end is reached.
    """

    policy: NamespacePolicy
    about: Sequence[str]
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
        Where Redis went away before anything was changed there is no answer, and no line.

        Raises:
            ForbiddenError: The role or the purpose does not allow it.
            AwayError: Redis does not answer, so that it could not be logged.
        """
        question, away = Question(self.admit(caller, action, subject_id), [subject_id]), False
        try:
            yield question
            question.outcome = "done"
        except ForbiddenError:
            question.outcome = "forbidden"
            raise
        except AwayError:
            away = question.version is None  # who waits for Redis in vain is not to wait once more
            raise
        finally:
            if not away:
                self.note_each(
                    caller, action, question.about or [""], outcome=question.outcome, count=question.count,
                    version=question.version, **question.details,
                )  # fmt: skip
        if question.version is not None:
            self.seen(question.version)

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
            self.note(caller, action, subject_id, outcome="forbidden")
            raise ForbiddenError(reason)
        return policy

    def note(
        self, caller: Caller, action: str, subject_id: str = "", *, outcome: Outcome = "done", count: int = 0,
        version: int | None = None, **details: Any,
    ) -> None:  # fmt: skip
        """Write a line into the audit log; it is safe when this returns.

        Raises:
            AwayError: Redis does not answer.
        """
        self.note_each(caller, action, [subject_id], outcome=outcome, count=count, version=version, **details)

    def note_each(
        self, caller: Caller, action: str, subject_ids: Sequence[str], *, outcome: Outcome = "done", count: int = 0,
        version: int | None = None, **details: Any,
    ) -> None:  # fmt: skip
        """Write a line into the audit log for each subject, so that each can be asked for; see `note`."""
        keys, namespace = self.store.keys, self.store.namespace
        said: dict[str, Any] = {
            "at": datetime.now(UTC),
            "actor": caller.name[:MOST_SIGNS],
            "role": INTERNAL if caller.internal else caller.role,
            "action": action,
            "purpose": caller.purpose[:MOST_SIGNS],
            "outcome": outcome,
            "model": self.faces.model,
            "gallery_version": self._version() if version is None else version,
            "count": count,
            "details": details,
        }
        about = [keys.pseudonym(namespace, each) if each else "" for each in subject_ids]
        self.log.append([Event(**said, subject=each) for each in about])

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
        """The version that answers are of."""
        return self.matcher.version if self.matcher.follows else self.store.version()

    def close(self) -> None:
        """End the connections."""
        self.matcher.close()
        self.log.close()
        self.store.close()
