"""Doubles for edges and operators, for our tests and for those of whoever writes an operator."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.edges import Sink, Source
from pipeline.errors import GraphError, UnavailableError
from pipeline.operator import KeyedOperator, Operator
from pipeline.packets import (
    EMOTIONS,
    Chunk,
    Codec,
    DrawnFrame,
    Emotion,
    Face,
    Floats,
    Frame,
    Identity,
    MaskState,
    Packet,
    Quality,
    Unit,
)

AnyPacket = TypeVar("AnyPacket", bound=Packet)
AnyFace = TypeVar("AnyFace", bound=Face)


class MemorySource(Source):
    """Gives the chunks it was given, and remembers which were committed."""

    def __init__(self, chunks: Iterable[Chunk] = (), expected_frames: int = 0) -> None:
        self._chunks, self.expected_frames = chunks, expected_frames
        self.committed: list[Chunk] = []
        self.read = 0
        self.closed = False

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._chunks:
            self.read += 1
            yield chunk

    def commit(self, chunk: Chunk) -> None:
        self.committed.append(chunk)

    def close(self) -> None:
        self.closed = True


class MemorySink(Sink[object]):
    """Keeps what it is given in a list that the test passes in, or in its own."""

    def __init__(self, kept: list[Any] | None = None) -> None:
        self.kept: list[Any] = [] if kept is None else kept

    def write(self, batch: Sequence[object]) -> None:
        self.kept.extend(batch)

    def flush(self) -> None:
        """Memory is safe at once."""

    def close(self) -> None:
        """Memory needs no closing."""


class Pause(Operator[AnyPacket, AnyPacket]):
    """Gives what it is given, after up to ``seconds`` that differ from batch to batch: work of uneven length."""

    def __init__(self, seconds: float = 0.01) -> None:
        self._seconds = seconds

    def __call__(self, batch: Sequence[AnyPacket]) -> list[AnyPacket]:
        time.sleep(self._seconds * (batch[0].seq * 7 % 10) / 10 if batch else 0)
        return list(batch)


class Unreachable(Operator[AnyPacket, AnyPacket]):
    """Cannot be called with packets numbered ``since`` or later while there is a file ``down``."""

    def __init__(self, down: str, since: int = 0) -> None:
        self._down, self._since = Path(down), since

    def __call__(self, batch: Sequence[AnyPacket]) -> list[AnyPacket]:
        if batch and batch[0].seq >= self._since and self._down.exists():
            stage = "check"
            raise UnavailableError(stage, 4, "ActorDiedError")
        return list(batch)


class Fragile(Operator[AnyPacket, AnyPacket]):
    """Raises ``error`` when it meets one of the packets numbered ``at``; gives all others as they are."""

    def __init__(self, at: Collection[int] = (), error: type[Exception] = ValueError) -> None:
        self._at, self._error = at, error

    def __call__(self, batch: Sequence[AnyPacket]) -> list[AnyPacket]:
        for packet in batch:
            if packet.seq in self._at:
                message = f"frame {packet.seq} is cursed"
                raise self._error(message)
        return list(batch)


class Allergic(Operator[AnyPacket, AnyPacket]):
    """Raises at packets of stream time ``at``, in nanoseconds by stream, however they are numbered this time."""

    def __init__(self, at: Mapping[str, Collection[int]] | None = None) -> None:
        self._at = at or {}

    def __call__(self, batch: Sequence[AnyPacket]) -> list[AnyPacket]:
        for packet in batch:
            if packet.pts_ns in self._at.get(packet.stream, ()):
                message = f"a picture at {packet.pts_ns} ns is more than it can bear"
                raise ValueError(message)
        return list(batch)


class Tally(KeyedOperator[Frame, Frame, str]):
    """Remembers one hash of all pictures of a stream, so that one lost, doubled or out of order shows in its state."""

    def start(self, stream: str) -> str:
        return ""

    def __call__(self, state: str, batch: Sequence[Frame]) -> tuple[str, list[Frame]]:
        for frame in batch:
            state = hashlib.sha256(state.encode() + frame.image.tobytes()).hexdigest()
        return state, list(batch)


class Sketch(Operator[Frame, DrawnFrame]):
    """Gives one pixel of each frame, after ``seconds``: slow work that leaves something small."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def __call__(self, batch: Sequence[Frame]) -> list[DrawnFrame]:
        time.sleep(self._seconds)
        return [DrawnFrame(f.stream, f.epoch, f.seq, f.pts_ns, f.image[:1, :1].copy()) for f in batch]


