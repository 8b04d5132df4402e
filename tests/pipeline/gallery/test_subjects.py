"""What can be kept of somebody, and what can be nobody's name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.gallery.subjects import METADATA_BYTES, Subject


@pytest.mark.parametrize(
    "value", ["\ud800", float("nan"), float("inf"), -float("inf"), {"a": 1}, ["a"], "é" * METADATA_BYTES]
)
def test_metadata_that_json_cannot_hold_or_that_is_long_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        Subject(id="ada", metadata={"a": value})  # type: ignore[dict-item]
    with pytest.raises(ValidationError):
        Subject(id="ada", metadata={str(value): 1, "\ud800": 2})


@pytest.mark.parametrize("value", ["ü", "", 0, -(10**300), 1.5, True, None, "x" * (METADATA_BYTES - 10)])
def test_other_metadata_comes_back_as_it_was(value: object) -> None:
    kept = Subject(id="ada", metadata={"a": value}).model_dump_json()  # type: ignore[dict-item]
    assert Subject.model_validate_json(kept).metadata == {"a": value}


@pytest.mark.parametrize("name", ["", " ", " a", "a\n", "..", "a/b", "a\\b", "\ufffd", "a" * 257])
def test_a_name_that_no_address_can_hold_is_nobodys(name: str) -> None:
    with pytest.raises(ValidationError):
        Subject(id=name)


def test_purposes_may_have_slashes() -> None:
    assert Subject(id="ada", purposes=("door/north",)).purposes == ("door/north",)
