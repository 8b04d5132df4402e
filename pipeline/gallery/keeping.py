"""What changes a gallery: subjects and their templates come, change and go; unknown faces are named."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from pipeline.errors import first_mistake
from pipeline.gallery.errors import (
    DuplicateError,
    ForbiddenError,
    InvalidError,
    RefusedError,
    UnknownError,
)
from pipeline.gallery.protocol import Template
from pipeline.gallery.searching import Searching, vector_of
from pipeline.gallery.subjects import Caller, NamespacePolicy, Subject, UnknownTrack
from pipeline.packets import EmbeddedFace, Floats, Pixels


class Keeping(Searching):
    """Changes subjects. Every method checks the caller first and is logged."""

    # Subjects

    def subjects(self, caller: Caller, *, after: str = "", limit: int = 100) -> list[Subject]:
        """Some of them, by id, from the one after ``after``."""
        with self.desk.asked(caller, "list"):
            return self.desk.store.subjects(after, limit)

    def subject(self, caller: Caller, subject_id: str) -> Subject:
        """One of them.

        Raises:
            UnknownError: There is none.
        """
        with self.desk.asked(caller, "read", subject_id):
            return self.desk.store.subject(subject_id)

    def add_subject(self, caller: Caller, subject: Subject) -> Subject:
        """Add somebody without templates.

        Raises:
            DuplicateError: There is one of this name.
            RefusedError: Something of somebody else is still kept under this name.
        """
        with self.desk.asked(caller, "change", subject.id) as said:
            self._free(subject.id, said.policy)
            dated = subject.dated(said.policy.subject_ttl_s)
            said.version, said.details = self.desk.store.add_subject(dated), {"what": "added"}
        return dated

    def change_subject(self, caller: Caller, subject_id: str, **changes: Any) -> Subject:
        """Change metadata, consent, purposes, date or, as ``id``, the name: all of it or nothing.

        Whose date is taken away has that of the policy.

        Raises:
            UnknownError: There is no such subject.
            DuplicateError: There is one of the new name.
            RefusedError: Something of somebody else is still kept under the new name.
            InvalidError: It cannot be changed to that.
        """
        with self.desk.asked(caller, "change", subject_id) as said:
            if "id" in changes:
                self._free(named(changes["id"]).id, said.policy)
            said.details["what"] = ", ".join(changes)
            lifetime_s = said.policy.subject_ttl_s
            subject, said.version = self.desk.store.change(
                subject_id, lambda it: _changed(changes, it).dated(lifetime_s)
            )
            self._follow_names(subject.id, said.policy)
            if subject.id != subject_id:
                said.details["to"] = self.desk.store.pseudonym(subject.id)
        return subject

    def rename(self, caller: Caller, old: str, new: str) -> Subject:
        """Give a subject another name; see `change_subject`."""
        return self.change_subject(caller, old, id=new)

    def merge(self, caller: Caller, source: str, into: str) -> int:
        """``source`` is the same person as ``into``; how many templates moved.

        The earlier date holds, and only purposes to which both agreed.

        Raises:
            UnknownError: There is no such subject.
            InvalidError: They are one already.
            RefusedError: One has withdrawn the consent, or there is no purpose to which both agreed.
        """
        with self.desk.asked(caller, "merge", source) as said:
            if source == into:
                message = f"{source!r} and {into!r} are one subject"
                raise InvalidError(message)
            said.details["into"] = self.desk.store.pseudonym(into)
            said.count, said.version = self.desk.store.merge(source, into, joined)
            self._follow_names(into, said.policy)
            return said.count

    # Templates

    def enrol(
        self,
        caller: Caller,
        subject_id: str,
        picture: Pixels,
        *,
        source_sha256: str = "",
        least_score: float = 0.0,
        keep_photo: bool | None = None,
        refuse_twins: bool = False,
    ) -> Template:
        """Add the face of a picture to a subject, who is added where there is none.

        The same photo of the same subject adds nothing: a request whose answer was lost may be sent again.

        Args:
            caller: Who asks.
            subject_id: Whose face it is.
            picture: (H, W, 3) uint8 RGB with one face.
            source_sha256: Hash of the photo.
            least_score: Faces of which the detector is less sure are left out.
            keep_photo: Whether to keep the aligned crop; as the policy says if None.
            refuse_twins: Whether to refuse a photo that was enrolled before, and a face that is somebody else's.

        Raises:
            PictureError: There is not one face in it that is good enough.
            DuplicateError: It is refused as a twin.
            ForbiddenError: The subject has not consented.
        """
        with self.desk.asked(caller, "enrol", subject_id) as said:
            subject, new = self._subject(subject_id, said.policy)
            face = self.only_face(picture, least_score)
            kept = said.policy.keep_photos if keep_photo is None else keep_photo
            template = self._template(subject_id, face, source_sha256, keep_photo=kept)
            if again := self._again(template):
                if refuse_twins:
                    message = "this photo is enrolled already"
                    raise DuplicateError(message)
                said.details["what"] = "again"
                return again
            if refuse_twins:
                self.refuse_twin(caller, template)
            said.count, said.version = 1, self.desk.store.enrol(subject, [template], new=new)
        return template

    def enrol_vectors(
        self,
        caller: Caller,
        subject_id: str,
        vectors: Floats,
        model: str,
        *,
        quality: float = 1.0,
        masked: bool = False,
    ) -> list[Template]:
        """Add vectors, (N, D) float32, to a subject, who is added where there is none.

        Raises:
            InvalidError: They are no vectors of this gallery's net.
            ForbiddenError: The subject has not consented.
        """
        with self.desk.asked(caller, "enrol", subject_id) as said:
            (subject, new), now = self._subject(subject_id, said.policy), datetime.now(UTC)
            given, net = self.checked(vectors, model), self.desk.faces.model
            templates = [
                Template(subject_id, vector, quality, masked, id=str(uuid4()), model=net, created=now)
                for vector in given
            ]
            said.count, said.version = len(given), self.desk.store.enrol(subject, templates, new=new)
        return templates

    def templates(self, caller: Caller, subject_id: str = "", *, after: str = "", limit: int = 100) -> list[Template]:
        """Templates of a subject, or of all, by id, from the one after ``after``; no photos."""
        with self.desk.asked(caller, "list", subject_id):
            names = [name for name in self.desk.store.template_ids(subject_id) if name > after]
            return self.desk.store.templates(names[:limit])

    def photo(self, caller: Caller, template_id: str) -> Pixels:
        """The crop that a template was made of, (128, 128, 3) uint8 RGB.

        Raises:
            UnknownError: There is no such template, or its photo was not kept.
        """
        with self.desk.asked(caller, "read") as said:
            said.details["what"] = "photo"
            template, photo = self.desk.store.template(template_id), self.desk.store.photo(template_id)
            said.about = [template.subject_id]
            if photo is None:
                message = f"the photo of template {template_id!r} was not kept"
                raise UnknownError(message)
            return photo

    def remove_template(self, caller: Caller, template_id: str) -> Template:
        """Forget one template, with its photo.

        Raises:
            UnknownError: There is none.
        """
        with self.desk.asked(caller, "delete") as said:
            template = self.desk.store.template(template_id)
            said.about, said.count, said.details = [template.subject_id], 1, {"what": "template"}
            said.version = self.desk.store.remove_templates(template.subject_id, [template_id]).version
        return template

    def not_me(
        self,
        caller: Caller,
        subject_id: str,
        *,
        picture: Pixels | None = None,
        vector: Floats | None = None,
        track_id: str = "",
    ) -> Template:
        """A face that is not the subject, whoever it may look like: of a picture, a vector or an unknown track.

        Raises:
            UnknownError: There is no such subject or track.
            InvalidError: Not one of the three was given, or the track is of another net.
        """
        with self.desk.asked(caller, "not me", subject_id) as said:
            subject = self.desk.store.subject(subject_id)
            vector, photo = self._shown(picture, vector, track_id)
            template = Template(
                subject_id, vector, 1.0, photo=photo if said.policy.keep_photos else None, id=str(uuid4()),
                model=self.desk.faces.model, created=datetime.now(UTC), negative=True,
            )  # fmt: skip
            said.count, said.version = 1, self.desk.store.enrol(subject, [template], new=False)
        return template

    def _shown(self, picture: Pixels | None, vector: Floats | None, track_id: str) -> tuple[Floats, Pixels | None]:
        """The vector of whichever of the three was given, and the crop of a picture."""
        if (picture is not None) + (vector is not None) + bool(track_id) != 1:
            message = "give one of a picture, a vector or an unknown track"
            raise InvalidError(message)
        if picture is not None:
            face = self.only_face(picture)
            return vector_of(face), face.crop
        if vector is not None:
            return self.checked(vector[None], "")[0], None
        return self._unknown(track_id).vector, None

    def _unknown(self, track_id: str) -> UnknownTrack:
        for track in self.desk.tracks.unknowns([track_id]):
            self.checked(track.vector[None], track.model)
            return track
        message = f"there is no unknown track {track_id!r}; it may have been forgotten"
        raise UnknownError(message)

    # What they share

    def _subject(self, subject_id: str, policy: NamespacePolicy) -> tuple[Subject, bool]:
        """The subject to enrol, and whether they are new.

        Raises:
            ForbiddenError: They have not consented, or no more.
        """
        known = self.desk.store.known([subject_id])
        if not known:
            self._free(subject_id, policy)
        subject = known[subject_id] if known else named(subject_id).dated(policy.subject_ttl_s)
        if subject.consent == "withdrawn" or (policy.require_consent and subject.consent != "given"):
            message = f"the consent of {subject_id!r} is {subject.consent}; nobody is enrolled here without it"
            raise ForbiddenError(message)
        return subject, not known

    def _template(self, subject_id: str, face: EmbeddedFace, sha256: str, *, keep_photo: bool) -> Template:
        return Template(
            subject_id,
            vector_of(face),
            face.quality.score,
            face.mask_probability >= 0.5,
            face.crop if keep_photo else None,
            id=str(uuid4()),
            model=self.desk.faces.model,
            yaw=face.quality.yaw,
            size_px=face.quality.size_px,
            source_sha256=sha256,
            created=datetime.now(UTC),
        )

    def _again(self, template: Template) -> Template | None:
        """What was made of the same photo before."""
        photo = template.source_sha256
        return self.desk.store.made_of(photo, template.subject_id, template.model) if photo else None

    def _free(self, name: str, policy: NamespacePolicy) -> None:
        """Whoever had a name before has what was seen under it, before somebody else is given the name."""
        if new := self.desk.store.renamed().get(name):
            self._follow_names(new, policy)

    def _follow_names(self, subject_id: str, policy: NamespacePolicy) -> None:
        """Give what was seen under old names to the new one, or to each its own; goes on where one was interrupted."""
        for old, new in self.desk.store.renamed(subject_id).items():
            self._follow_name(old, new, policy)

    def _follow_name(self, old: str, new: str, policy: NamespacePolicy) -> None:
        if self.desk.tracks.rename(old, new, policy.match_ttl_s):
            self.desk.store.settled(old, new)


def _changed(changes: Mapping[str, Any], before: Subject) -> Subject:
    try:
        return Subject.model_validate({**before.model_dump(), **changes})
    except ValidationError as error:
        message = f"a subject cannot be changed so: {first_mistake(error)}"
        raise InvalidError(message) from None


def named(subject_id: str) -> Subject:
    """A subject of this name.

    Raises:
        InvalidError: It can be no name.
    """
    try:
        return Subject(id=subject_id)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        message = f"{subject_id[:80]!r} can be no name of a subject: {reason}"
        raise InvalidError(message) from None


def joined(source: Subject, into: Subject) -> Subject:
    """Two subjects who are one person: whatever one of them restricts is restricted.

    Raises:
        RefusedError: One has withdrawn the consent, or there is no purpose to which both agreed.
    """
    for each in (source, into):
        if each.consent == "withdrawn":
            message = f"the consent of {each.id!r} is withdrawn; erase them, or ask them"
            raise RefusedError(message)
    purposes = tuple(each for each in source.purposes or into.purposes if not into.purposes or each in into.purposes)
    if not purposes and (source.purposes or into.purposes):
        message = f"{source.id!r} and {into.id!r} have agreed to no purpose in common"
        raise RefusedError(message)
    expires = min((each.expires for each in (source, into) if each.expires), default=None)
    consent = "given" if source.consent == into.consent == "given" else "unstated"
    changes = {"purposes": purposes, "expires": expires, "consent": consent}
    return into.model_copy(update={**changes, "metadata": {**source.metadata, **into.metadata}})
