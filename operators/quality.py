"""How much a face is worth as evidence, and why it is worth nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2

from pipeline.packets import Face, Floats, Pixels, Quality

NOSE_DEPTH = 0.6  # how far the nose tip stands out, in distances between the eyes
# Variance of the Laplacian that rounding to whole levels alone leaves in a smooth picture: (4² + 4) / 12, once
# for grey and once for the weighted sum of three colours. Without taking it off, strong blur looks sharp.
ROUNDING = 20 / 12 * (1 + 0.299**2 + 0.587**2 + 0.114**2)


@dataclass(frozen=True, slots=True)
class Gate:
    """What a face must be to count: limits in pixels, [0, 1] and degrees."""

    min_size_px: float = 40.0
    max_blur: float = 0.85
    max_yaw: float = 45.0

    def judge(self, face: Face, width: int, height: int, *, predicted: bool) -> Quality:
        """The quality of ``face`` in a frame of ``width`` x ``height`` pixels."""
        x1, y1, x2, y2 = (float(v) for v in face.box)
        size, blur, yaw = max(x2 - x1, y2 - y1), blurred(face.crop), turned(face.landmarks)
        tests = {
            "small": size < self.min_size_px,
            "blurred": blur > self.max_blur,
            "turned": abs(yaw) > self.max_yaw,
            "cut_off": _outside(face.landmarks, width, height),
            "predicted": predicted,
        }
        score = face.score * min(1.0, size / 112) * (1 - 0.7 * blur) * max(0.0, 1 - abs(yaw) / 90)
        reasons = tuple(reason for reason, failed in tests.items() if failed)
        return Quality(round(score, 4), round(blur, 4), round(yaw, 2), round(size, 1), reasons)


def blurred(crop: Pixels) -> float:
    """How blurred the (128, 128, 3) crop is, in [0, 1].

    The variance of the Laplacian, relative to the contrast of the picture so that dim light is not
    taken for blur, on a scale on which 0.5 is just acceptable.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[16:112, 16:112]
    detail = max(float(cv2.Laplacian(grey, cv2.CV_32F).var()) - ROUNDING, 0.0)
    sharpness = detail / max(float(grey.var()), 25.0)
    return float(1 / (1 + sharpness / 0.02))


def turned(landmarks: Floats) -> float:
    """Degrees that the head is turned, from the place of the nose tip between the eyes, (5, 2) landmarks."""
    (ax, ay), (bx, by), (nx, ny) = landmarks[:3].tolist()
    across = (nx - (ax + bx) / 2) * (bx - ax) + (ny - (ay + by) / 2) * (by - ay)  # along the line of the eyes
    distance = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-6)
    return math.degrees(math.atan(across / distance / NOSE_DEPTH))


def _outside(landmarks: Floats, width: int, height: int) -> bool:
    x, y = landmarks[:, 0], landmarks[:, 1]
    return bool(((x < 0) | (y < 0) | (x >= width) | (y >= height)).any())
