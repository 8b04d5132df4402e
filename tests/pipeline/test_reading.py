"""What an omote of this major version wrote is read, now and later; anything else is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from operators.annotate import frame_ref
from pipeline.errors import SourceError
from pipeline.reading import KINDS, read_record, understood
from pipeline.records import FrameRef, Record
from pipeline.testing import make_frame
from tests.support.sample_records import SAMPLES

KNOWN = "omote.explanation/1, omote.frame/1, omote.match/1, omote.stream-status/1, omote.track/1"


def changed(kind: str, change: Callable[[dict[str, Any]], object]) -> str:
    """A record with something in it changed, as bytes on their way."""
    said = json.loads(SAMPLES[kind].model_dump_json())
    change(said)
    return json.dumps(said)


@pytest.mark.parametrize("record", SAMPLES.values(), ids=SAMPLES.keys())
def test_a_record_of_every_kind_is_read_as_it_was_written(record: Record) -> None:
    assert read_record(record.model_dump_json()) == record
    assert read_record(record.model_dump_json().encode()) == record


def test_fields_that_a_later_minor_version_added_are_left_out() -> None:
    def add(said: dict[str, Any]) -> None:
        said.update(record="omote.frame/1.12", weather="rain")
        said["faces"][0]["det"]["angle"] = 12.5
        said["stream"]["site"] = {"id": 4}

    assert read_record(changed("frame", add)) == SAMPLES["frame"]


def test_our_own_models_stay_strict() -> None:
    with pytest.raises(ValidationError, match="weather"):
        FrameRef(seq=0, pts_ns=0, w=1, h=1, weather="rain")


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_version_from_the_future_is_refused_with_what_came_what_is_understood_and_the_way_out(kind: str) -> None:
    with pytest.raises(SourceError) as caught:
        read_record(changed(kind, lambda said: said.update(record=f"omote.{kind}/2.0")))
    assert str(caught.value) == (
        f"omote.{kind}/2.0 came and this omote understands omote.{kind}/1; upgrade it, or have version 1 written"
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\x89PNG\r\n", "what came is no record, for it is no JSON: b'\\x89PNG"),
        ("", "what came is no record, for it is no JSON: ''"),
        ("[1]", f"None names nothing that can be read here; this omote understands {KNOWN}"),
        ('{"record": 7}', f"7 names nothing that can be read here; this omote understands {KNOWN}"),
        ('{"record": "omote.frame"}', "'omote.frame' names nothing"),
        ('{"record": "omote.frame/1"}', "'omote.frame/1' names nothing"),
        ('{"record": "omote.frame/1.x"}', "'omote.frame/1.x' names nothing"),
        ('{"record": "omote.weather/1.0"}', "'omote.weather/1.0' names nothing"),
        ('{"record": "omote.frame/1.0"}', "what came is no omote.frame/1.0: `stream`: Field required"),
        (changed("track", lambda r: r["after"].update(frames="many")), "what came is no omote.track/1.0: `after.fr"),
        (changed("frame", lambda r: r["stream"].update(source="fax")), "`stream.source`: Input should be 'file'"),
    ],
)
def test_what_is_no_record_is_refused_in_one_sentence(data: str | bytes, sentence: str) -> None:
    with pytest.raises(SourceError) as caught:
        read_record(data)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_told_apart_by_kind_and_major_version() -> None:
    assert understood("omote.video/1.7", ["omote.video/1.0"]) == "omote.video/1.0"
    for other in ("omote.video/11.0", "omote.video/0.1", "xomote.video/1.0", "omote.video/1.0\n", "omote.Video/1.0"):
        with pytest.raises(SourceError):
            understood(other, ["omote.video/1.0"])


@pytest.mark.parametrize("nanoseconds", [1_790_000_000_000_000_000, 1_790_000_000_123_456_789])
def test_the_time_of_a_capture_is_that_of_rfc_3339(nanoseconds: int) -> None:
    told = frame_ref(make_frame(capture_ns=nanoseconds)).capture_ts
    assert told is not None
    assert datetime.fromisoformat(told) == datetime.fromtimestamp(nanoseconds / 1e9, UTC)


@pytest.mark.parametrize("wrong", ["", "today", "2026-09-20", "2026-09-20T10:00:00", "2026-09-20 10:00:00Z", "1790"])
def test_another_notation_of_time_is_never_written(wrong: str) -> None:
    with pytest.raises(ValidationError, match="capture_ts"):
        FrameRef(seq=0, pts_ns=0, w=1, h=1, capture_ts=wrong)


def test_where_there_is_nothing_to_measure_a_record_says_null() -> None:
    assert json.loads(SAMPLES["explanation"].model_dump_json())["completeness_error"] is None


def test_every_kind_has_a_sample() -> None:
    assert sorted(f"omote.{kind}/1.0" for kind in SAMPLES) == sorted(KINDS)
