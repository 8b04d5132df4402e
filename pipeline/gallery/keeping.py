"""What changes a gallery: subjects and their templates come, change and go; unknown faces are named."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
from pydantic import ValidationError

from pipeline.gallery.clusters import Cluster, clusters
from pipeline.gallery.errors import DuplicateError, ForbiddenError, InvalidError, PictureError, UnknownError
from pipeline.gallery.protocol import Template
from pipeline.gallery.searching import Searching
from pipeline.gallery.subjects import Caller, NamespacePolicy, Subject, UnknownTrack
from pipeline.packets import EmbeddedFace, Floats, Pixels

MOST_OF_A_CLUSTER = 10  # templates that a named cluster gives: its best faces


class Keeping(Searching):
    """Changes subjects. Every method checks the caller first and is logged."""

    # Subjects

    def subjects(self, caller: Caller, *, after: str = "", limit: int = 100) -> list[Subject]:
        """Some of them, by id, from the one after ``after``."""
        self.desk.admit(caller, "list")
        return self.desk.store.subjects(after, limit)

    def subject(self, caller: Caller, subject_id: str) -> Subject:
        """One of them.

        Raises:
            UnknownError: There is none.
        """
        self.desk.admit(caller, "read", subject_id)
        return self.desk.store.subject(subject_id)

    def add_subject(self, caller: Caller, subject: Subject) -> Subject:
        """Add somebody without templates.

        Raises:
            DuplicateError: There is one of this name.
        """
        policy = self.desk.admit(caller, "change", subject.id)
        dated = _dated(subject, policy)
        version = self.desk.store.add_subject(dated)
        self.desk.note(caller, "change", subject.id, version=version, what="added")
        return dated

    def change_subject(self, caller: Caller, subject_id: str, **changes: Any) -> Subject:
        """Change metadata, consent, purposes or date.

        Raises:
            UnknownError: There is no such subject.
            InvalidError: It cannot be changed to that.
        """
        self.desk.admit(caller, "change", subject_id)
        before = self.desk.store.subject(subject_id)
        try:
            subject = Subject.model_validate({**before.model_dump(), **changes, "id": subject_id})
        except ValidationError as error:
            message = f"the {error.errors()[0]['loc'][0]} of a subject cannot be so: {error.errors()[0]['msg']}"
            raise InvalidError(message) from None
        self._changed(caller, "change", subject_id, self.desk.store.change_subject(subject), what=", ".join(changes))
        return subject

    def rename(self, caller: Caller, old: str, new: str) -> Subject:
        """Give a subject another name.

        Raises:
            UnknownError: There is no such subject.
            DuplicateError: There is one of the new name.
            InvalidError: It can be no name.
        """
        policy = self.desk.admit(caller, "change", old)
        subject = named(new, self.desk.store.subject(old))
        version = self.desk.store.move(old, subject, new=True)
        self.desk.tracks.rename(old, new, policy.match_ttl_s)
        self._changed(caller, "change", old, version, what="renamed", to=self._pseudonym(new))
        return subject

    def merge(self, caller: Caller, source: str, into: str) -> int:
        """``source`` is the same person as ``into``; how many templates moved.

        Raises:
            UnknownError: There is no such subject.
            InvalidError: They are one already.
        """
        policy = self.desk.admit(caller, "merge", source)
        if source == into:
            message = f"{source!r} and {into!r} are one subject"
            raise InvalidError(message)
        target, count = self.desk.store.subject(into), len(self.desk.store.template_ids(source))
        version = self.desk.store.move(source, target, new=False)
        self.desk.tracks.rename(source, into, policy.match_ttl_s)
        self._changed(caller, "merge", source, version, count=count, into=self._pseudonym(into))
        return count

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
        policy = self.desk.admit(caller, "enrol", subject_id)
        subject = self._subject(subject_id, policy)
        face = self.only_face(picture, least_score)
        kept = policy.keep_photos if keep_photo is None else keep_photo
        template = self._template(subject_id, face, source_sha256, keep_photo=kept)
        if refuse_twins:
            self._refuse_twins(template, policy)
        self._enrolled(caller, subject, [template])
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
        policy = self.desk.admit(caller, "enrol", subject_id)
        subject, now = self._subject(subject_id, policy), datetime.now(UTC)
        given = self.checked(vectors, model)
        templates = [
            Template(subject_id, vector, quality, masked, id=str(uuid4()), model=self.desk.faces.model, created=now)
            for vector in given
        ]
        self._enrolled(caller, subject, templates)
        return templates

    def templates(self, caller: Caller, subject_id: str = "", *, after: str = "", limit: int = 100) -> list[Template]:
        """Templates of a subject, or of all, by id, from the one after ``after``; no photos."""
        self.desk.admit(caller, "list", subject_id)
        names = [name for name in self.desk.store.template_ids(subject_id) if name > after]
        return self.desk.store.templates(names[:limit])

    def photo(self, caller: Caller, template_id: str) -> Pixels:
        """The crop that a template was made of, (128, 128, 3) uint8 RGB.

        Raises:
            UnknownError: There is no such template, or its photo was not kept.
        """
        self.desk.admit(caller, "read")
        template, photo = self.desk.store.template(template_id), self.desk.store.photo(template_id)
        if photo is None:
            message = f"the photo of template {template_id!r} was not kept"
            raise UnknownError(message)
        self.desk.note(caller, "read", template.subject_id, what="photo")
        return photo

    def remove_template(self, caller: Caller, template_id: str) -> Template:
        """Forget one template, with its photo.

        Raises:
            UnknownError: There is none.
        """
        self.desk.admit(caller, "delete")
        template = self.desk.store.template(template_id)
        removed = self.desk.store.remove_templates(template.subject_id, [template_id])
        self._changed(caller, "delete", template.subject_id, removed.version, count=1, what="template")
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
            InvalidError: Not one of the three was given.
        """
        self.desk.admit(caller, "not me", subject_id)
        subject = self.desk.store.subject(subject_id)
        if (picture is not None) + (vector is not None) + bool(track_id) != 1:
            message = "give one of a picture, a vector or an unknown track"
            raise InvalidError(message)
        if picture is not None:
            given = _of(self.only_face(picture))
        elif vector is not None:
            (given,) = self.checked(vector[None], "")
        else:
            given = self._unknown(track_id).vector
        now, model = datetime.now(UTC), self.desk.faces.model
        template = Template(subject_id, given, 1.0, id=str(uuid4()), model=model, created=now, negative=True)
        self._changed(caller, "not me", subject_id, self.desk.store.enrol(subject, [template]), count=1)
        return template

    # Faces that nobody knows

    def clusters(self, caller: Caller) -> list[Cluster]:
        """Unknown faces that look like one person, the largest cluster first."""
        policy = self.desk.admit(caller, "unknowns")
        found = self._clusters(policy)
        self.desk.note(caller, "unknowns", count=len(found))
        return found

    def assign(self, caller: Caller, cluster_id: str, subject_id: str) -> list[Template]:
        """A cluster is this subject, who is added where there is none; its best faces become templates.

        Raises:
            UnknownError: There is no such cluster.
            ForbiddenError: The subject has not consented.
        """
        policy = self.desk.admit(caller, "assign", subject_id)
        subject, now = self._subject(subject_id, policy), datetime.now(UTC)
        tracks = self._members(cluster_id, policy)
        best = sorted(tracks, key=lambda track: -track.quality)[:MOST_OF_A_CLUSTER]
        templates = [
            Template(
                subject_id, track.vector, track.quality, track.masked, track.photo if policy.keep_photos else None,
                id=str(uuid4()), model=track.model, created=now,
            )
            for track in best
        ]  # fmt: skip
        version = self.desk.store.enrol(subject, templates)
        self.desk.tracks.drop_unknown(track.id for track in tracks)
        self._changed(caller, "assign", subject_id, version, count=len(templates))
        return templates

    def ignore(self, caller: Caller, cluster_id: str) -> int:
        """Nobody cares who a cluster is, nor who else looks like it; how many tracks there were.

        Raises:
            UnknownError: There is no such cluster.
        """
        policy = self.desk.admit(caller, "ignore")
        tracks = self._members(cluster_id, policy)
        self.desk.tracks.ignore(track.id for track in tracks)
        self.desk.note(caller, "ignore", count=len(tracks))
        return len(tracks)

    def _clusters(self, policy: NamespacePolicy) -> list[Cluster]:
        found: list[Cluster] = clusters(self._unknowns(policy), threshold=policy.limits.threshold)
        return found

    def _unknowns(self, policy: NamespacePolicy) -> list[UnknownTrack]:
        """Those that nobody has named, and that do not look like somebody who is to be ignored."""
        found = [track for track in self.desk.tracks.unknowns() if track.model == self.desk.faces.model]
        ignored = np.array([track.vector for track in found if track.ignored], np.float32)
        rest = [track for track in found if not track.ignored]
        if not len(ignored) or not rest:
            return rest
        likeness = (np.array([track.vector for track in rest], np.float32) @ ignored.T).max(axis=1)
        return [track for track, score in zip(rest, likeness, strict=True) if score < policy.limits.threshold]

    def _members(self, cluster_id: str, policy: NamespacePolicy) -> list[UnknownTrack]:
        for cluster in self._clusters(policy):
            if cluster.id == cluster_id:
                members = set(cluster.members)
                return [track for track in self.desk.tracks.unknowns() if track.id in members]
        message = f"there is no cluster {cluster_id!r} any more; list them again"
        raise UnknownError(message)

    def _unknown(self, track_id: str) -> UnknownTrack:
        for track in self.desk.tracks.unknowns():
            if track.id == track_id:
                return track
        message = f"there is no unknown track {track_id!r}; it may have been forgotten"
        raise UnknownError(message)

    # What they share

    def _subject(self, subject_id: str, policy: NamespacePolicy) -> Subject:
        """The subject to enrol, who may be new.

        Raises:
            ForbiddenError: They have not consented, or no more.
        """
        try:
            subject = self.desk.store.subject(subject_id)
        except UnknownError:
            subject = _dated(named(subject_id), policy)
        if subject.consent == "withdrawn" or (policy.require_consent and subject.consent != "given"):
            message = f"the consent of {subject_id!r} is {subject.consent}; nobody is enrolled here without it"
            raise ForbiddenError(message)
        return subject

    def _template(self, subject_id: str, face: EmbeddedFace, sha256: str, *, keep_photo: bool) -> Template:
        return Template(
            subject_id,
            _of(face),
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

    def _refuse_twins(self, template: Template, policy: NamespacePolicy) -> None:
        own = self.desk.store.templates(self.desk.store.template_ids(template.subject_id))
        if template.source_sha256 and template.source_sha256 in {each.source_sha256 for each in own}:
            message = "this photo is enrolled already"
            raise DuplicateError(message)
        (answer,) = self.desk.matcher.match(template.vector[None], [template.masked], 2)
        for other in answer.best:
            if other.subject_id != template.subject_id and other.score >= policy.limits.threshold:
                message = f"looks like {other.subject_id!r} ({other.score:.2f}); merge them, or crop it to one face"
                raise DuplicateError(message)

    def _enrolled(self, caller: Caller, subject: Subject, templates: Sequence[Template]) -> None:
        version = self.desk.store.enrol(subject, templates)
        self._changed(caller, "enrol", subject.id, version, count=len(templates))

    def _changed(self, caller: Caller, action: str, subject_id: str, version: int, **said: Any) -> None:
        self.desk.note(caller, action, subject_id, version=version, **said)
        self.desk.seen(version)

    def _pseudonym(self, subject_id: str) -> str:
        return self.desk.store.keys.pseudonym(self.desk.store.namespace, subject_id)


def named(subject_id: str, like: Subject | None = None) -> Subject:
    """A subject of this name, otherwise like another one.

    Raises:
        InvalidError: It can be no name.
    """
    try:
        return Subject.model_validate({**(like.model_dump() if like else {}), "id": subject_id})
    except ValidationError as error:
        message = f"{subject_id[:80]!r} can be no name of a subject: {error.errors()[0]['msg']}"
        raise InvalidError(message) from None


def _dated(subject: Subject, policy: NamespacePolicy) -> Subject:
    """With the date that the namespace sets, where it has none."""
    if subject.expires is not None or policy.subject_ttl_s is None:
        return subject
    return subject.model_copy(update={"expires": subject.created + timedelta(seconds=policy.subject_ttl_s)})


def _of(face: EmbeddedFace) -> Floats:
    if face.embedding is None:
        message = "the face has no vector"
        raise PictureError(message)
    return face.embedding.vector
