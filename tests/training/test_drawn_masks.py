import cv2
import numpy as np
import pytest

from operators.align import TEMPLATE, TEMPLATE_112
from training.cloths import KEPT_BACK
from training.drawn_masks import KINDS, Template, draw, draw_template, read_templates
from training.occluders import degrade, occlude, occlude_masked, realign

SKIN = (205, 160, 135)
CLOTH = np.full((20, 30, 3), (90, 150, 210), np.uint8)
SCALE, SHIFT = 2.0, np.array([60.0, 20.0])
LANDMARKS = (TEMPLATE_112 * SCALE + SHIFT).astype(np.float32)


def portrait(shade: float = 1.0) -> np.ndarray:
    return np.full((360, 360, 3), np.array(SKIN) * shade, np.uint8)


def in_template(mask: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(mask)
    return (np.column_stack([xs, ys]) - SHIFT) / SCALE


def at(point: int, values: np.ndarray) -> np.ndarray:
    x, y = LANDMARKS[point].astype(int)
    return values[y, x]


def paper_mask() -> Template:
    pixels = np.zeros((60, 100, 4), np.uint8)
    pixels[10:50, 10:90] = (30, 200, 30, 255)
    return Template(pixels, np.array([[10, 10], [50, 10], [90, 10], [10, 50], [50, 50], [90, 50]], np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_hides_nose_and_mouth_and_leaves_the_eyes_untouched(kind):
    drawn, alpha = draw(portrait(), LANDMARKS, CLOTH, kind)
    assert min(at(point, alpha) for point in (2, 3, 4)) > 0.9
    for eye in LANDMARKS[:2].astype(int):
        around = np.s_[eye[1] - 12 : eye[1] + 6, eye[0] - 20 : eye[0] + 20]
        assert not alpha[around].any()
        assert (drawn[around] == portrait()[around]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_mask_stays_inside_the_lower_face(kind, seed):
    _, alpha = draw(portrait(), LANDMARKS, CLOTH, kind, None if seed is None else np.random.default_rng(seed))
    where = in_template(alpha > 0.05)
    assert where[:, 1].min() > 54
    assert np.abs(where[:, 0] - 56).max() < 50
    assert alpha.dtype == np.float32
    assert 0 <= alpha.min() <= alpha.max() <= 1


def test_only_the_mask_and_its_shadow_change_the_picture():
    given = portrait()
    drawn, alpha = draw(given, LANDMARKS, CLOTH)
    near = cv2.dilate((alpha > 0).astype(np.uint8), np.ones((61, 61))) > 0
    assert (drawn[~near] == given[~near]).all()
    assert (given == portrait()).all()


def test_the_same_seed_draws_the_same_and_another_seed_another_mask():
    first, again, other = (draw(portrait(), LANDMARKS, CLOTH, "cloth", np.random.default_rng(s))[0] for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_mask_turns_with_the_head():
    _, upright = draw(portrait(), LANDMARKS, CLOTH)
    lying = np.column_stack([359 - LANDMARKS[:, 1], LANDMARKS[:, 0]]).astype(np.float32)
    _, turned = draw(portrait(), lying, CLOTH)
    assert np.abs(turned - np.rot90(upright, -1)).max() < 0.02


def test_a_mask_is_as_dark_as_the_face_it_is_on():
    bright, dark = (draw(portrait(shade), LANDMARKS, CLOTH)[0] for shade in (1.0, 0.4))
    assert at(2, dark).mean() < 0.7 * at(2, bright).mean()


def test_a_camera_without_colour_sees_a_mask_without_colour():
    grey = np.full((360, 360, 3), 150, np.uint8)
    drawn, alpha = draw(grey, LANDMARKS, CLOTH)
    assert np.ptp(drawn[alpha > 0.9].astype(int), axis=1).max() <= 1


def test_a_face_outside_of_the_picture_changes_nothing():
    drawn, alpha = draw(portrait(), LANDMARKS + 2000, CLOTH)
    assert (drawn == portrait()).all()
    assert not alpha.any()


def test_a_face_cut_by_the_edge_is_drawn_as_far_as_it_is_seen():
    whole, _ = draw(portrait(), LANDMARKS, CLOTH)
    _, alpha = draw(portrait()[:, :180], LANDMARKS, CLOTH)
    assert alpha.shape == (360, 180)
    assert alpha.any()
    assert whole.shape == (360, 360, 3)


def test_a_photographed_mask_lies_with_its_six_points_on_the_face():
    _, alpha = draw_template(portrait(), LANDMARKS, paper_mask())
    where = in_template(alpha > 0.5)
    assert min(at(point, alpha) for point in (2, 3, 4)) > 0.9
    assert where[:, 1].min() == pytest.approx(59, abs=2)
    assert where[:, 1].max() == pytest.approx(122, abs=2)


def test_templates_are_read_with_their_points(tmp_path):
    (tmp_path / "templates").mkdir()
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[1, 2] = (10, 20, 30, 255)
    cv2.imwrite(str(tmp_path / "templates" / "red.png"), pixels)
    points = "\n".join(f"mask_{letter}: {n}, {n + 1}" for n, letter in enumerate("abcdef"))
    (tmp_path / "masks.cfg").write_text(f"[red]\ntemplate: somewhere/red.png\n{points}\n[empty]\n")
    (name, template), *others = read_templates(tmp_path).items()
    assert (name, others) == ("red", [])
    assert template.pixels[1, 2].tolist() == [30, 20, 10, 255]
    assert template.points.tolist() == [[n, n + 1] for n in range(6)]


def test_what_spoils_a_face_gives_a_crop_again_and_spares_its_input():
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 255, (128, 128, 3), np.uint8)
    given = crop.copy()
    for _ in range(40):
        spoilt = [occlude(crop, CLOTH, rng), occlude_masked(crop, CLOTH, rng), degrade(crop, rng), realign(crop, rng)]
        assert all(each.shape == crop.shape and each.dtype == np.uint8 for each in spoilt)
    assert (crop == given).all()


def test_a_crop_aligned_by_landmarks_that_are_off_stays_near_its_place():
    marks = np.zeros((128, 128, 3), np.uint8)
    x, y = TEMPLATE[:2].mean(0).astype(int)
    marks[y - 2 : y + 3, x - 2 : x + 3] = 255
    rng = np.random.default_rng(0)
    found = [np.argwhere(realign(marks, rng)[..., 0] > 60).mean(0) for _ in range(50)]
    assert np.abs(np.mean(found, axis=0) - [y, x]).max() < 1.5
    assert 0.5 < np.std(found, axis=0).mean() < 4


def test_no_texture_and_no_template_family_is_kept_back_for_two_parts():
    calibrate, test = KEPT_BACK["calibrate"], KEPT_BACK["test"]
    assert not any(a.startswith(b) or b.startswith(a) for a in calibrate for b in test)
