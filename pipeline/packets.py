"""What flows between operators. Packets are frozen: an operator returns new ones, it never edits its input.

A packet grows by type: ``Face`` → ``TrackedFace`` → ``BareFace`` → ``EmbeddedFace`` → ``IdentifiedFace`` →
``EncodedFace`` → ``FeltFace``. A field that a stage adds is there from then on; its comment says when it may be None.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.gallery.subjects import Limits

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

CROP = 128  # side of an aligned face crop, pixels
CROP_MARGIN = 8  # the 112-pixel ArcFace template lies this far inside the crop
EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
Origin = Literal["file", "kafka", "rtsp"]  # how a stream comes in; a camera of this machine is a file


@dataclass(frozen=True, slots=True)
class Packet:
    """Where a packet stands in its stream.

    Attributes:
        stream: Stable id of the camera, file or topic partition.
        epoch: Grows by one at each (re)connection of the stream.
        seq: Number of the packet in its epoch, from 0; faces carry their frame's.
        pts_ns: Presentation time in nanoseconds of stream time.
    """

    stream: str
    epoch: int
    seq: int
    pts_ns: int


@dataclass(frozen=True, slots=True)
class Codec:
    """What a decoder must know before the first unit.

    Attributes:
        name: FFmpeg's name of the codec, such as ``h264``, ``mjpeg`` or ``png``.
        extradata: Out-of-band headers (``avcC`` and the like); empty where there are none.
        width, height: Coded size in pixels, 0 if unknown.
        pixel_format: FFmpeg's name of the pixel format; empty if unknown. Needed for raw video.
        rotation: Clockwise turn in degrees that shows the picture upright: 0, 90, 180 or 270.
    """

    name: str
    extradata: bytes = b""
    width: int = 0
    height: int = 0
    pixel_format: str = ""
    rotation: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """One encoded access unit: usually one picture.

    Attributes:
        data: Encoded bytes.
        pts_ns, dts_ns: Times of presentation and of decoding in nanoseconds; None where the container has none.
        keyframe: Whether decoding may start here.
        damaged: Whether the container marked the bytes as corrupt.
    """

    data: bytes
    pts_ns: int | None
    dts_ns: int | None
    keyframe: bool = False
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Chunk(Packet):
    """A few encoded units in decoding order.

    Attributes:
        units: At most one micro-batch of them; ``codec`` says how to decode them.
        closed: Whether no later chunk refers to this one, so that the decoder gives up all it holds.
        last: Whether the stream is over after it.
        position: Where its source goes on once it is committed, for sources that keep a position.
        dropped: Units that the source left out before it, to stay near the present.
        capture_ns: Wall clock of the capture of its first unit, nanoseconds since 1970; 0 where it is not known.
        replayed: Whether its units were analysed before: later ones refer to them, but they give no frames again.
        source: How the stream came in.
    """

    codec: Codec
    units: tuple[Unit, ...]
    closed: bool = False
    last: bool = False
    position: int = 0
    dropped: int = 0
    capture_ns: int = 0
    replayed: bool = False
    source: Origin = "file"


@dataclass(frozen=True, slots=True)
class Frame(Packet):
    """One decoded picture to be analysed.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        dropped_before: Pictures lost to damage, or left out by the source, between the frame before and this one.
        capture_ns, source: As in ``Chunk``, of this picture.
    """

    image: Pixels
    dropped_before: int = 0
    capture_ns: int = 0
    source: Origin = "file"


@dataclass(frozen=True, slots=True)
class Face(Packet):
    """One face found in one frame.

    Attributes:
        box: (4,) float32 xyxy, pixels of the full frame.
        score: Detector's confidence in [0, 1].
        landmarks: (5, 2) float32 xy pixels of the full frame: eyes, nose tip, mouth corners; the picture's left first.
        crop: (128, 128, 3) uint8 RGB, aligned: the ArcFace template with 8 pixels around it.
        capture_ns: As in ``Frame``.
    """

    box: Floats
    score: float
    landmarks: Floats
    crop: Pixels
    capture_ns: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Quality:
    """How much a face is worth as evidence.

    Attributes:
        score: In [0, 1], higher is better; the weight of the face in its track.
        blur: In [0, 1], 0 is sharp.
        yaw: Degrees, estimated from the landmarks; negative where the nose points to the picture's left.
        size_px: Length of the longer side of the box.
        reasons: Why the face failed the gate, of ``small``, ``blurred``, ``turned``, ``cut_off``, ``predicted``.
    """

    score: float
    blur: float
    yaw: float
    size_px: float
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the face may be used to identify and to read an emotion."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class TrackedFace(Face):
    """A face that belongs to a track.

    Attributes:
        track_id: ``<stream>:<epoch>:<number>``.
        quality: The quality gate's word on this face.
        predicted: Whether the box comes from the motion model, for the detector did not look at this frame.
        chosen: Whether the track wants this face embedded (a better or fresher best shot).
    """

    track_id: str
    quality: Quality
    predicted: bool
    chosen: bool


@dataclass(frozen=True, slots=True)
class Restoration:
    """An estimate of what a mask hides. It is never evidence.

    Attributes:
        restored: False where there is no restorer that may be trusted; then ``image`` is the crop as it was.
        image: (128, 128, 3) uint8 RGB.
        invented: (128, 128) bool, the pixels of ``image`` that were made up.
        uncertainty: (128, 128) float32 in [0, 1], 1 where nothing is known.
        confidence: In [0, 1], for the whole estimate.
    """

    restored: bool
    image: Pixels
    invented: NDArray[np.bool_]
    uncertainty: Floats
    confidence: float


@dataclass(frozen=True, slots=True)
class BareFace(TrackedFace):
    """A face of which it is known whether a mask hides it.

    Attributes:
        mask_probability: In [0, 1], of this frame alone.
        restoration: None unless the face is masked and was chosen.
    """

    mask_probability: float
    restoration: Restoration | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody whom a face is like, by its cosine in [-1, 1]; ``since`` is the version that first had them, or 0."""

    subject_id: str
    score: float
    since: int = 0


