"""Give each face the identity of its track: who in this frame is whom of the frame before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from operators import motion
from operators.align import align
from operators.motion import Motion
from operators.quality import Gate
from pipeline.operator import KeyedOperator
from pipeline.packets import Face, Floats, Frame, Pixels, TrackedFace, grow

FORBIDDEN = 1e3  # cost of a pair that must not be made


@dataclass(frozen=True, slots=True)
class Tracklet:
    """What is remembered of one face.

    Attributes:
        number: Counts the tracks of the stream.
        motion: Where it is and where it goes.
        box: (4,) float32 xyxy, where the detector last saw it.
        landmarks: (5, 2) float32, where they were then.
        score: How sure the detector was then.
        looks: (192,) float32 of unit length, a slow mean of its ``appearance``.
        updated_ns: Time to which ``motion`` was brought.
        seen_seq: Number of that frame.
        seen_ns: Time of that frame.
        best: Quality of the best face chosen so far; 0 before the first.
        chosen: How many faces were chosen.
        chosen_ns: Time of the last one.
    """

    number: int
    motion: Motion
    box: Floats
    landmarks: Floats
    score: float
    looks: Floats
    updated_ns: int
    seen_seq: int
    seen_ns: int
    best: float = 0.0
    chosen: int = 0
    chosen_ns: int = 0


@dataclass(frozen=True, slots=True)
class TrackState:
    """The living tracks of a stream in its present epoch, and the number of the next one."""

    tracks: tuple[Tracklet, ...] = ()
    following: int = 1
    epoch: int = 0


class Track(KeyedOperator[Frame | Face, TrackedFace, TrackState]):
    """ByteTrack's two rounds (Zhang et al. 2022) on boxes, with a look at the faces themselves.

    Round one pairs confident faces with tracks by overlap with the predicted box and by appearance;
    round two gives weak faces to the tracks that are left, by overlap alone: a weak face keeps a
    track alive and never starts one. A track that finds no face waits ``patience_s`` at the place
    where its motion takes it. In frames that the detector skipped, faces move with their tracks.
    """

    def __init__(
        self,
        sure: float = 0.8,
        patience_s: float = 1.5,
        detect_every: int = 1,
        first_shots: int = 3,
        shot_every_s: float = 0.2,
        refresh_s: float = 1.0,
        min_size_px: float = 40.0,
        max_blur: float = 0.85,
        max_yaw: float = 45.0,
    ) -> None:
        """Set the limits.

        Args:
            sure: Score from which a face may start a track.
            patience_s: Seconds for which a track without a face is kept.
            detect_every: The detector's ``every``: in the other frames a missing face is no news.
            first_shots: Faces chosen for embedding soon after a track begins.
            shot_every_s: Least time between those.
            refresh_s: Time after which a face is chosen again even if it is no better.
            min_size_px: Gate: the longer side of the box.
            max_blur: Gate: blur in [0, 1].
            max_yaw: Gate: degrees that the head is turned.
        """
        self._sure, self._patience_ns, self._every = sure, round(patience_s * 1e9), detect_every
        self._first_shots = first_shots
        self._shot_ns, self._refresh_ns = round(shot_every_s * 1e9), round(refresh_s * 1e9)
        self._gate = Gate(min_size_px, max_blur, max_yaw)

    def start(self, stream: str) -> TrackState:
        return TrackState()

    def __call__(self, state: TrackState, batch: Sequence[Frame | Face]) -> tuple[TrackState, Iterable[TrackedFace]]:
        """Faces of ``batch`` with their tracks, frame by frame; ``batch`` holds the frames as well."""
        faces: dict[int, list[Face]] = {}
        for face in batch:
            if isinstance(face, Face):
                faces.setdefault(face.seq, []).append(face)
        out: list[TrackedFace] = []
        for frame in sorted((p for p in batch if isinstance(p, Frame)), key=lambda f: f.seq):
            state = state if frame.epoch == state.epoch else TrackState(epoch=frame.epoch)
            state = self._follow(state, frame, faces.get(frame.seq, []), out)
        return state, out

    def _follow(self, state: TrackState, frame: Frame, faces: list[Face], out: list[TrackedFace]) -> TrackState:
        """One frame: move the tracks, pair them with ``faces``, append what is known to ``out``."""
        tracks = [_moved(track, frame.pts_ns) for track in state.tracks]
        looked = frame.seq % self._every == 0
        pairs = self._pair(tracks, faces) if looked else {}
        born = [face for n, face in enumerate(faces) if n not in pairs.values() and face.score >= self._sure]
        alive: list[Tracklet] = []
        for n, track in enumerate(tracks):
            if n in pairs:
                alive.append(self._seen(track, faces[pairs[n]], frame, out))
            elif frame.pts_ns - track.seen_ns <= self._patience_ns:
                lost = frame.seq - track.seen_seq >= self._every  # the detector has looked since, and found nothing
                alive.append(track if lost else self._coasting(track, frame, out))
        for number, face in enumerate(born, state.following):
            alive.append(self._seen(_begun(number, face), face, frame, out))
        return TrackState(tuple(alive), state.following + len(born), state.epoch)

    def _pair(self, tracks: list[Tracklet], faces: list[Face]) -> dict[int, int]:
        """Index of the face that each track found, by index of the track."""
        sure = [n for n, face in enumerate(faces) if face.score >= self._sure]
        weak = [n for n in range(len(faces)) if n not in sure]
        cost = _overlap_cost(tracks, faces) + _looks_cost(tracks, faces)
        first = _assign(cost, list(range(len(tracks))), sure)
        left = [n for n in range(len(tracks)) if n not in first]
        return first | _assign(_overlap_cost(tracks, faces), left, weak)

    def _seen(self, track: Tracklet, face: Face, frame: Frame, out: list[TrackedFace]) -> Tracklet:
        moved = motion.corrected(track.motion, face.box)
        looks = _unit(0.9 * track.looks + 0.1 * appearance(face.crop))
        track = replace(
            track,
            motion=moved,
            box=face.box,
            landmarks=face.landmarks,
            score=face.score,
            looks=looks,
            seen_seq=frame.seq,
            seen_ns=frame.pts_ns,
        )
        height, width = frame.image.shape[:2]
        quality = self._gate.judge(face, width, height, predicted=False)
        chosen = quality.passed and self._wants(track, quality.score, frame.pts_ns)
        out.append(grow(face, TrackedFace, track_id=_id(frame, track), quality=quality, predicted=False, chosen=chosen))
        if not chosen:
            return track
        best = max(track.best, quality.score)
        return replace(track, best=best, chosen=track.chosen + 1, chosen_ns=frame.pts_ns)

    def _coasting(self, track: Tracklet, frame: Frame, out: list[TrackedFace]) -> Tracklet:
        """The face where the motion takes it: the detector did not look at this frame."""
        face = _carried(track, frame)
        height, width = frame.image.shape[:2]
        quality = self._gate.judge(face, width, height, predicted=True)
        out.append(grow(face, TrackedFace, track_id=_id(frame, track), quality=quality, predicted=True, chosen=False))
        return track

    def _wants(self, track: Tracklet, score: float, pts_ns: int) -> bool:
        """Whether the track would gain from the embedding of a face of this quality."""
        waited = pts_ns - track.chosen_ns
        if track.chosen < self._first_shots:
            return track.chosen == 0 or waited >= self._shot_ns
        return waited >= self._refresh_ns or (score > track.best + 0.05 and waited >= self._shot_ns)


def appearance(crop: Pixels) -> Floats:
    """What a face looks like from afar: (192,) float32 of unit length, an 8x8 colour thumbnail without its mean."""
    small = cv2.resize(crop, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32).reshape(-1)
    return _unit(small - small.mean())


def overlaps(a: Floats, b: Floats) -> Floats:
    """Intersection over union of each of ``a`` (N, 4) with each of ``b`` (M, 4), xyxy: (N, M) float32."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(1) for x in (a, b))
    return np.asarray(common / np.maximum(area_a[:, None] + area_b[None] - common, 1e-9), np.float32)


