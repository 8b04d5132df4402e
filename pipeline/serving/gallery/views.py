"""What the second interface tells of faces, subjects and matches; scores are cosines, as everywhere in omote."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, TypeVar

import numpy as np
from fastapi import Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat

from pipeline.audit import Entry
from pipeline.edges.redis_api_keys import ApiKey, Service
from pipeline.gallery.answers import FaceView, Found
from pipeline.gallery.clusters import Cluster
from pipeline.gallery.protocol import Template
from pipeline.gallery.receipts import SignedReceipt
from pipeline.gallery.subjects import Consent, Metadata, Name, Role, Sighting, Subject, SubjectName
from pipeline.packets import Decision, Floats
from pipeline.serving.gallery.names import Text

After = Annotated[Text, Query(description="Only what comes after this one: `next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most to give.")]
Score = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False, description="Least confidence of the detector.")]
Faces = Annotated[int, Query(ge=0, le=10_000, description="Most faces, the largest first; all if 0.")]
Top = Annotated[int, Query(ge=1, le=100, description="Most candidates for each face.")]
Model = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$", examples=["mobilefacenet"])]
Vector = Annotated[list[FiniteFloat], Field(min_length=1, max_length=4096, fail_fast=True)]
Vectors = Annotated[list[Vector], Field(min_length=1, max_length=256, fail_fast=True)]

Item = TypeVar("Item")


class Given(BaseModel):
    """What is sent; what it does not name is an error."""

    model_config = ConfigDict(extra="forbid")


class Told(BaseModel):
    """What is answered, made of what the gallery says."""

    model_config = ConfigDict(from_attributes=True)


class Face(Told):
    """A face of a picture.

    Attributes:
        box: xyxy, pixels of the upright picture.
        score: Detector's confidence in [0, 1].
        landmarks: xy pixels: eyes, nose, corners of the mouth.
        quality: In [0, 1].
        reasons: Why it may not be identified; empty where it may.
        yaw: Degrees.
        size_px: Length of the longer side of the box.
        masked: Whether it is held against the threshold for masked faces.
        mask_probability: In [0, 1].
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: list[tuple[float, float]]
    quality: float
    reasons: list[str]
    yaw: float
    size_px: float
    masked: bool
    mask_probability: float


class Candidate(Told):
    """A subject and its cosine similarity in [-1, 1]."""

    subject: str = Field(validation_alias="subject_id")
    score: float


class Identity(Told):
    """Who a face is.

    Attributes:
        decision: What is to be made of it; only ``known`` names somebody for certain.
        subject: The known subject, or the best candidate of an ``ambiguous`` decision; else empty.
        score: Cosine similarity of the best subject.
        threshold: What the score was held against.
        margin: Distance to the second-best subject; the score where there is none.
        candidates: Best subjects first.
        gallery_version: Version of the gallery that answered.
        stale_s: Seconds since the matcher last heard from the gallery.
        face: The face; not there where a vector was given.
        vector: Of unit length, where it was asked for.
    """

    decision: Decision
    subject: str = Field(validation_alias="subject_id")
    score: float
    threshold: float
    margin: float
    candidates: list[Candidate]
    gallery_version: int
    stale_s: float
    face: Face | None = None
    vector: list[float] | None = None

    @classmethod
    def of(cls, found: Found) -> Identity:
        """What was found."""
        told = {name: getattr(found, name) for name in Found.__slots__ if name != "vector"}
        return cls.model_validate({**told, "vector": None if found.vector is None else found.vector.tolist()})


class Seen(BaseModel):
    """The faces of a picture, largest first; with who they are where that was asked for."""

    faces: list[Face]
    identities: list[Identity] | None = None

    @classmethod
    def of(cls, views: Sequence[FaceView]) -> Seen:
        """Faces alone."""
        return cls(faces=[Face.model_validate(view) for view in views])


class Identities(BaseModel):
    """One for each face or vector."""

    identities: list[Identity]

    @classmethod
    def of(cls, found: Sequence[Found]) -> Identities:
        """What was found."""
        return cls(identities=[Identity.of(each) for each in found])


class EnrolledFace(Told):
    """A template of a subject, without its vector.

    Attributes:
        id: Unique in the gallery.
        subject: Whose it is; of a negative anchor, whose it is not.
        model: Name of the net that made the vector.
        quality: In [0, 1].
        masked: Whether the face wore a mask.
        yaw: Degrees.
        size_px: Length of the longer side of the face in the photo.
        source_sha256: Hash of the uploaded photo; empty where there was none.
        created: When it was enrolled.
        negative: Whether it says who the subject is *not*.
    """

    id: str
    subject: str = Field(validation_alias="subject_id")
    model: str
    quality: float
    masked: bool
    yaw: float
    size_px: float
    source_sha256: str
    created: datetime
    negative: bool

    @classmethod
    def several(cls, templates: Sequence[Template]) -> list[EnrolledFace]:
        """That of each template."""
        return [cls.model_validate(template) for template in templates]


