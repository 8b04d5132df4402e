"""A face is brought to the place where the nets expect it, however it lay in the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from operators.align import TEMPLATE, TEMPLATE_112, align, similarity
from pipeline.packets import Floats, Pixels


def slow_similarity(source: Floats, target: Floats) -> Floats:
    """Least squares over a, b, x, y of (a u - b v + x, b u + a v + y), as one linear system."""
    rows, wanted = [], []
    for (u, v), (p, q) in zip(source, target, strict=True):
        rows += [[u, -v, 1, 0], [v, u, 0, 1]]
        wanted += [p, q]
    a, b, x, y = np.linalg.lstsq(np.array(rows, float), np.array(wanted, float), rcond=None)[0]
    return np.array([[a, -b, x], [b, a, y]])


def turned(points: Floats, degrees: float, scale: float, shift: tuple[float, float]) -> Floats:
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points @ turn.T + shift).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_the_similarity_is_the_least_squares_solution(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.uniform(0, 2000, 2) + rng.normal(size=(5, 2)) * rng.uniform(5, 400)
    found = similarity(source.astype(np.float32), TEMPLATE)
    assert found.shape == (2, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_similarity(source.astype(np.float32), TEMPLATE), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("degrees", [-170, -30, 0, 15, 90])
@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_a_turned_scaled_and_shifted_template_comes_back_exactly(degrees: float, scale: float) -> None:
    landmarks = turned(TEMPLATE, degrees, scale, (500, 300))
    matrix = similarity(landmarks, TEMPLATE)
    np.testing.assert_allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=2e-2)


def test_a_face_is_never_mirrored() -> None:
    mirrored = TEMPLATE * np.array([-1, 1], np.float32)
    assert np.linalg.det(similarity(mirrored, TEMPLATE)[:, :2]) >= 0


def portrait() -> Pixels:
    """A smooth picture of 400x400 in which every place looks different."""
    y, x = np.mgrid[:400, :400]
    waves = (np.sin(x / 23 + y / 57), np.cos(x / 41 - y / 31), np.sin(x / 67 + y / 19))
    return np.stack([127 + 120 * wave for wave in waves], axis=2).astype(np.uint8)


@pytest.mark.parametrize("degrees", [-60, -20, 20, 90, 180])
def test_the_crop_of_a_turned_picture_is_the_same(degrees: float) -> None:
    picture, landmarks = portrait(), TEMPLATE + np.float32(136)
    matrix = cv2.getRotationMatrix2D((200, 200), degrees, 1.0)
    moved = cv2.warpAffine(picture, matrix, (400, 400))
    points = (landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    difference = np.abs(align(moved, points).astype(int) - align(picture, landmarks))
    assert difference.mean() < 3
    assert np.quantile(difference, 0.99) < 12


def test_a_face_that_lies_in_the_template_is_cut_out_as_it_is() -> None:
    picture = portrait()
    crop = align(picture, TEMPLATE + np.float32(100))
    assert crop.shape == (128, 128, 3)
    assert crop.dtype == np.uint8
    assert np.abs(crop.astype(int) - picture[100:228, 100:228]).max() <= 2


def test_the_inner_112_pixels_are_the_template_of_the_identity_net() -> None:
    np.testing.assert_array_equal(TEMPLATE - 8, TEMPLATE_112)


def test_what_lies_outside_of_the_picture_is_black() -> None:
    white = np.full((60, 60, 3), 255, np.uint8)
    crop = align(white, TEMPLATE - np.float32(60))
    assert crop[62:118, 62:118].min() == 255
    assert crop[:58].max() == crop[:, 122:].max() == 0


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), 1e4), np.full((5, 2), 50.0)])
def test_landmarks_that_are_all_one_point_do_no_harm(points: Floats) -> None:
    crop = align(portrait(), points.astype(np.float32))
    assert crop.shape == (128, 128, 3)
