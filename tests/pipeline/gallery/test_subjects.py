"""What can be kept of somebody, and what can be nobody's name."""

from __future__ import annotations

from datetime import timedelta

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


def test_a_date_that_a_policy_gave_follows_the_policy_and_another_stays() -> None:
    ada = Subject(id="ada")
    minute, hour = ada.dated(60), ada.dated(3600)
    assert minute.expires == ada.created + timedelta(seconds=60)
    assert minute.dated(3600, {60.0}) == minute.dated(3600, {1.0, 60.0, 3600.0}) == hour
    assert minute.dated(None, {60.0}) == ada
    assert minute.dated(3600) == minute.dated(3600, {1.0}) == minute.dated(60, {60.0}) == minute


def test_purposes_may_have_slashes() -> None:
    assert Subject(id="ada", purposes=("door/north",)).purposes == ("door/north",)
