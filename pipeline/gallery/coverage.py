"""Which photos a subject has, and which would help to find them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from pipeline.gallery.errors import InvalidError
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Kept

Pose = Literal["left", "frontal", "right"]
Size = Literal["small", "medium", "large"]
Grade = Literal["poor", "fair", "good"]
TURNED = 15.0  # degrees from which on a head is turned
SIZES = (64.0, 112.0)  # pixels: below, details are lost; from 112 on, nothing is
GRADES = (0.3, 0.6)  # quality
ENOUGH = 3  # bare templates: one bad photo is outvoted


class Lack(Kept):
    """A kind of photo that is missing.

    Attributes:
        code: For programs.
        sentence: What to add.
    """

    code: Literal["photos", "frontal", "left", "right", "large", "good", "bare", "masked"]
    sentence: str


class Coverage(Kept):
    """What a subject has and lacks; what people do not turn, nor cover, needs nothing.

    Attributes:
        templates: How many there are.
        poses: How many look to the left of the picture, straight ahead, to its right.
        sizes: How many show a face of less than 64 pixels, of less than 112, and of more.
        grades: How many have a quality below 0.3, below 0.6, and above.
        best_quality: In [0, 1].
        bare: How many show the face without a mask.
        masked: How many with one.
        lacks: What to add, the most useful first.
    """

    templates: int
    poses: dict[Pose, int]
    sizes: dict[Size, int]
    grades: dict[Grade, int]
    best_quality: float
    bare: int
    masked: int
    lacks: tuple[Lack, ...]

    @property
    def advice(self) -> tuple[str, ...]:
        """What to add, in a sentence each."""
        return tuple(lack.sentence for lack in self.lacks)


def coverage(templates: Sequence[Template]) -> Coverage:
    """What the templates of one subject cover; negative anchors do not count.

    Raises:
        InvalidError: They belong to several subjects.
    """
    kept = [template for template in templates if not template.negative]
    if len({template.subject_id for template in kept}) > 1:
        message = "coverage is that of one subject; give the templates of one"
        raise InvalidError(message)
    poses = Counter(pose_of(template.yaw) for template in kept)
    sizes = Counter(_size(template.size_px) for template in kept)
    grades = Counter(_grade(template.quality) for template in kept)
    masked = sum(template.masked for template in kept)
    found = Coverage(
        templates=len(kept),
        poses={pose: poses[pose] for pose in ("left", "frontal", "right")},
        sizes={size: sizes[size] for size in ("small", "medium", "large")},
        grades={grade: grades[grade] for grade in ("poor", "fair", "good")},
        best_quality=max((template.quality for template in kept), default=0.0),
        bare=len(kept) - masked,
        masked=masked,
        lacks=(),
    )
    return found.model_copy(update={"lacks": tuple(_lacks(found))})


def pose_of(yaw: float) -> Pose:
    """Where a head turned by ``yaw`` degrees looks, as seen in the picture."""
    return "left" if yaw < -TURNED else "right" if yaw > TURNED else "frontal"


def _size(size_px: float) -> Size:
    return "small" if size_px < SIZES[0] else "medium" if size_px < SIZES[1] else "large"


def _grade(quality: float) -> Grade:
    return "poor" if quality < GRADES[0] else "fair" if quality < GRADES[1] else "good"


def _lacks(has: Coverage) -> Iterator[Lack]:
    missing = max(ENOUGH - has.bare, 0)
    if not has.bare:
        yield Lack(code="bare", sentence="add a photo without a mask: all others are compared with it")
    if has.bare and missing:
        sentence = (
            f"add {missing} more photo{'s' * (missing > 1)} from other days, so that one bad photo does not decide"
        )
        yield Lack(code="photos", sentence=sentence)
    if not has.poses["frontal"]:
        yield Lack(code="frontal", sentence="add a photo that looks straight into the camera")
    for side in ("left", "right"):
        if not has.poses[side]:
            sentence = f"add a photo with the head turned a little, 20 to 40 degrees, to the {side} of the picture"
            yield Lack(code=side, sentence=sentence)
    if not has.sizes["large"]:
        yield Lack(code="large", sentence=f"add a photo from nearer: no face is {SIZES[1]:.0f} pixels large")
    if not has.grades["good"]:
        sentence = f"add a sharper photo in good light: the best one has quality {has.best_quality:.2f}"
        yield Lack(code="good", sentence=sentence)
    if not has.masked:
        yield Lack(code="masked", sentence="add a photo with a mask, if masks are worn where the cameras are")
