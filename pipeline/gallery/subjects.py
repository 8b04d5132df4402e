"""What a gallery keeps beside vectors: subjects, faces that nobody knows, what a namespace allows, and who asks."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat

from pipeline.packets import Floats, Pixels

Role = Literal["reader", "operator", "admin", "auditor"]
Consent = Literal["given", "withdrawn", "unstated"]
NAME_LENGTH = 256
NAMESPACE = r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$"
METADATA_BYTES = 16 * 1024


def _is_name(text: str) -> str:
    if not text.strip() or text != text.strip() or not text.isprintable() or text in {".", ".."}:
        message = "a name has signs that can be printed, and no blanks around them"
        raise ValueError(message)
    return text


def _is_no_path(name: str) -> str:
    if set(name) & {"/", "\\", "\N{REPLACEMENT CHARACTER}"}:
        message = "a name stands in addresses: it holds no slash, no backslash, and nothing that is no UTF-8"
        raise ValueError(message)
    return name


def _is_small(metadata: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError:
        message = "metadata is text that UTF-8 can hold; half of a character is none"
        raise ValueError(message) from None
    if size > METADATA_BYTES:
        message = f"metadata may take {METADATA_BYTES} bytes"
        raise ValueError(message)
    return metadata


Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH), AfterValidator(_is_name)]
SubjectName = Annotated[Name, AfterValidator(_is_no_path)]
Plain = str | int | FiniteFloat | bool | None
Metadata = Annotated[dict[str, Plain], AfterValidator(_is_small)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
Seconds = Annotated[float, Field(gt=0, le=10 * 365.25 * 86400)]


class Kept(BaseModel):
    """Base of what is kept as JSON. Read-only once made."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Subject(Kept):
    """Somebody who is known.

    Attributes:
        id: Name under which records speak of them.
        metadata: Whatever the user keeps about them.
        consent: Whether they agreed. Who has withdrawn is not matched.
        purposes: What they agreed to be found for; anything if empty.
        expires: When they are to be forgotten; from then on they are not matched.
        created: When they were added.
    """

    id: SubjectName
    metadata: Metadata = {}
    consent: Consent = "unstated"
    purposes: tuple[Name, ...] = Field(default=(), max_length=32)
    expires: AwareDatetime | None = None
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    def matched(self, now: datetime) -> bool:
        """Whether a face may be matched with them at ``now``."""
        return self.consent != "withdrawn" and (self.expires is None or now < self.expires)

    def agreed(self, purpose: str) -> bool:
        """Whether they may be found for a purpose."""
        return not self.purposes or purpose in self.purposes

    def dated(self, lifetime_s: float | None, former_s: Collection[float] = ()) -> Subject:
        """They, under a policy by which subjects are forgotten after ``lifetime_s``, or never if None.

        A date of their own stays; one that a policy gave, after one of the times ``former_s``, does not.
        """
        given = {self.created + timedelta(seconds=each) for each in former_s}
        if self.expires is not None and self.expires not in given:
            return self
        expires = None if lifetime_s is None else self.created + timedelta(seconds=lifetime_s)
        return self.model_copy(update={"expires": expires})


class Limits(Kept):
    """What a decision is held against.

    Attributes:
        threshold: Least cosine of bare faces.
        masked_threshold: Least cosine of masked ones.
        margin: Least distance to the second-best subject.
    """

    threshold: Cosine = 0.40
    masked_threshold: Cosine = 0.33
    margin: Annotated[float, Field(ge=0, le=2)] = 0.08


class NamespacePolicy(Kept):
    """What a namespace allows, and how long it keeps things.

    Attributes:
        limits: What decisions are held against.
        purposes: For what may be asked; anything if empty.
        require_consent: Whether nobody is enrolled whose consent is not given.
        keep_photos: Whether the aligned crops of enrolled photos are kept, where a request does not say.
        subject_ttl_s: After how long a subject is forgotten who has no date of its own; never if None.
        unknown_ttl_s: How long faces that nobody knows are kept for clustering.
        match_ttl_s: How long matches are kept.
    """

    limits: Limits = Limits()
    purposes: tuple[Name, ...] = Field(default=(), max_length=32)
    require_consent: bool = False
    keep_photos: bool = False
    subject_ttl_s: Seconds | None = None
    unknown_ttl_s: Seconds = timedelta(days=7).total_seconds()
    match_ttl_s: Seconds = timedelta(days=30).total_seconds()


@dataclass(frozen=True, slots=True)
class UnknownTrack:
    """A face of a stream that nobody knows, kept for a while.

    Attributes:
        id: Id of its track.
        stream: Where it was seen.
        vector: (512,) float32, unit length, of its best shot.
        model: Name of the net that made the vector.
        quality: In [0, 1], of its best shot.
        masked: Whether it wore a mask.
        seen: When it was seen last.
        ignored: Whether an operator said that nobody cares who this is.
        photo: (128, 128, 3) uint8 RGB crop of its best shot; None where photos are not kept.
    """

    id: str
    stream: str
    vector: Floats
    model: str
    quality: float
    masked: bool
    seen: datetime
    ignored: bool = False
    photo: Pixels | None = None


class Sighting(Kept):
    """A subject was recognised in a stream.

    Attributes:
        id: Id of the track; a track is seen once as the same subject.
        subject_id: Who.
        stream: Where.
        at: When the picture was taken.
        score: Cosine similarity.
        threshold: What it was held against.
        margin: Distance to the second-best subject.
        masked: Whether the threshold for masked faces was used.
        gallery_version: Version that answered.
        explanation: Id under which it says why, once that is worked out.
    """

    id: str
    subject_id: str
    stream: str
    at: AwareDatetime
    score: float
    threshold: float
    margin: float
    masked: bool
    gallery_version: int
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and why.

    Attributes:
        name: Name of the API key, or of the user at the command line.
        role: What they may do.
        purpose: Why they ask; empty where they do not say.
        internal: Whether it is omote itself, which does what is promised and is asked for no purpose.
    """

    name: str
    role: Role
    purpose: str = ""
    internal: bool = False