class EnrolledFaces(BaseModel):
    """Some of them; ``next`` asks for more."""

    faces: list[EnrolledFace]
    next: str | None = None


class SubjectPage(BaseModel):
    """Subjects by name; ``next`` asks for more."""

    subjects: list[Subject]
    next: str | None = None


class SubjectGiven(Given):
    """Somebody who is to be known."""

    id: SubjectName = Field(examples=["ada.lovelace"])
    metadata: Metadata = Field(default={}, examples=[{"department": "engines"}])
    consent: Consent = "unstated"
    purposes: list[Name] = Field(default=[], max_length=32, examples=[["access"]])
    expires: AwareDatetime | None = Field(default=None, examples=["2027-12-31T00:00:00Z"])


class SubjectChange(Given):
    """What is to be different; what is not there stays."""

    id: SubjectName | None = Field(default=None, description="A new name.", examples=["ada.king"])
    metadata: Metadata | None = None
    consent: Consent | None = None
    purposes: list[Name] | None = Field(default=None, max_length=32)
    expires: AwareDatetime | None = None


class VectorsGiven(Given):
    """Vectors of faces, and the net that made them."""

    vectors: Vectors
    model: Model
    masked: bool = False


class EnrolledVectorsGiven(VectorsGiven):
    """Vectors that become templates."""

    quality: Annotated[float, Field(ge=0, le=1)] = 1.0


class ClaimGiven(Given):
    """Vectors that are said to be a subject's."""

    subject: SubjectName
    vectors: Vectors
    model: Model


class NotMeGiven(Given):
    """A face that is not the subject: one of the three."""

    file: str | None = None
    vector: Vector | None = None
    track: Text | None = None


class SubjectsGiven(Given):
    """Two subjects who are one person."""

    source: SubjectName
    into: SubjectName


class Assignment(Given):
    """Who somebody is."""

    subject: SubjectName


class Moved(BaseModel):
    """How many templates have another subject now."""

    moved: int


class Ignored(BaseModel):
    """How many tracks nobody is asked about any more."""

    ignored: int


class Dropped(BaseModel):
    """How many templates were forgotten."""

    dropped: int


class ClusterPage(BaseModel):
    """Unknown people, the one with the most tracks first; ``next`` asks for more."""

    clusters: list[Cluster]
    next: str | None = None


class MatchPage(BaseModel):
    """Who was seen in streams, the latest first; ``next`` asks for more."""

    matches: list[Sighting]
    next: str | None = None


class AuditPage(BaseModel):
    """Lines of the audit log, in order; ``next`` asks for more."""

    entries: list[Entry]
    next: int | None = None


class AuditFault(Told):
    """Something is wrong with entry ``seq``."""

    seq: int
    text: str


class AuditVerdict(BaseModel):
    """Whether the log is whole."""

    whole: bool
    faults: list[AuditFault]


class ErasureView(Told):
    """A receipt, and what a new look finds.

    Attributes:
        signed: The receipt.
        holds: Whether its signature holds and nothing of the subject is there.
        found: What is there again, or still.
    """

    signed: SignedReceipt
    holds: bool
    found: list[str]


class ReembeddingView(Told):
    """How far the templates are made anew with another net."""

    model: str
    made: int
    there: int
    without_photo: int


class CalibrationGiven(Given):
    """What the thresholds are to promise."""

    promised_far: Annotated[float, Field(gt=0, lt=1, description="Share of strangers taken for somebody.")] = 0.001
    apply: bool = Field(default=False, description="Whether what is suggested holds from now on.")
    vouched: Annotated[
        tuple[str, ...], Field(max_length=1000, description="Subjects and faces that were looked at.")
    ] = ()


class KeyGiven(Given):
    """An API key that is to be made; it opens the namespace of the key that asks."""

    name: Name = Field(examples=["front desk"])
    role: Role
    services: list[Service] = Field(default=["recognition", "verification", "detection"], max_length=3)
    purpose: Text = ""
    per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 600
    expires: AwareDatetime | None = None


class KeyMade(BaseModel):
    """A new key; ``secret`` is told this once."""

    secret: str
    key: ApiKey


class KeyList(BaseModel):
    """Every key of the namespace, oldest first."""

    keys: list[ApiKey]


def page(found: list[Item], limit: int) -> tuple[list[Item], Item | None]:
    """The first ``limit`` of what was found, and the last of them if there are more."""
    return (found[:limit], found[limit - 1]) if len(found) > limit else (found, None)


def array(vectors: list[list[float]]) -> Floats:
    """(N, D) float32; vectors of several lengths become (N, 0), which no gallery takes."""
    if len({len(vector) for vector in vectors}) > 1:
        return np.zeros((len(vectors), 0), np.float32)
    with np.errstate(over="ignore"):  # what is no float32 becomes infinite, and is refused as that
        return np.array(vectors, np.float64).astype(np.float32)