@dataclass(frozen=True, slots=True)
class Embedding:
    """An identity vector and what the gallery says to it.

    Attributes:
        vector: (512,) float32, unit length.
        candidates: Best subjects first, at most one entry a subject; empty where there is no gallery.
        gallery, gallery_version: Name of the namespace that was searched, and its version that answered.
        stale_s: Seconds since the matcher last heard from the gallery.
        lost: Version before which what was named may not be there any more, see ``Candidates``.
        limits: What the gallery wants decisions to be held against; None where it does not say.
        model: Name of the net that made the vector.
    """

    vector: Floats
    candidates: tuple[Candidate, ...]
    gallery: str
    gallery_version: int
    stale_s: float = 0.0
    lost: int = 0
    limits: Limits | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddedFace(BareFace):
    """A face with its identity vector, None in the frames that were not chosen; ``lost`` as in ``Embedding``."""

    embedding: Embedding | None
    lost: int


MaskLabel = Literal["bare", "masked", "unsure"]
Decision = Literal["known", "unknown", "ambiguous", "low_quality", "suppressed", "not_evaluated"]
EmotionState = Literal["warming", "ok", "low_quality", "suppressed"]


@dataclass(frozen=True, slots=True)
class MaskState:
    """The track's vote on the mask: its label and the smoothed probability in [0, 1]."""

    label: MaskLabel
    probability: float


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the track is, and why.

    Attributes:
        decision: One of six words, never a bare name.
        subject_id: The known subject, or the best candidate of an ``ambiguous`` decision; else empty.
        score: Mean cosine similarity of the track's faces to the best subject, in [-1, 1]; 0 if nothing was compared.
        threshold: What the score was held against; the one for masked faces if ``masked``.
        margin: Distance to the runner-up; equal to the score where there is none.
        runner_up_score: Cosine similarity of the second-best subject; 0 where there is none.
        votes: Embedded faces of the track that agree with the decision.
        gallery, gallery_version, stale_s: As in ``Embedding``, of the answer that came last.
    """

    decision: Decision
    subject_id: str = ""
    score: float = 0.0
    threshold: float = 0.0
    margin: float = 0.0
    runner_up_score: float = 0.0
    votes: int = 0
    gallery: str = ""
    gallery_version: int = 0
    masked: bool = False
    stale_s: float = 0.0


@dataclass(frozen=True, slots=True)
class IdentifiedFace(EmbeddedFace):
    """A face whose track was identified; ``first_match`` marks the frame in which a subject became known."""

    mask: MaskState
    identity: Identity
    first_match: bool


@dataclass(frozen=True, slots=True)
class EncodedFace(IdentifiedFace):
    """A face with what the frame alone says of its emotion.

    Attributes:
        emotion_logits: (7,) float32, calibrated, by ``EMOTIONS``; None where policy, mask or quality forbid to look.
    """

    emotion_logits: Floats | None


@dataclass(frozen=True, slots=True)
class Emotion:
    """What the track shows up to now.

    Attributes:
        state: ``ok`` is the only state in which ``label`` means something.
        label: One of ``EMOTIONS``; empty unless the state is ``ok``.
        probabilities: (7,) float32 that sum to 1, in the order of ``EMOTIONS``; zeros unless ``ok`` or ``warming``.
        frames, span_ms: Frames that went into it, and stream time from the first of them to the last.
    """

    state: EmotionState
    label: str
    probabilities: Floats
    frames: int
    span_ms: int


@dataclass(frozen=True, slots=True)
class FeltFace(EncodedFace):
    """A face with the emotion of its track; ``emotion_changed`` marks the frame in which the label changed."""

    emotion: Emotion
    emotion_changed: bool


@dataclass(frozen=True, slots=True)
class Explanation(Packet):
    """Why a decision was taken, computed at the decision and beside the hot path.

    Attributes:
        id: Deterministic: from stream, epoch, seq, track and kind.
        track_id, kind, target: What is explained: a track's ``match`` with a subject, or its ``emotion``.
        method: Name of the method, such as ``integrated_gradients``.
        score: The value explained: a cosine similarity, or the log-odds of an emotion.
        completeness_error: |sum of attributions - d| / |d|, d = f(x) - f(baseline); NaN where the method promises none.
        faithfulness: Share of the score lost when the tenth of the pixels that matter most is greyed.
        faithfulness_random: The same for a random tenth, to compare with.
        synthetic_evidence_ratio: Share of the relevance that lies on invented pixels, in [0, 1].
        crop: (H, W, 3) uint8 RGB, what was explained.
        reference: (H, W, 3) uint8 RGB, what it was compared with; None for an emotion or without a photo.
        maps: (H, W) float32 each, by name, scaled to [-1, 1] or [0, 1].
        caveat: What a reader must know before believing it.
        took_ms: Time it took.
    """

    id: str
    track_id: str
    kind: Literal["match", "emotion"]
    target: str
    method: str
    score: float
    completeness_error: float
    faithfulness: float
    faithfulness_random: float
    synthetic_evidence_ratio: float
    crop: Pixels
    reference: Pixels | None
    maps: dict[str, Floats]
    caveat: str
    took_ms: float


@dataclass(frozen=True, slots=True)
class DrawnFrame(Packet):
    """A frame with what is known drawn on it: ``image`` is (H, W, 3) uint8 RGB."""

    image: Pixels


P = TypeVar("P")


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


def grow(packet: Any, into: type[P], **new: Any) -> P:
    """``packet`` as the richer packet ``into``: its own fields and the ``new`` ones."""
    kind: Any = type(packet)  # mypy takes a class for unhashable
    return into(**{name: getattr(packet, name) for name in _names(kind)}, **new)
