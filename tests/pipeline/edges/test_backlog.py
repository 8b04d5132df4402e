"""What waits keeps its order, what gives way gives way in whole groups, and every drop is counted."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.edges.backlog import Arrival, Backlog
from pipeline.packets import Codec, Unit

H264 = Codec("h264")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def put(backlog: Backlog, kinds: str, clock: Clock, epoch: int = 1, size: int = 10) -> None:
    """One unit for each letter, 0.1 s apart: ``K`` a key frame, ``.`` any other; their times are their numbers."""
    for kind in kinds:
        number = round((clock.now - 100) * 10)
        unit = Unit(b"x" * size, number, number, kind == "K")
        backlog.put(Arrival(unit, epoch, H264, number, 0, clock.now))
        clock.now += 0.1


def taken(backlog: Backlog, count: int = 100) -> list[int]:
    return [arrival.pts_ns for arrival in backlog.take(count, 0.0)]


def test_units_come_out_in_their_order_and_no_more_than_were_asked_for() -> None:
    clock = Clock()
    backlog = Backlog(9.0, clock=clock)
    put(backlog, "K....K..", clock)
    assert [taken(backlog, 3), taken(backlog, 3), taken(backlog, 3), taken(backlog)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7],
        [],
    ]
    assert backlog.drops == {}


def test_what_is_late_gives_way_up_to_the_newest_key_frame() -> None:
    clock = Clock()
    backlog = Backlog(0.5, clock=clock)
    put(backlog, "K..", clock)
    assert taken(backlog, 2) == [0, 1]
    put(backlog, "..K...", clock)
    arrivals = backlog.take(100, 0.0)
    assert [(arrival.pts_ns, arrival.missing) for arrival in arrivals] == [(5, 3), (6, 0), (7, 0), (8, 0)]
    assert arrivals[0].unit.keyframe
    assert backlog.drops == {"late": 3}


def test_the_newest_group_is_never_cut_however_late_it_is() -> None:
    clock = Clock()
    backlog = Backlog(0.5, clock=clock)
    put(backlog, "K" + "." * 40, clock)
    assert taken(backlog) == list(range(41))


def test_what_is_not_yet_late_is_kept() -> None:
    clock = Clock()
    backlog = Backlog(5.0, clock=clock)
    put(backlog, "K...K...", clock)
    assert taken(backlog) == list(range(8))


def test_a_pause_of_whoever_takes_is_seen_when_it_comes_back() -> None:
    clock = Clock()
    backlog = Backlog(2.0, clock=clock)
    put(backlog, "K...K.", clock)
    clock.now += 10
    assert taken(backlog) == [4, 5]


def test_units_before_the_first_key_frame_of_a_connection_are_left_out() -> None:
    clock = Clock()
    backlog = Backlog(9.0, clock=clock)
    put(backlog, "..K.", clock)
    put(backlog, "...K.", clock, epoch=2)
    arrivals = backlog.take(100, 0.0) + backlog.take(100, 0.0)
    told = [(arrival.epoch, arrival.pts_ns, arrival.missing) for arrival in arrivals]
    assert told == [(1, 2, 2), (1, 3, 0), (2, 7, 3), (2, 8, 0)]
    assert backlog.drops == {"no_keyframe": 5}


def test_epochs_are_not_mixed() -> None:
    clock = Clock()
    backlog = Backlog(9.0, clock=clock)
    put(backlog, "K.", clock)
    put(backlog, "K.", clock, epoch=2)
    assert [taken(backlog), taken(backlog)] == [[0, 1], [2, 3]]


def test_too_many_bytes_give_way_even_where_nothing_is_late() -> None:
    clock = Clock()
    backlog = Backlog(1e9, max_bytes=100, clock=clock)
    put(backlog, "K....K.....", clock)  # the eleventh unit is one too many
    assert taken(backlog) == [5, 6, 7, 8, 9, 10]
    put(backlog, "...........", clock)  # the next eleven have no key frame to go back to
    assert taken(backlog) == []
    put(backlog, "..K.", clock)
    assert [(arrival.pts_ns, arrival.missing) for arrival in backlog.take(100, 0.0)] == [(24, 13), (25, 0)]
    assert backlog.drops == {"overflow": 18}


def test_lossless_holds_up_whoever_puts_and_loses_nothing() -> None:
    clock = Clock()
    backlog = Backlog(None, max_bytes=50, clock=clock)
    camera = threading.Thread(target=put, args=(backlog, "K" * 30, clock))
    camera.start()
    time.sleep(0.05)
    assert camera.is_alive()
    seen: list[int] = []
    while len(seen) < 30:
        seen += taken(backlog, 4)
    camera.join(5)
    assert seen == list(range(30))
    assert backlog.drops == {}


def test_whoever_waits_is_let_go_when_it_is_closed() -> None:
    backlog = Backlog(None, max_bytes=1)
    camera = threading.Thread(target=put, args=(backlog, "KK", Clock()))
    camera.start()
    time.sleep(0.05)
    backlog.close()
    camera.join(2)
    assert not camera.is_alive()


def test_a_wait_for_units_has_a_limit() -> None:
    began = time.monotonic()
    assert Backlog(1.0).take(4, 0.1) == []
    assert time.monotonic() - began == pytest.approx(0.1, abs=0.09)
