"""Find every face of every frame, with five landmarks, and cut it out aligned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby

import cv2
import numpy as np

from operators.align import align
from operators.engine import engine
from operators.nets import retinaface
from pipeline.compute import Compute
from pipeline.operator import Operator
from pipeline.packets import Face, Floats, Frame, Pixels

STRIDE = 32  # the coarsest map of the net: pictures are padded to multiples of it


class Detect(Operator[Frame, Face]):
    """RetinaFace on MobileNet 0.25, on pictures whose longer side is shrunk to ``size``.

    Frames of one size go through the net in one call.
    """

    def __init__(
        self,
        compute: Compute,
        size: int = 640,
        min_score: float = 0.5,
        overlap: float = 0.4,
        every: int = 1,
        batch: int = 4,
    ) -> None:
        """Load the net.

        Args:
            compute: Where the net runs.
            size: Longer side in pixels that the net sees; the smallest face found is about ``size / 64`` wide.
            min_score: Faces with a lower score are dropped. The tracker starts tracks with sure ones only.
            overlap: Of two boxes with a larger intersection over union the surer one is kept.
            every: Look at every n-th frame only; the tracker moves the faces in between.
            batch: Frames that go through the net at once.

        Raises:
            WeightsError: The weights were not pulled.
            DeviceError: The device is not there.
        """
        self._size, self._min_score, self._overlap = size, min_score, overlap
        self._every, self._batch = every, batch
        example = np.zeros((1, 384, 640, 3), np.uint8)
        self._priors = lru_cache(maxsize=8)(retinaface.priors)
        self._net = engine(retinaface.load(), (example,), compute, "retinaface")

    def __call__(self, batch: Sequence[Frame]) -> Iterable[Face]:
        """The faces of each frame, surest first."""
        looked_at = [frame for frame in batch if frame.seq % self._every == 0]
        for _, same in groupby(looked_at, key=lambda frame: frame.image.shape):
            frames = list(same)
            for first in range(0, len(frames), self._batch):
                yield from self._detect(frames[first : first + self._batch])

    def _detect(self, frames: list[Frame]) -> Iterator[Face]:
        shrunk = [shrink(frame.image, self._size) for frame in frames]
        scale = shrunk[0].scale
        offsets, scores, points = self._net(np.stack([each.image for each in shrunk]))
        anchors = self._priors(*shrunk[0].image.shape[:2])
        for n, frame in enumerate(frames):
            likely = np.flatnonzero(scores[n] >= self._min_score)
            boxes = retinaface.decode_boxes(anchors[likely], offsets[n, likely])
            landmarks = retinaface.decode_landmarks(anchors[likely], points[n, likely])
            for kept in suppress(boxes, scores[n, likely], self._overlap):
                yield _face(frame, boxes[kept] / scale, float(scores[n, likely[kept]]), landmarks[kept] / scale)


class Shrunk:
    """A picture as the net sees it: ``image`` (h, w, 3) uint8 RGB, ``scale`` times as large as it was."""

    __slots__ = ("image", "scale")

    def __init__(self, image: Pixels, scale: float) -> None:
        self.image, self.scale = image, scale


def shrink(image: Pixels, size: int) -> Shrunk:
    """``image`` with its longer side at most ``size``, padded with black on the right and below."""
    height, width = image.shape[:2]
    scale = min(1.0, size / max(height, width))
    h, w = max(round(height * scale), 1), max(round(width * scale), 1)
    padded = np.zeros((-(-h // STRIDE) * STRIDE, -(-w // STRIDE) * STRIDE, 3), np.uint8)
    padded[:h, :w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA) if scale < 1 else image
    return Shrunk(padded, scale)


def suppress(boxes: Floats, scores: Floats, overlap: float) -> list[int]:
    """Greedy non-maximum suppression of ``boxes`` (N, 4) xyxy: the indices that stay, surest first."""
    order, kept = np.argsort(-scores, kind="stable"), []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while order.size:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        common = np.clip(high - low, 0, None).prod(1)
        order = order[common <= overlap * (areas[best] + areas[order] - common)]
    return kept


def _face(frame: Frame, box: Floats, score: float, landmarks: Floats) -> Face:
    points = np.asarray(landmarks, np.float32)
    crop = align(frame.image, points)
    at = (frame.stream, frame.epoch, frame.seq, frame.pts_ns)
    return Face(*at, np.asarray(box, np.float32), score, points, crop, capture_ns=frame.capture_ns)
