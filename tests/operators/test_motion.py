"""The filter of four numbers is the filter of eight, and time is what counts, not frames."""

from __future__ import annotations

import numpy as np
import pytest

from operators import motion
from operators.motion import ACCELERATION, FIRST_VELOCITY, MEASUREMENT
from pipeline.packets import Floats


class SlowKalman:
    """The eight-dimensional filter of SORT, written from the textbook: x = (cx, cy, w, h and their velocities)."""

    def __init__(self, box: Floats) -> None:
        z = self.measured(box)
        self.x = np.concatenate([z, np.zeros(4)])
        self.P = np.diag([(MEASUREMENT * z[3]) ** 2] * 4 + [(FIRST_VELOCITY * z[3]) ** 2] * 4)
        self.H = np.eye(4, 8)

    @staticmethod
    def measured(box: Floats) -> np.ndarray:
        x1, y1, x2, y2 = (float(v) for v in box)
        return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])

    def predict(self, dt: float) -> None:
        F = np.eye(8)
        F[:4, 4:] = dt * np.eye(4)
        G = np.concatenate([dt**2 / 2 * np.eye(4), dt * np.eye(4)])
        sigma = ACCELERATION * max(self.x[3], 1.0)
        self.x, self.P = F @ self.x, F @ self.P @ F.T + sigma**2 * G @ G.T

    def correct(self, box: Floats) -> None:
        z = self.measured(box)
        R = (MEASUREMENT * z[3]) ** 2 * np.eye(4)
        K = self.P @ self.H.T @ np.linalg.inv(self.H @ self.P @ self.H.T + R)
        self.x = self.x + K @ (z - self.H @ self.x)
        self.P = (np.eye(8) - K @ self.H) @ self.P

    @property
    def box(self) -> Floats:
        x, y, w, h = self.x[:4]
        return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2], np.float32)


def walk(steps: int, seed: int = 0) -> tuple[list[float], list[Floats]]:
    """Uneven time steps, and the boxes that a jittering detector sees of a face that walks and comes nearer."""
    rng = np.random.default_rng(seed)
    times = rng.choice([0.02, 0.04, 0.1, 0.5], steps).tolist()
    boxes, centre, size = [], np.array([200.0, 150.0]), 80.0
    for dt in times:
        centre, size = centre + np.array([60.0, -20.0]) * dt, size * (1 + 0.2 * dt)
        x, y = centre + rng.normal(size=2)
        boxes.append(np.array([x - size / 2, y - size * 0.6, x + size / 2, y + size * 0.6], np.float32))
    return times, boxes


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_eight_dimensional_filter_at_uneven_times(seed: int) -> None:
    times, boxes = walk(40, seed)
    fast, slow = motion.first(boxes[0]), SlowKalman(boxes[0])
    for number, (dt, box) in enumerate(zip(times[1:], boxes[1:], strict=True)):
        fast = motion.predicted(fast, dt)
        slow.predict(dt)
        np.testing.assert_allclose(fast.box, slow.box, rtol=1e-5)
        if number % 4 != 3:  # now and then nothing is seen
            fast = motion.corrected(fast, box)
            slow.correct(box)
        np.testing.assert_allclose(fast.mean.T.reshape(-1), slow.x, rtol=1e-7, atol=1e-7)
        for n in range(4):
            np.testing.assert_allclose(fast.covariance[n], slow.P[n::4, n::4], rtol=1e-7, atol=1e-7)


def test_a_steady_walk_is_foretold_whatever_the_frame_rate() -> None:
    for fps in (5, 10, 25, 50):
        at = motion.first(np.array([0, 0, 80, 100], np.float32))
        for n in range(1, 2 * fps + 1):
            x = 100 * n / fps
            at = motion.corrected(motion.predicted(at, 1 / fps), np.array([x, 0, x + 80, 100], np.float32))
        ahead = motion.predicted(at, 0.4)
        assert ahead.box[0] == pytest.approx(240, abs=8)
        assert at.mean[0, 1] == pytest.approx(100, rel=0.1)


def test_the_longer_nothing_is_seen_the_less_is_known() -> None:
    at = motion.first(np.array([0, 0, 80, 100], np.float32))
    spreads = [motion.predicted(at, seconds).covariance[0, 0, 0] for seconds in (0, 0.1, 0.5, 1, 2)]
    assert spreads == sorted(spreads)
    assert spreads[0] < spreads[-1]


def test_no_time_changes_nothing() -> None:
    at = motion.first(np.array([10, 20, 90, 120], np.float32))
    np.testing.assert_array_equal(motion.predicted(at, 0).box, [10, 20, 90, 120])


def test_what_was_believed_is_not_edited() -> None:
    at = motion.first(np.array([10, 20, 90, 120], np.float32))
    before = at.mean.copy(), at.covariance.copy()
    motion.corrected(motion.predicted(at, 1), np.array([0, 0, 10, 10], np.float32))
    np.testing.assert_array_equal(at.mean, before[0])
    np.testing.assert_array_equal(at.covariance, before[1])


def test_a_box_that_shrinks_out_of_sight_does_not_turn_inside_out() -> None:
    at = motion.first(np.array([0, 0, 200, 200], np.float32))
    for n in range(1, 8):
        at = motion.corrected(motion.predicted(at, 0.04), np.array([20 * n, 20 * n, 200, 200], np.float32))
    for seconds in (0.5, 1.0, 1.5):
        x1, y1, x2, y2 = motion.predicted(at, seconds).box
        assert x2 > x1
        assert y2 > y1
