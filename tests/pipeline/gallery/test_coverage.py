from __future__ import annotations

import numpy as np
import pytest

from pipeline.gallery.coverage import coverage
from pipeline.gallery.errors import InvalidError
from pipeline.gallery.protocol import Template

VECTOR = np.eye(512, dtype=np.float32)[0]


def photo(
    yaw: float = 0, quality: float = 0.8, size: float = 150, *, masked: bool = False, of: str = "ada"
) -> Template:
    return Template(of, VECTOR, quality, masked, yaw=yaw, size_px=size)


FULL = [photo(-30), photo(0), photo(30), photo(masked=True)]


def lacks(*templates: Template) -> list[str]:
    return [lack.code for lack in coverage(templates).lacks]


def test_who_has_everything_lacks_nothing() -> None:
    found = coverage(FULL)
    assert found.lacks == found.advice == ()
    assert found.poses == {"left": 1, "frontal": 2, "right": 1}
    assert found.sizes == {"small": 0, "medium": 0, "large": 4}
    assert found.grades == {"poor": 0, "fair": 0, "good": 4}
    assert (found.templates, found.bare, found.masked, found.best_quality) == (4, 3, 1, 0.8)


@pytest.mark.parametrize(
    ("without", "code"), [(0, "left"), (1, "photos"), (2, "right"), (3, "masked")], ids=["left", "few", "right", "mask"]
)
def test_what_is_missing_is_named(without: int, code: str) -> None:
    assert code in lacks(*FULL[:without], *FULL[without + 1 :])


def test_somebody_with_turned_photos_only_lacks_a_frontal_one() -> None:
    assert "frontal" in lacks(photo(-30), photo(30), photo(20))


def test_only_masked_photos_ask_for_a_bare_one_first() -> None:
    assert lacks(photo(masked=True))[0] == "bare"


def test_small_and_poor_photos_ask_for_better_ones() -> None:
    found = coverage([photo(yaw, 0.25, 60) for yaw in (-30, 0, 30)])
    assert [lack.code for lack in found.lacks] == ["large", "good", "masked"]
    assert "the best one has quality 0.25" in found.advice[1]


def test_nobody_lacks_most() -> None:
    assert lacks() == ["bare", "frontal", "left", "right", "large", "good", "masked"]


def test_one_photo_asks_for_two_more() -> None:
    assert coverage([photo()]).advice[0].startswith("add 2 more photos from other days")


def test_negative_anchors_do_not_count() -> None:
    anchor = Template("ada", VECTOR, 1.0, negative=True)
    assert coverage([*FULL, anchor]) == coverage(FULL)


def test_templates_of_two_subjects_are_refused() -> None:
    with pytest.raises(InvalidError, match="one subject"):
        coverage([photo(), photo(of="bob")])
