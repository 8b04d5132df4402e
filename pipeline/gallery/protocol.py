"""What every gallery answers, wherever its truth is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from pipeline.gallery.subjects import Limits
from pipeline.packets import Candidate, Floats, Pixels

LONG_AGO = datetime.fromtimestamp(0, UTC)
MODEL = "mobilefacenet"  # the net of the shipped graphs


@dataclass(frozen=True, slots=True)
class Candidates:
    """The gallery's answer to one vector.

    Attributes:
        best: Best subjects first, at most one entry a subject.
        gallery: Name of the gallery that answered.
        version: Grows by one with each change of the gallery.
        stale_s: Whole seconds since the matcher last heard from the gallery's truth; 0 while it hears from it.
        lost: Version before which what was named need not be there any more: whoever an earlier answer named last,
            and this one does not name, may have been erased, renamed, or is not to be found any more. Whoever was
            named at this version or later, by any matcher of the gallery, is still there.
        limits: What decisions are to be held against; None where the gallery does not say.
    """

    best: tuple[Candidate, ...]
    gallery: str
    version: int
    stale_s: float = 0.0
    lost: int = 0
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """One enrolled vector.

    Attributes:
        subject_id: Whose it is; of a negative anchor, whose it is not.
        vector: (512,) float32, unit length.
        quality: In [0, 1].
        masked: Whether the face wore a mask.
        photo: (128, 128, 3) uint8 RGB aligned crop; None where photos are not kept, or were not asked for.
        id: Unique in its gallery; empty where the gallery gives none.
        model: Name of the net that made the vector; vectors of two nets must not be compared.
        yaw: Degrees, as in ``Quality``.
        size_px: Length of the longer side of the face in the photo.
        source_sha256: Hash of the photo that it was made from, hexadecimal; empty where there was none.
        created: When it was enrolled.
        negative: Whether it says who somebody is *not*: a face nearer to it than to the subject is not the subject.
    """

    subject_id: str
    vector: Floats
    quality: float
    masked: bool = False
    photo: Pixels | None = None
    id: str = ""
    model: str = MODEL
    yaw: float = 0.0
    size_px: float = 0.0
    source_sha256: str = ""
    created: datetime = LONG_AGO
    negative: bool = False


class Gallery(Protocol):
    """A set of enrolled templates that can be searched."""

    @property
    def model(self) -> str:
        """Name of the net that made the templates; vectors of others must not be compared with them."""

    @property
    def lost(self) -> int:
        """As in ``Candidates``, for whoever asks nothing.

        Never beyond the version, or nobody who is named could be sure: whose date has passed counts once that is told
        as a change, which is when they are forgotten.
        """

    def match(self, vectors: Floats, masked: Sequence[bool]) -> list[Candidates]:
        """The best subjects for each of ``vectors``, (N, 512) float32 of unit length."""

    def template(self, subject_id: str) -> Floats | None:
        """The subject's mean vector, (512,) float32 of unit length; None for an unknown subject."""

    def photo(self, subject_id: str) -> Pixels | None:
        """The subject's best kept photo, (128, 128, 3) uint8 RGB; None where there is none."""

    def close(self) -> None:
        """Release what was opened."""
