"""The gate says how much a face is worth, and why it is worth nothing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from operators.quality import Gate, blurred, turned
from pipeline.packets import Face, Floats, Pixels
from pipeline.testing import make_face


def detailed(contrast: float = 1.0) -> Pixels:
    """A crop with detail at every scale, like a sharp photo: its amplitudes fall as one over frequency."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    spectrum = np.fft.fft2(rng.normal(size=(128, 128))) / np.maximum(frequency, 1 / 128)
    picture = np.fft.ifft2(spectrum).real
    picture = 127 + contrast * 45 * (picture - picture.mean()) / picture.std()
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def judged(face: Face, **limits: float) -> tuple[str, ...]:
    return Gate(**limits).judge(face, 640, 480, predicted=False).reasons


def test_blur_grows_with_the_blur_of_the_lens() -> None:
    sharp = detailed()
    seen = [blurred(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (0.3, 0.7, 1, 1.5, 2, 3, 5, 8)]
    assert seen == sorted(seen)
    assert seen[0] < 0.2
    assert seen[-1] > 0.85
    assert all(0 <= blur <= 1 for blur in seen)


def test_dim_light_is_not_taken_for_blur() -> None:
    assert blurred(detailed(0.5)) == pytest.approx(blurred(detailed()), abs=0.05)


def test_a_crop_without_anything_in_it_is_blurred() -> None:
    assert blurred(np.full((128, 128, 3), 90, np.uint8)) == 1


def looking(yaw: float, roll: float = 0, scale: float = 1) -> Floats:
    """Landmarks of a head turned by ``yaw`` degrees, whose nose stands out by 0.6 eye distances."""
    angle = np.radians(yaw)
    shares = {"eyes": 0.5 * np.cos(angle), "nose": 0.6 * np.sin(angle)}
    points = np.array([[-shares["eyes"], 0], [shares["eyes"], 0], [shares["nose"], 0.55], [-0.4, 1.1], [0.4, 1.1]])
    turn = np.array([[np.cos(r := np.radians(roll)), -np.sin(r)], [np.sin(r), np.cos(r)]])
    return (60 * scale * points @ turn.T + [200, 150]).astype(np.float32)


@pytest.mark.parametrize("yaw", [-60, -45, -20, 0, 20, 45, 60])
def test_yaw_is_what_the_nose_says_negative_to_the_left(yaw: float) -> None:
    assert turned(looking(yaw)) == pytest.approx(yaw, abs=0.1)


@pytest.mark.parametrize("scale", [0.1, 1, 5])
def test_yaw_does_not_depend_on_size_and_a_frontal_face_may_be_tilted(scale: float) -> None:
    assert turned(looking(20, scale=scale)) == pytest.approx(20, abs=0.5)
    straight = looking(0, roll=30, scale=scale)
    straight[2] = (straight[0] + straight[1]) / 2
    assert turned(straight) == pytest.approx(0, abs=0.1)


def test_a_good_face_passes() -> None:
    quality = Gate().judge(make_face(crop=detailed()), 640, 480, predicted=False)
    assert quality.passed
    assert quality.reasons == ()
    assert 0.6 < quality.score <= 1
    assert quality.size_px == 100


@pytest.mark.parametrize(
    ("face", "reason"),
    [
        (make_face(crop=detailed(), box=(100, 100, 130, 139)), "small"),
        (make_face(crop=np.full((128, 128, 3), 90, np.uint8)), "blurred"),
        (make_face(crop=detailed(), box=(-60, 100, 60, 220)), "cut_off"),
        (make_face(crop=detailed(), box=(100, 400, 200, 520)), "cut_off"),
    ],
)
def test_a_face_that_fails_says_why(face: Face, reason: str) -> None:
    assert judged(face) == (reason,)


@pytest.mark.parametrize(("yaw", "reasons"), [(50, ("turned",)), (-50, ("turned",)), (30, ())])
def test_a_face_that_looks_away_says_so(yaw: float, reasons: tuple[str, ...]) -> None:
    face = make_face(crop=detailed())
    away = Face(**{name: getattr(face, name) for name in ("stream", "epoch", "seq", "pts_ns", "box", "score", "crop")},
                landmarks=looking(yaw))  # fmt: skip
    assert judged(away) == reasons


def test_a_predicted_face_never_passes() -> None:
    assert Gate().judge(make_face(crop=detailed()), 640, 480, predicted=True).reasons == ("predicted",)


def test_all_reasons_are_given() -> None:
    face = make_face(crop=np.zeros((128, 128, 3), np.uint8), box=(-20, 100, 10, 130))
    assert Gate().judge(face, 640, 480, predicted=True).reasons == ("small", "blurred", "cut_off", "predicted")


def test_the_limits_are_arguments() -> None:
    face = make_face(crop=detailed())
    assert judged(face, min_size_px=101) == ("small",)
    assert judged(face, max_blur=0.0) == ("blurred",)


def test_a_larger_sharper_surer_face_is_worth_more() -> None:
    def score(crop: Pixels, **face: object) -> float:
        return Gate().judge(make_face(crop=crop, **face), 640, 480, predicted=False).score

    best = score(detailed(), box=(100, 100, 220, 220))
    assert score(detailed(), box=(100, 100, 160, 160)) < best
    assert score(cv2.GaussianBlur(detailed(), (0, 0), 2), box=(100, 100, 220, 220)) < best
    assert score(detailed(), box=(100, 100, 220, 220)[:4]) == best
    assert Gate().judge(make_face(score=0.6, crop=detailed()), 640, 480, predicted=False).score < best
