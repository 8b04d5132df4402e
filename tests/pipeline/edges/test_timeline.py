"""Stream time begins at nought and never runs backwards, whatever the clock of the camera does."""

from __future__ import annotations

from pipeline.edges.timeline import Timeline
from pipeline.packets import Unit

MS = 1_000_000


def placed(units: list[tuple[int | None, int | None, float]]) -> list[int | None]:
    """Presentation times in ms of units given as (pts ms, dts ms, second of arrival)."""
    timeline = Timeline()
    times = [
        timeline.place(Unit(b"x", *(None if ms is None else ms * MS for ms in (pts, dts))), at_s).pts_ns
        for pts, dts, at_s in units
    ]
    return [None if ns is None else ns // MS for ns in times]


def test_stream_time_begins_at_nought_and_follows_the_camera() -> None:
    assert placed([(5000, 5000, 1.0), (5040, 5040, 1.1), (5080, 5080, 1.12)]) == [0, 40, 80]


def test_times_that_jump_back_go_on_as_our_own_clock_did() -> None:
    assert placed([(9000, 9000, 1.0), (9040, 9040, 1.04), (0, 0, 1.08), (40, 40, 1.12)]) == [0, 40, 80, 120]


def test_times_that_leap_ahead_go_on_as_our_own_clock_did() -> None:
    assert placed([(0, 0, 1.0), (40, 40, 1.04), (90_000_000, 90_000_000, 1.09)]) == [0, 40, 90]


def test_a_pause_of_the_camera_is_no_leap() -> None:
    assert placed([(0, 0, 1.0), (60_000, 60_000, 61.0)]) == [0, 60_000]


def test_units_that_were_waited_for_are_no_jump() -> None:
    assert placed([(0, 0, 1.0), (40, 40, 31.0), (80, 80, 31.0)]) == [0, 40, 80]


def test_reordered_pictures_keep_their_times() -> None:
    assert placed([(80, 0, 1.0), (200, 40, 1.04), (120, 80, 1.08)]) == [80, 200, 120]
    assert placed([(0, None, 1.0), (120, None, 1.04), (40, None, 1.08), (80, None, 1.12)]) == [0, 120, 40, 80]


def test_a_missing_time_stays_missing() -> None:
    assert placed([(None, None, 1.0), (700, 700, 1.0), (None, None, 1.04), (780, 780, 1.08)]) == [None, 0, None, 80]
