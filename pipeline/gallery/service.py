"""Everything that can be asked of a gallery: what `searching` and `keeping` offer, and what answers for it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid4, uuid5

import numpy as np

from pipeline.audit import Anchor, Entry, Fault
from pipeline.gallery.calibration import Calibration, calibrate
from pipeline.gallery.coverage import Coverage, coverage
from pipeline.gallery.errors import UnknownError
from pipeline.gallery.keeping import Keeping
from pipeline.gallery.memory import MemoryGallery
from pipeline.gallery.protocol import Template
from pipeline.gallery.receipts import MatcherWord, Receipt, Removed, SignedReceipt, signed, verified
from pipeline.gallery.subjects import Caller, NamespacePolicy, Sighting
from pipeline.packets import Floats

if TYPE_CHECKING:  # what it needs is an extra
    from pipeline.edges.redis_audit import AuditLog

CONFIRM_S = 3.0  # how long running matchers may take to confirm an erasure
SILENT_S = 10.0  # a matcher of which nothing was heard for so long does not run, or does not hear Redis
PART = 500


@dataclass(frozen=True, slots=True)
class Matches:
    """A page of sightings, the latest first; ``next`` asks for the one after it, empty where there is none."""

    sightings: tuple[Sighting, ...]
    next: str


@dataclass(frozen=True, slots=True)
class Erasure:
    """A receipt, and what a new look finds.

    Attributes:
        signed: The receipt.
        holds: Whether its signature holds and nothing of the subject is there.
        found: What is there again, or still; in sentences.
    """

    signed: SignedReceipt
    holds: bool
    found: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reembedding:
    """How far the templates are made anew with the net of this gallery's graph.

    Attributes:
        model: Name of the net.
        made: Templates that were made now.
        there: Templates that were there already.
        without_photo: Templates of other nets of which no photo was kept: enrol those people anew.
    """

    model: str
    made: int
    there: int
    without_photo: int


class GalleryService(Keeping):
    """One namespace of the gallery. Safe to use from many threads; every method checks the caller and is logged.

    Methods raise `ForbiddenError` where the caller may not, and `AwayError` where Redis does not answer.
    """

    def matches(
        self,
        caller: Caller,
        *,
        subject: str = "",
        stream: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        after: str = "",
        limit: int = 100,
    ) -> Matches:
        """Who was seen in streams, the latest first; only one subject, one stream or one time if asked for."""
        self.desk.admit(caller, "matches", subject)
        since_s = since.timestamp() if since else 0.0
        until_s = until.timestamp() if until else math.inf
        found, following = self.desk.tracks.sightings(subject, stream, since_s, until_s, after, limit)
        self.desk.note(caller, "matches", subject, count=len(found))
        return Matches(tuple(found), following)

    def coverage(self, caller: Caller, subject_id: str) -> Coverage:
        """Which poses and qualities a subject has, and lacks.

        Raises:
            UnknownError: There is no such subject.
        """
        self.desk.admit(caller, "read", subject_id)
        self.desk.store.subject(subject_id)
        own = self.desk.store.templates(self.desk.store.template_ids(subject_id))
        return coverage([each for each in own if not each.negative])

    def calibrate(
        self, caller: Caller, *, promised_far: float = 0.001, apply: bool = False, vouched: Collection[str] = ()
    ) -> Calibration:
        """What thresholds this gallery bears, from its own templates and the unknown tracks.

        Args:
            caller: Who asks.
            promised_far: Share of strangers that may be taken for somebody.
            apply: Whether the suggested limits are to hold from now on.
            vouched: Ids of templates and subjects that somebody has looked at, and that are right.

        Raises:
            RefusedError: Limits are to be applied, and none are suggested.
        """
        policy = self.desk.admit(caller, "calibrate")
        templates = [each for each in self._all() if each.model == self.desk.faces.model and not each.negative]
        unknowns = [track for track in self.desk.tracks.unknowns() if track.model == self.desk.faces.model]
        found = calibrate(templates, unknowns, promised_far=promised_far, vouched=vouched)
        if apply:
            self.desk.store.set_policy(policy.model_copy(update={"limits": found.limits(policy.limits)}))
        self.desk.note(caller, "calibrate", count=len(templates), applied=apply)
        return found

    # To be forgotten

    def erase(self, caller: Caller, subject_id: str) -> SignedReceipt:
        """Forget somebody: templates, photos, sightings, explanations, and unknown tracks that look like them.

        Raises:
            UnknownError: There is no such subject.
        """
        policy, desk = self.desk.admit(caller, "delete", subject_id), self.desk
        own = [each for each in desk.store.templates(desk.store.template_ids(subject_id)) if not each.negative]
        alike = self._alike(own, policy)
        removed = desk.store.remove_subject(subject_id)
        counts = desk.tracks.forget(subject_id)
        crops = sum(track.photo is not None for track in desk.tracks.unknowns() if track.id in alike)
        unknown = desk.tracks.drop_unknown(alike)
        words = self._words(removed.version)
        receipt = Receipt(
            namespace=desk.store.namespace,
            subject=desk.store.keys.pseudonym(desk.store.namespace, subject_id),
            asked_by=caller.name,
            removed=Removed(
                vectors=removed.vectors, negatives=removed.negatives, photos=removed.photos, crops=crops,
                unknown_tracks=unknown, index_entries=removed.vectors * sum(word.confirmed for word in words), **counts,
            ),
            matchers=words,
            topics={topic: datetime.now(UTC) + timedelta(seconds=kept) for topic, kept in desk.topics.items()},
            gallery_version=removed.version,
            key=desk.store.keys.fingerprint,
        )  # fmt: skip
        said = signed(receipt, desk.store.keys)
        desk.store.keep_receipt(receipt.id, said.model_dump_json())
        desk.note(caller, "delete", subject_id, version=removed.version, count=removed.vectors, receipt=receipt.id)
        return said

    def erase_all(self, caller: Caller) -> list[SignedReceipt]:
        """Forget everybody, each with a receipt."""
        self.desk.admit(caller, "delete")
        return [self.erase(caller, name) for name in list(self._every_subject())]

    def forget_expired(self, caller: Caller) -> list[SignedReceipt]:
        """Forget those whose date has passed; matchers do not match them from that date."""
        names = self.desk.store.expired(time.time())
        return [self.erase(caller, name) for name in names]

    def erasure(self, caller: Caller, receipt_id: str) -> Erasure:
        """A receipt, verified again by looking.

        Raises:
            UnknownError: There is no such receipt.
        """
        self.desk.admit(caller, "erasure")
        kept = self.desk.store.receipt(receipt_id)
        if kept is None:
            message = f"there is no receipt {receipt_id!r}"
            raise UnknownError(message)
        said = SignedReceipt.model_validate_json(kept)
        receipt = verified(said, self.desk.store.keys.public_key)
        found = tuple(self._left(receipt))
        self.desk.note(caller, "erasure", count=len(found))
        return Erasure(said, not found, found)

    # To answer for it

    def reembed(self, caller: Caller, model: str) -> Reembedding:
        """Make templates with the net of this gallery's graph beside those of another net, which stay until they go.

        Matchers read the templates of their own net, so that both nets answer while they change over.

        Raises:
            UnknownError: ``model`` is not the net of this gallery's graph.
        """
        self.desk.admit(caller, "re-embed")
        if model != self.desk.faces.model:
            message = f"this gallery embeds with {self.desk.faces.model!r}; start it with a graph that has {model!r}"
            raise UnknownError(message)
        made = there = without = 0
        for template in self._all():
            if template.model == model:
                there += 1
            elif (twin := self._twin(template, model)) is None:
                without += 1
            elif self.desk.store.templates([twin.id]):
                continue  # counted as one that is there
            else:
                self.desk.store.enrol(self.desk.store.subject(template.subject_id), [twin])
                made += 1
        self.desk.note(caller, "re-embed", count=made)
        return Reembedding(model, made, there, without)

    def drop_model(self, caller: Caller, model: str) -> int:
        """Forget the templates of a net that nobody matches with any more; how many there were."""
        self.desk.admit(caller, "re-embed")
        gone = [each for each in self._all() if each.model == model]
        for subject_id in {each.subject_id for each in gone}:
            self.desk.store.remove_templates(subject_id, [each.id for each in gone if each.subject_id == subject_id])
        self.desk.note(caller, "re-embed", count=len(gone), what="dropped")
        return len(gone)

    def export(self, caller: Caller, *, photos: bool = False) -> MemoryGallery:
        """Everybody who may be matched, as a gallery that a file can hold: vectors in the clear, no metadata."""
        self.desk.admit(caller, "export")
        store, now = self.desk.store, datetime.now(UTC)
        allowed = {name for name in self._every_subject() if store.subject(name).matched(now)}
        gallery = MemoryGallery(name=store.namespace)
        kept = [each for each in self._all() if each.subject_id in allowed and not each.negative]
        gallery.enrol(replace(each, photo=store.photo(each.id) if photos else None) for each in kept)
        self.desk.note(caller, "export", count=len(kept))
        return gallery

    def take_in(self, caller: Caller, gallery: MemoryGallery) -> int:
        """Enrol what a gallery holds; how many templates.

        Raises:
            ForbiddenError: A subject has not consented.
        """
        policy, now = self.desk.admit(caller, "import"), datetime.now(UTC)
        for name in gallery.subjects:
            own = [each for each in gallery.templates if each.subject_id == name]
            subject = self._subject(name, policy)
            fresh = [replace(each, id=str(uuid4()), model=self.desk.faces.model, created=now) for each in own]
            self.desk.seen(self.desk.store.enrol(subject, fresh))
        self.desk.note(caller, "import", count=len(gallery.templates))
        return len(gallery.templates)

    def policy(self, caller: Caller) -> NamespacePolicy:
        """What the namespace allows."""
        return self.desk.admit(caller, "read policy")

    def set_policy(self, caller: Caller, policy: NamespacePolicy) -> NamespacePolicy:
        """Let the namespace allow something else."""
        self.desk.admit(caller, "policy")
        self.desk.store.set_policy(policy)
        self.desk.note(caller, "policy")
        return policy

    def audit(
        self, caller: Caller, *, after: int = 0, limit: int = 100, action: str = "", actor: str = "", subject: str = ""
    ) -> list[Entry]:
        """Lines of the audit log, in order, from the one after number ``after``."""
        self.desk.admit(caller, "audit", subject)
        about = self._pseudonym(subject) if subject else ""
        return self.desk.log.read(after, limit, action=action, actor=actor, subject=about)

    def verify_audit(self, caller: Caller, against: Iterable[Anchor] = ()) -> list[Fault]:
        """What is wrong with the audit log; nothing if it is whole, and holds what was once copied from it."""
        self.desk.admit(caller, "audit")
        return self.desk.log.verify(against)

    def exporting(self, caller: Caller) -> AuditLog:
        """The audit log, to be read as a whole by who copies or inspects it."""
        self.desk.admit(caller, "audit")
        self.desk.note(caller, "audit", what="whole")
        return self.desk.log

    def reseal(self, caller: Caller) -> int:
        """Seal what lies under an old key under the current one; how many pieces."""
        self.desk.admit(caller, "rotate keys")
        count = self.desk.store.reseal()
        self.desk.note(caller, "rotate keys", count=count)
        return count

    def close(self) -> None:
        """End the connections."""
        self.desk.close()

    def _every_subject(self) -> Iterator[str]:
        page = self.desk.store.subjects("", PART)
        while page:
            yield from (subject.id for subject in page)
            page = self.desk.store.subjects(page[-1].id, PART)

    def _all(self) -> Iterator[Template]:
        names = self.desk.store.template_ids()
        for at in range(0, len(names), PART):
            yield from self.desk.store.templates(names[at : at + PART])

    def _alike(self, own: Sequence[Template], policy: NamespacePolicy) -> set[str]:
        """Unknown tracks that would be taken for somebody with these templates."""
        tracks = self.desk.tracks.unknowns()
        if not own or not tracks:
            return set()
        vectors: Floats = np.array([each.vector for each in own], np.float32)
        best = (np.array([track.vector for track in tracks], np.float32) @ vectors.T).max(axis=1)
        limits = policy.limits
        pairs = zip(tracks, best.tolist(), strict=True)
        return {t.id for t, score in pairs if score >= (limits.masked_threshold if t.masked else limits.threshold)}

    def _words(self, version: int) -> tuple[MatcherWord, ...]:
        """What each running matcher says of a version, once all have it or time is over."""
        until = time.monotonic() + CONFIRM_S
        while True:
            views = self.desk.tracks.matchers(time.time(), SILENT_S)
            if all(view.version >= version for view in views) or time.monotonic() > until:
                break
            time.sleep(0.05)
        return tuple(
            MatcherWord(name=view.name, confirmed=view.version >= version, gallery_version=view.version)
            for view in views
        )

    def _left(self, receipt: Receipt) -> Iterator[str]:
        """What is there of an erased subject."""
        store = self.desk.store
        for name in self._every_subject():
            if store.keys.pseudonym(store.namespace, name) == receipt.subject:
                created = store.subject(name).created
                again = created > receipt.at
                yield f"the subject was added again at {created:%Y-%m-%d %H:%M}" if again else "the subject is there"
        if receipt.subject in {store.keys.pseudonym(store.namespace, each.subject_id) for each in self._all()}:
            yield "templates of the subject are there"
        for word in self._words(receipt.gallery_version):
            if not word.confirmed:
                yield f"matcher {word.name} holds version {word.gallery_version}, which is older than the erasure"

    def _twin(self, template: Template, model: str) -> Template | None:
        """The same face seen by another net; None where there is no photo of it."""
        photo = self.desk.store.photo(template.id)
        if photo is None:
            return None
        (vector,) = self.desk.faces.vectors([photo])
        return replace(
            template, id=str(uuid5(NAMESPACE_OID, f"{template.id}/{model}")), model=model, vector=vector, photo=photo
        )