class Logged(Operator[AnyPacket, AnyPacket]):
    """Writes into the file ``log`` when it is built and when it is closed, in whichever process that is."""

    def __init__(self, name: str, log: str, fails: bool = False) -> None:
        if fails:
            message = f"{name} cannot be built"
            raise GraphError(message)
        self._name, self._log = name, Path(log)
        self._write("built")

    def __call__(self, batch: Sequence[AnyPacket]) -> list[AnyPacket]:
        return list(batch)

    def close(self) -> None:
        self._write("closed")

    def _write(self, what: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{what} {self._name}\n")


def raw_chunks(images: Sequence[np.ndarray[Any, Any]], stream: str = "camera", units: int = 4) -> list[Chunk]:
    """Pictures (H, W, 3) uint8 RGB as chunks of uncompressed video at 25 frames a second."""
    height, width = images[0].shape[:2]
    codec = Codec("rawvideo", width=width, height=height, pixel_format="rgb24")
    whole = [Unit(image.tobytes(), n * 40_000_000, n * 40_000_000, keyframe=True) for n, image in enumerate(images)]
    cut = [tuple(whole[start : start + units]) for start in range(0, len(whole), units)]
    return [
        Chunk(stream, 0, n, batch[0].pts_ns or 0, codec, batch, closed=n == len(cut) - 1, last=n == len(cut) - 1)
        for n, batch in enumerate(cut)
    ]


def noise(count: int, height: int = 48, width: int = 64, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """``count`` pictures of RGB noise."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


def make_frame(seq: int = 0, height: int = 48, width: int = 64, **fields: Any) -> Frame:
    """A black frame of the stream ``camera``."""
    given: dict[str, Any] = {"image": np.zeros((height, width, 3), np.uint8), **fields}
    return Frame("camera", 0, seq, seq * 40_000_000, **given)


def make_face(seq: int = 0, box: Sequence[float] = (100, 100, 200, 200), score: float = 0.99, **fields: Any) -> Face:
    """A frontal face of the stream ``camera`` whose five points lie where they lie in most boxes."""
    x1, y1, x2, y2 = box
    shares = np.array([[0.32, 0.4], [0.68, 0.4], [0.5, 0.6], [0.36, 0.78], [0.64, 0.78]], np.float32)
    landmarks: Floats = shares * np.array([x2 - x1, y2 - y1], np.float32) + np.array([x1, y1], np.float32)
    crop = np.random.default_rng(7).integers(0, 256, (128, 128, 3), np.uint8)
    given: dict[str, Any] = {"crop": crop, **fields}
    return Face("camera", 0, seq, seq * 40_000_000, np.array(box, np.float32), score, landmarks, **given)


def make_grown(kind: type[AnyFace], seq: int = 0, **given: Any) -> AnyFace:
    """A face as rich as ``kind``: good, bare and unknown, but for what is ``given``.

    ``pts_ns``, ``stream`` and ``epoch`` may be given as well; the other arguments are those of ``make_face``.
    """
    usual: dict[str, Any] = {
        "track_id": "camera:0:1",
        "quality": Quality(score=0.9, blur=0.1, yaw=0.0, size_px=100.0),
        "predicted": False,
        "chosen": True,
        "mask_probability": 0.0,
        "restoration": None,
        "embedding": None,
        "lost": 0,
        "mask": MaskState("bare", 0.0),
        "identity": Identity("unknown"),
        "first_match": False,
        "emotion_logits": None,
        "emotion": Emotion("warming", "", np.full(len(EMOTIONS), 1 / len(EMOTIONS), np.float32), 1, 0),
        "emotion_changed": False,
    }
    of_face = {name: given.pop(name) for name in ("box", "score", "crop") if name in given}
    face = make_face(seq, **of_face)
    known = {f.name: getattr(face, f.name) for f in fields(Face)}
    own = {f.name: usual[f.name] for f in fields(kind) if f.name in usual}
    return replace(kind(**known, **own), **given)
