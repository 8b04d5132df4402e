"""A constant-velocity Kalman filter for boxes, many at a time.

Each of the four numbers of a box (centre x, centre y, width, height) has a filter of its own with the
state (value, velocity). That equals the eight-dimensional filter of SORT (Bewley et al. 2016), whose
matrices couple none of the four, and needs no matrix inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

# In heights of the box: how far a measured value is off, and how much a velocity may change within a second.
MEASUREMENT, ACCELERATION, FIRST_VELOCITY = 0.05, 1.5, 1.0


@dataclass(frozen=True, slots=True)
class Motion:
    """What is believed of a box: ``mean`` (4, 2) value and velocity per second, ``covariance`` (4, 2, 2)."""

    mean: Doubles
    covariance: Doubles

    @property
    def box(self) -> NDArray[np.float32]:
        """(4,) float32 xyxy."""
        x, y = self.mean[:2, 0]
        w, h = np.maximum(self.mean[2:, 0], 1.0)  # a shrinking box that is not seen must not turn inside out
        return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2], np.float32)


def first(box: NDArray[np.float32]) -> Motion:
    """What is believed after one look, ``box`` (4,) xyxy."""
    values = _values(box)
    mean = np.stack([values, np.zeros(4)], axis=1)
    spread = np.array([MEASUREMENT, FIRST_VELOCITY]) * values[3]
    return Motion(mean, np.broadcast_to(np.diag(spread**2), (4, 2, 2)).copy())


def predicted(motion: Motion, seconds: float) -> Motion:
    """What is believed ``seconds`` later, with nothing seen since."""
    step = np.array([[1.0, seconds], [0.0, 1.0]])
    noise = np.array([[seconds**4 / 4, seconds**3 / 2], [seconds**3 / 2, seconds**2]])
    accelerated = (ACCELERATION * max(motion.mean[3, 0], 1.0)) ** 2
    return Motion(motion.mean @ step.T, step @ motion.covariance @ step.T + noise * accelerated)


def corrected(motion: Motion, box: NDArray[np.float32]) -> Motion:
    """What is believed once ``box`` (4,) xyxy was measured."""
    values = _values(box)
    variance = motion.covariance[:, 0, 0] + (MEASUREMENT * values[3]) ** 2
    gain = motion.covariance[:, :, 0] / variance[:, None]
    mean = motion.mean + gain * (values - motion.mean[:, 0])[:, None]
    covariance = motion.covariance - gain[:, :, None] * motion.covariance[:, None, 0, :]
    return Motion(mean, covariance)


def _values(box: NDArray[np.float32]) -> Doubles:
    x1, y1, x2, y2 = box.astype(np.float64)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
