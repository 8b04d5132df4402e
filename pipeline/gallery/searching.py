"""Questions to a gallery that change nothing: which faces, who are they, is it this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain

import numpy as np

from pipeline.gallery.answers import FaceView, Found, decided
from pipeline.gallery.desk import Desk, Question
from pipeline.gallery.errors import (
    DuplicateError,
    ForbiddenError,
    InvalidError,
    ManyFacesError,
    NoFaceError,
    PictureError,
    UnknownError,
)
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Caller, Limits, Subject
from pipeline.packets import Candidate, Decision, EmbeddedFace, Floats, Pixels

RUNNER_UP = 2  # subjects that a margin needs
MOST_NAMED = 100  # subjects of one search that have a line of their own in the log
PART = 500  # templates that are looked at in one go


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Some of the enrolled faces; ``total`` is how many there are."""

    templates: tuple[Template, ...]
    total: int


class Searching:
    """Finds faces and says who they are. Every method checks the caller first and is logged."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def detect(self, caller: Caller, picture: Pixels, *, least_score: float = 0.0) -> list[FaceView]:
        """The faces of a picture, (H, W, 3) uint8 RGB, largest first."""
        return [view for view, _ in self.embed(caller, picture, least_score=least_score)]

    def embed(
        self, caller: Caller, picture: Pixels, *, least_score: float = 0.0
    ) -> list[tuple[FaceView, Floats | None]]:
        """The faces of a picture, largest first, with their vectors, (D,) float32; None where a face is too poor.

        Nobody is looked for: it is logged as a detection.
        """
        with self.desk.asked(caller, "detect") as said:
            faces = self.desk.faces.of(picture, least_score)
            said.count = len(faces)
        return [(FaceView.of(face), face.embedding.vector if face.embedding else None) for face in faces]

    def search(
        self,
        caller: Caller,
        picture: Pixels,
        *,
        most_faces: int = 0,
        top: int = 1,
        least_score: float = 0.0,
        vectors: bool = False,
    ) -> list[Found]:
        """Who is in a picture, largest face first.

        Args:
            caller: Who asks.
            picture: (H, W, 3) uint8 RGB.
            most_faces: How many faces to look at; all if 0.
            top: How many candidates to tell.
            least_score: Faces of which the detector is less sure are left out.
            vectors: Whether to give the vectors, too.
        """
        with self.desk.asked(caller, "search") as said:
            faces = self._faces(picture, most_faces, least_score)
            found = self._decided(caller, faces, said.policy.limits, top)
            _tell(said, found)
        return found if vectors else [replace(each, vector=None) for each in found]

    def search_vectors(
        self, caller: Caller, vectors: Floats, model: str, *, top: int = 1, masked: bool = False
    ) -> list[Found]:
        """Who these are, (N, D) float32.

        Raises:
            InvalidError: They are no vectors of this gallery's net.
        """
        with self.desk.asked(caller, "search") as said:
            given = self.checked(vectors, model)
            found = self._matched(caller, given, [masked] * len(given), said.policy.limits, top)
            _tell(said, found)
        return found

    def verify(
        self,
        caller: Caller,
        picture: Pixels,
        *,
        subject_id: str = "",
        template_id: str = "",
        most_faces: int = 0,
        least_score: float = 0.0,
    ) -> list[Found]:
        """Whether the faces of a picture are of a subject, or look like one template.

        Raises:
            UnknownError: There is no such subject or template.
        """
        with self.desk.asked(caller, "verify", subject_id) as said:
            subject, own = self._claimed(caller, said, subject_id, template_id)
            faces = self._faces(picture, most_faces, least_score)
            found = [self._verified(face, subject, own, said.policy.limits) for face in faces]
            said.count = len(found)
        return found

    def verify_vectors(
        self, caller: Caller, vectors: Floats, model: str, *, subject_id: str = "", template_id: str = ""
    ) -> list[Found]:
        """Whether these vectors, (N, D) float32, are of a subject, or look like one template."""
        with self.desk.asked(caller, "verify", subject_id) as said:
            subject, own = self._claimed(caller, said, subject_id, template_id)
            limits, given = said.policy.limits, self.checked(vectors, model)
            found = [_claim(vector, subject, own, limits, masked=False) for vector in given]
            said.count = len(found)
        return [self._versioned(each) for each in found]

    def compare(
        self, caller: Caller, one: Pixels, other: Pixels, *, most_faces: int = 0, least_score: float = 0.0
    ) -> tuple[FaceView, list[tuple[FaceView, float]]]:
        """The face of one picture, and those of the other with their cosine similarity to it.

        Raises:
            PictureError: There is no face to compare, or more than one in the first picture.
        """
        with self.desk.asked(caller, "compare") as said:
            source = self.only_face(one, least_score)
            faces = [face for face in self._faces(other, most_faces, least_score) if face.embedding]
            if not faces:
                message = "the second picture shows no face that could be compared"
                raise NoFaceError(message)
            said.count = len(faces)
        return FaceView.of(source), [(FaceView.of(face), float(vector_of(face) @ vector_of(source))) for face in faces]

    def compare_vectors(self, caller: Caller, one: Floats, others: Floats) -> list[float]:
        """The cosine similarity of each of ``others``, (N, D) float32, to ``one``, (D,) float32.

        Raises:
            InvalidError: They are no vectors of this gallery's net.
        """
        with self.desk.asked(caller, "compare") as said:
            cosines: list[float] = (self.checked(others, "") @ self.checked(one[None], "")[0]).tolist()
            said.count = len(cosines)
        return cosines

    def faces(self, caller: Caller, subject_id: str = "", *, skip: int = 0, limit: int = 100) -> Enrolled:
        """Some of the enrolled faces of a subject, or of all, by id; negative anchors and photos are none of them."""
        store = self.desk.store
        with self.desk.asked(caller, "list", subject_id) as said:
            names = store.template_ids(subject_id)
            parts = [names[at : at + PART] for at in range(0, len(names), PART)]
            rows = [store.link.fields([store.key("template", name) for name in part], ["negative"]) for part in parts]
            kept = zip(names, chain.from_iterable(rows), strict=True)
            own = [name for name, (negative,) in kept if negative == b"0"]
            shown = store.templates(own[skip : skip + limit])
            said.count = len(shown)
        return Enrolled(tuple(shown), len(own))

    def refuse_twin(self, caller: Caller, template: Template) -> None:
        """Look whether a template is like somebody else; it is logged as the search that it is.

        Raises:
            DuplicateError: It is. Who it is is said where they agreed to what ``caller`` asks for.
        """
        with self.desk.asked(caller, "search") as said:
            (answer,) = self.desk.matcher.match(template.vector[None], [template.masked], RUNNER_UP)
            limits = _without_margin(said.policy.limits)
            others = [each for each in answer.best if each.subject_id != template.subject_id]
            twin = self._allowed(caller, decided(others, limits, masked=template.masked))
            _tell(said, [replace(twin, candidates=())])  # nobody is shown them
        if twin.decision in {"known", "suppressed"}:
            who = f"{twin.subject_id!r} ({twin.score:.2f})" if twin.subject_id else "somebody else"
            message = f"looks like {who}; move it to their folder, or merge the two if they are one person"
            raise DuplicateError(message)

    def only_face(self, picture: Pixels, least_score: float = 0.0) -> EmbeddedFace:
        """The one face of a picture, with its vector.

        Raises:
            PictureError: There is none, there are several, or it is too poor to say who it is.
        """
        faces = self.desk.faces.of(picture, least_score)
        if not faces:
            message = "no face is found in the given picture"
            raise NoFaceError(message)
        if len(faces) > 1:
            message = f"{len(faces)} faces are found in the picture; crop it to one"
            raise ManyFacesError(message)
        if faces[0].embedding is None:
            message = f"the face is too poor to identify anybody: {', '.join(faces[0].quality.reasons) or 'no vector'}"
            raise PictureError(message)
        return faces[0]

    def checked(self, vectors: Floats, model: str) -> Floats:
        """Vectors of unit length.

        Raises:
            InvalidError: They are of another net, another dimension, of no length or not finite.
        """
        if model and model != self.desk.faces.model:
            message = f"vectors of {model!r} cannot be compared here; this gallery's are of {self.desk.faces.model!r}"
            raise InvalidError(message)
        given = np.asarray(vectors, np.float32)
        if given.ndim != 2 or given.shape[1] != self.desk.store.dimension or not len(given):
            message = f"vectors have shape {given.shape}; give (N, {self.desk.store.dimension}), N at least 1"
            raise InvalidError(message)
        length = np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
        if not np.isfinite(given).all() or (length < 1e-6).any():
            message = "a vector has a number that is not finite, or no length"
            raise InvalidError(message)
        return np.asarray(given / length, np.float32)

    def _faces(self, picture: Pixels, most: int, least_score: float) -> list[EmbeddedFace]:
        faces = self.desk.faces.of(picture, least_score)
        return faces[:most] if most else faces

    def _decided(self, caller: Caller, faces: Sequence[EmbeddedFace], limits: Limits, top: int) -> list[Found]:
        good = [face for face in faces if face.embedding is not None]
        vectors = np.array([vector_of(face) for face in good], np.float32)
        answers = iter(self._matched(caller, vectors, [FaceView.of(f).masked for f in good], limits, top))
        poor = partial(Found, "low_quality", gallery_version=self.desk.matcher.version)
        return [
            replace(next(answers) if face.embedding is not None else poor(), face=FaceView.of(face),
                    vector=None if face.embedding is None else vector_of(face))
            for face in faces
        ]  # fmt: skip

    def _matched(
        self, caller: Caller, vectors: Floats, masked: Sequence[bool], limits: Limits, top: int
    ) -> list[Found]:
        if not len(vectors):
            return []
        answers = self.desk.matcher.match(vectors, masked, max(top, RUNNER_UP))
        found = []
        for answer, mask in zip(answers, masked, strict=True):
            said = decided(answer.best, limits, masked=mask)
            said = replace(said, gallery_version=answer.version, stale_s=answer.stale_s)
            found.append(self._allowed(caller, replace(said, candidates=said.candidates[:top])))
        return found

    def _allowed(self, caller: Caller, found: Found) -> Found:
        """Nobody is named for a purpose that they did not agree to, be it as the second-best."""
        there = self.desk.store.known([each.subject_id for each in found.candidates])
        agreed = {name for name, subject in there.items() if subject.agreed(caller.purpose)}
        candidates = tuple(each for each in found.candidates if each.subject_id in agreed)
        if found.decision not in {"known", "ambiguous"} or found.subject_id in agreed:
            return replace(found, candidates=candidates)
        said: Decision = "suppressed" if found.subject_id in there else "unknown"  # deleted a moment ago
        return replace(found, decision=said, subject_id="", candidates=candidates)

    def _claimed(
        self, caller: Caller, said: Question, subject_id: str, template_id: str
    ) -> tuple[Subject, list[Template]]:
        """The subject that is claimed, and the templates that it is to look like."""
        store = self.desk.store
        own = [store.template(template_id)] if template_id else store.templates(store.template_ids(subject_id))
        subject = store.subject(own[0].subject_id if template_id else subject_id)
        said.about = [subject.id]
        if not subject.matched(datetime.now(UTC)):
            message = f"there is no subject {subject.id!r} who may be matched: the consent was withdrawn, or it is over"
            raise UnknownError(message)
        if not subject.agreed(caller.purpose):
            message = f"{subject.id!r} has not agreed to be found for {caller.purpose or 'no purpose'!r}"
            raise ForbiddenError(message)
        return subject, [template for template in own if template.model == self.desk.faces.model]

    def _verified(self, face: EmbeddedFace, subject: Subject, own: Sequence[Template], limits: Limits) -> Found:
        view = FaceView.of(face)
        if face.embedding is None:
            return self._versioned(Found("low_quality", face=view))
        said = _claim(vector_of(face), subject, own, limits, masked=view.masked)
        return self._versioned(replace(said, face=view, vector=vector_of(face)))

    def _versioned(self, found: Found) -> Found:
        return replace(found, gallery_version=self.desk.matcher.version)


def _tell(said: Question, found: Sequence[Found]) -> None:
    """Whom a search has found, for the log, and who else stands in the answer."""
    said.about = sorted({each.subject_id for each in found if each.decision == "known"})[:MOST_NAMED]
    named = {each.subject_id for each in found} | {other.subject_id for each in found for other in each.candidates}
    said.shown, said.count = named - {"", *said.about}, len(found)


def _claim(vector: Floats, subject: Subject, own: Sequence[Template], limits: Limits, *, masked: bool) -> Found:
    """Whether a face is the claimed subject: no runner-up, but its negative anchors count."""
    likes = [float(template.vector @ vector) for template in own if not template.negative]
    unlike = max((float(template.vector @ vector) for template in own if template.negative), default=-1.0)
    best = max(likes, default=0.0)
    candidates = (Candidate(subject.id, best),) if likes and best > unlike else ()
    return replace(decided(candidates, _without_margin(limits), masked=masked), score=best)


def _without_margin(limits: Limits) -> Limits:
    """Limits under which there is no runner-up."""
    return limits.model_copy(update={"margin": 0.0})


def vector_of(face: EmbeddedFace) -> Floats:
    """The identity vector of a face, (D,) float32 of unit length.

    Raises:
        PictureError: It has none.
    """
    if face.embedding is None:
        message = "the face has no vector"
        raise PictureError(message)
    return face.embedding.vector
