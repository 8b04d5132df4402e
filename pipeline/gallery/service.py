"""Everything that can be asked of a gallery: what `searching` and `keeping` offer, and what answers for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid4, uuid5

from pipeline.audit import Anchor, Entry, Fault
from pipeline.gallery.calibration import Calibration, calibrate
from pipeline.gallery.coverage import Coverage, coverage
from pipeline.gallery.erasing import SILENT_S, Erasing
from pipeline.gallery.errors import InvalidError, RefusedError, UnknownError
from pipeline.gallery.memory import MemoryGallery
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Caller, NamespacePolicy, Sighting

if TYPE_CHECKING:  # what it needs is an extra
    from pipeline.edges.redis_audit import AuditLog


@dataclass(frozen=True, slots=True)
class Matches:
    """A page of sightings, the latest first; ``next`` asks for the one after it, empty where there is none."""

    sightings: tuple[Sighting, ...]
    next: str


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


class GalleryService(Erasing):
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
        with self.desk.asked(caller, "matches", subject) as said:
            since_s = since.timestamp() if since else 0.0
            until_s = until.timestamp() if until else math.inf
            found, following = self.desk.tracks.sightings(subject, stream, since_s, until_s, after, limit)
            said.count = len(found)
            return Matches(tuple(found), following)

    def coverage(self, caller: Caller, subject_id: str) -> Coverage:
        """Which poses and qualities a subject has, and lacks.

        Raises:
            UnknownError: There is no such subject.
        """
        with self.desk.asked(caller, "read", subject_id):
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
        with self.desk.asked(caller, "calibrate") as said:
            templates = [each for each in self._all() if each.model == self.desk.faces.model and not each.negative]
            unknowns = [track for track in self.desk.tracks.unknowns() if track.model == self.desk.faces.model]
            found = calibrate(templates, unknowns, promised_far=promised_far, vouched=vouched)
            if apply:
                self.desk.store.change_policy(lambda now: now.model_copy(update={"limits": found.limits(now.limits)}))
            said.count, said.details = len(templates), {"applied": apply}
            return found

    # To answer for it

    def reembed(self, caller: Caller, model: str) -> Reembedding:
        """Make templates with the net of this gallery's graph beside those of another net, which stay until they go.

        Matchers read the templates of their own net, so that both nets answer while they change over.

        Raises:
            UnknownError: ``model`` is not the net of this gallery's graph.
        """
        with self.desk.asked(caller, "re-embed") as said:
            if model != self.desk.faces.model:
                message = f"this gallery embeds with {self.desk.faces.model!r}; start it with another graph"
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
                    made += self._enrol_twin(template, twin)
            said.count = made
            return Reembedding(model, made, there, without)

    def drop_model(self, caller: Caller, model: str, *, leave_bare: bool = False) -> int:
        """Forget the templates of a net that nobody matches with any more; how many there were.

        Args:
            caller: Who asks.
            model: Name of the net.
            leave_bare: Whether those who have no template of another net may be left without any.

        Raises:
            RefusedError: It is matched with, who is not somebody would be forgotten with it, or somebody left bare.
        """
        with self.desk.asked(caller, "re-embed") as said:
            said.details["what"] = "dropped"
            if model == self.desk.faces.model:
                message = f"{model!r} is the net of this gallery's graph; its templates are what is matched with"
                raise RefusedError(message)
            if model in self.desk.store.nets(SILENT_S):
                message = f"a matcher still matches with {model!r}; end it, or start it with another graph"
                raise RefusedError(message)
            templates = list(self._all())
            gone = [each for each in templates if each.model == model]
            self._refuse_loss(gone, [each for each in templates if each.model != model], leave_bare=leave_bare)
            for name in {each.subject_id for each in gone}:
                own = [each.id for each in gone if each.subject_id == name]
                with suppress(UnknownError):  # forgotten meanwhile
                    said.version = self.desk.store.remove_templates(name, own).version
                    said.count += len(own)
            return len(gone)

    def export(self, caller: Caller, *, photos: bool = False) -> MemoryGallery:
        """Everybody who may be matched for what ``caller`` asks, as a gallery that a file can hold.

        Vectors are in the clear, and there is no metadata.
        """
        with self.desk.asked(caller, "export") as said:
            store, now, net = self.desk.store, datetime.now(UTC), self.desk.faces.model
            subjects = map(store.subject, self._every_subject())
            allowed = {each.id for each in subjects if each.matched(now) and each.agreed(caller.purpose)}
            gallery = MemoryGallery(name=store.namespace, model=net)
            kept = [e for e in self._all() if e.subject_id in allowed and not e.negative and e.model == net]
            gallery.enrol(replace(each, photo=store.photo(each.id) if photos else None) for each in kept)
            said.count = len(kept)
            return gallery

    def take_in(self, caller: Caller, gallery: MemoryGallery) -> int:
        """Enrol what a gallery holds; how many templates of it were not there yet.

        Nothing is written before everybody may be enrolled. Photos are kept where the policy says so.

        Raises:
            InvalidError: Its vectors are of another net, or a subject's name can be none.
            ForbiddenError: A subject has not consented.
            RefusedError: A subject is being erased.
        """
        with self.desk.asked(caller, "import") as said:
            if gallery.model != (net := self.desk.faces.model):
                message = f"vectors of {gallery.model!r} cannot be taken in, this gallery's are of {net!r}; enrol anew"
                raise InvalidError(message)
            erasing = set(self.desk.store.erasing())
            if busy := next((name for name in gallery.subjects if self.desk.store.pseudonym(name) in erasing), ""):
                message = f"the erasure of who was {busy!r} is not finished yet; ask for it again, or wait a minute"
                raise RefusedError(message)
            subjects = [self._subject(name, said.policy) for name in gallery.subjects]
            for subject, new in subjects:
                if fresh := self._missing(subject.id, gallery):
                    kept = fresh if said.policy.keep_photos else [replace(each, photo=None) for each in fresh]
                    said.version = self.desk.store.enrol(subject, kept, new=new)
                    said.count += len(kept)
            self.desk.follow_policy(said, gallery.subjects)
            return said.count

    def policy(self, caller: Caller) -> NamespacePolicy:
        """What the namespace allows."""
        with self.desk.asked(caller, "read policy") as said:
            return said.policy

    def set_policy(self, caller: Caller, policy: NamespacePolicy) -> NamespacePolicy:
        """Let the namespace allow something else; a time after which subjects are forgotten holds for all.

        Where this was interrupted, ask again: who has the right date is not written anew.
        """
        with self.desk.asked(caller, "policy") as said:
            said.details["what"] = ", ".join(name for name, value in policy if value != getattr(said.policy, name))
            self.desk.store.set_policy(policy)
            if self.desk.store.lifetimes():  # else no date was ever given by a policy
                self.desk.redate(list(self._every_subject()))
            return policy

    def audit(
        self, caller: Caller, *, after: int = 0, limit: int = 100, action: str = "", actor: str = "", subject: str = ""
    ) -> list[Entry]:
        """Lines of the audit log, in order, from the one after number ``after``."""
        with self.desk.asked(caller, "audit", subject):
            about = self.desk.store.pseudonym(subject) if subject else ""
            return self.desk.log.read(after, limit, action=action, actor=actor, subject=about)

    def verify_audit(self, caller: Caller, against: Iterable[Anchor] = ()) -> list[Fault]:
        """What is wrong with the audit log; nothing if it is whole, and holds what was once copied from it."""
        faults: list[Fault] = []
        try:
            with self.desk.asked(caller, "audit") as said:
                said.details["what"] = "verified"
                faults = self.desk.log.verify(against)
        except RefusedError:
            if not faults:  # a log that is too damaged to take a line is to be told of all the same
                raise
        return faults

    def begin_audit_anew(self, caller: Caller) -> str:
        """Set a damaged audit log aside, so that the gallery can be changed again; the key where it lies.

        Raises:
            InvalidError: The log is whole.
        """
        self.desk.admit(caller, "policy")
        return self.desk.log.begin_anew(caller.name)

    def exporting(self, caller: Caller) -> AuditLog:
        """The audit log, to be read as a whole by who copies or inspects it."""
        with self.desk.asked(caller, "audit") as said:
            said.details["what"] = "whole"
            return self.desk.log

    def reseal(self, caller: Caller) -> int:
        """Seal what lies under an old key under the current one; how many pieces."""
        with self.desk.asked(caller, "rotate keys") as said:
            count = self.desk.store.reseal() + self.desk.tracks.reseal()
            said.count = count
            return count

    def close(self) -> None:
        """End the connections."""
        self.desk.close()

    def _missing(self, subject_id: str, gallery: MemoryGallery) -> list[Template]:
        """What ``gallery`` holds of a subject and this one does not."""
        own, _ = self.desk.store.opened(self.desk.store.template_ids(subject_id))
        held = {each.vector.tobytes() for each in own if not each.negative}
        told = {each.vector.tobytes(): each for each in gallery.templates if each.subject_id == subject_id}
        now = datetime.now(UTC)
        return [replace(each, id=str(uuid4()), created=now) for vector, each in told.items() if vector not in held]

    def _refuse_loss(self, gone: Sequence[Template], left: Sequence[Template], *, leave_bare: bool) -> None:
        """Refuse to forget templates of an old net where nothing stands for them among those that are ``left``."""
        there = {each.id for each in left}
        if lost := [each for each in gone if each.negative and _twin_id(each, self.desk.faces.model) not in there]:
            message = f"{len(lost)} anchors of who somebody is not have no photo to be made of; remove them first"
            raise RefusedError(message)
        bare = {each.subject_id for each in gone} - {each.subject_id for each in left if not each.negative}
        if bare and not leave_bare:
            message = f"{len(bare)} subjects have templates of no other net; enrol them anew, or delete them"
            raise RefusedError(message)

    def _twin(self, template: Template, model: str) -> Template | None:
        """The same face seen by another net; None where there is no photo of it."""
        photo = self.desk.store.photo(template.id)
        if photo is None:
            return None
        (vector,) = self.desk.faces.vectors([photo])
        return replace(template, id=_twin_id(template, model), model=model, vector=vector, photo=photo)

    def _enrol_twin(self, template: Template, twin: Template) -> int:
        """1 if it was; a subject or template that was forgotten meanwhile is not brought back."""
        try:
            subject = self.desk.store.subject(template.subject_id)
            self.desk.store.enrol(subject, [twin], new=False, beside=template.id)
        except (UnknownError, RefusedError):
            return 0
        return 1


def _twin_id(template: Template, model: str) -> str:
    return str(uuid5(NAMESPACE_OID, f"{template.id}/{model}"))