def _overlap_cost(tracks: list[Tracklet], faces: list[Face]) -> Floats:
    """1 - IoU with the predicted box; pairs that do not touch at all are forbidden."""
    if not tracks or not faces:
        return np.zeros((len(tracks), len(faces)), np.float32)
    iou = overlaps(np.stack([t.motion.box for t in tracks]), np.stack([f.box for f in faces]))
    return np.where(iou < 0.1, FORBIDDEN, 1 - iou).astype(np.float32)


def _looks_cost(tracks: list[Tracklet], faces: list[Face]) -> Floats:
    """1 - cosine of the appearances: where two faces claim one place, the looks decide."""
    if not tracks or not faces:
        return np.zeros((len(tracks), len(faces)), np.float32)
    alike = np.stack([t.looks for t in tracks]) @ np.stack([appearance(f.crop) for f in faces]).T
    return np.asarray(1 - alike, np.float32)


def _assign(cost: Floats, rows: list[int], columns: list[int]) -> dict[int, int]:
    """The cheapest pairing of ``rows`` with ``columns`` (Hungarian method), without the forbidden pairs."""
    if not rows or not columns:
        return {}
    chosen = linear_sum_assignment(cost[np.ix_(rows, columns)])
    pairs = ((rows[int(i)], columns[int(j)]) for i, j in zip(*chosen, strict=True))
    return {row: column for row, column in pairs if cost[row, column] < FORBIDDEN}


def _begun(number: int, face: Face) -> Tracklet:
    here, looks, now = motion.first(face.box), appearance(face.crop), face.pts_ns
    return Tracklet(number, here, face.box, face.landmarks, face.score, looks, now, face.seq, now)


def _moved(track: Tracklet, pts_ns: int) -> Tracklet:
    seconds = max(pts_ns - track.updated_ns, 0) / 1e9
    return replace(track, motion=motion.predicted(track.motion, seconds), updated_ns=pts_ns)


def _carried(track: Tracklet, frame: Frame) -> Face:
    """The face of ``track``, moved and scaled with its box, cut out of ``frame``."""
    old, new = track.box, track.motion.box
    scale = (new[2:] - new[:2]) / np.maximum(old[2:] - old[:2], 1e-3)
    landmarks = ((track.landmarks - old[:2]) * scale + new[:2]).astype(np.float32)
    crop = align(frame.image, landmarks)
    at = (frame.stream, frame.epoch, frame.seq, frame.pts_ns)
    return Face(*at, new, track.score, landmarks, crop, capture_ns=frame.capture_ns)


def _id(frame: Frame, track: Tracklet) -> str:
    return f"{frame.stream}:{frame.epoch}:{track.number}"


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), np.float32)
