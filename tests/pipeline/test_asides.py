"""What runs aside is not waited for, is never lost in silence, and leaves its sinks in order."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.edges import Sink
from pipeline.errors import StageError
from pipeline.graph import Graph, Stage
from pipeline.operator import Operator
from pipeline.packets import DrawnFrame, Frame
from pipeline.runners.local import run_local
from pipeline.testing import MemorySource, noise, raw_chunks
from pipeline.walk import Journey, Walk

Run = Callable[..., None]


class Narrow(Sink[Frame | DrawnFrame]):
    """Keeps kinds and numbers of packets; there is room for one thread."""

    def __init__(self, kept: list[Any]) -> None:
        self._kept, self._room = kept, threading.Lock()

    def write(self, batch: Sequence[Frame | DrawnFrame]) -> None:
        if not self._room.acquire(blocking=False):
            message = "two threads write at once"
            raise RuntimeError(message)
        time.sleep(0.002)
        self._room.release()
        self._kept += [(type(packet), packet.seq) for packet in batch]

    def flush(self) -> None:
        """Memory is safe at once."""

    def close(self) -> None:
        self._kept.append("closed")


@pytest.fixture
def graph(named: Callable[[type], str]) -> Callable[..., Graph]:
    """decode → ponder, aside → a sink that takes from both."""
    sink = named(Narrow)

    def declare(kept: list[Any], use: str = "Sketch", **pondering: Any) -> Graph:
        stages = {
            "decode": Stage(use="operators.decode:Decode"),
            "ponder": Stage(use=f"pipeline.testing:{use}", after="decode", aside=True, args=pondering),
        }
        return Graph(stages, sinks={"keep": Stage(use=sink, after=("decode", "ponder"), args={"kept": kept})})

    return declare


def source(frames: int) -> MemorySource:
    return MemorySource(raw_chunks(noise(frames, 8, 8), units=2))


def numbers(kept: list[Any], kind: type) -> list[int]:
    return [entry[1] for entry in kept if entry[0] is kind]


def test_what_runs_aside_is_waited_for_at_the_end_only(run: Run, window: int, graph: Callable[..., Graph]) -> None:
    kept: list[Any] = []
    at_commit: list[int] = []

    def arrived(journey: Journey, walk: Walk) -> None:
        at_commit.append(len(numbers(kept, DrawnFrame)))

    run(graph(kept, seconds=0.02), source(16), on_journey=arrived)
    assert at_commit[-1] < 16 or window == 1  # one after the other there is no beside
    assert numbers(kept, DrawnFrame) == numbers(kept, Frame) == list(range(16))
    assert kept[-1] == "closed"


def test_a_sink_is_never_entered_by_two_threads(run: Run, graph: Callable[..., Graph]) -> None:
    kept: list[Any] = []
    run(graph(kept), source(60))
    assert numbers(kept, DrawnFrame) == numbers(kept, Frame) == list(range(60))


def test_a_failure_aside_is_told_at_the_end(run: Run, graph: Callable[..., Graph]) -> None:
    kept: list[Any] = []
    given = source(16)
    with pytest.raises(StageError, match="stage 'ponder' failed: ValueError: frame 0 is cursed"):
        run(graph(kept, use="Fragile", at=list(range(16))), given)
    assert len(given.committed) == 8
    assert numbers(kept, Frame) == list(range(16))
    assert kept[-1] == "closed"


def test_a_failure_aside_is_logged_at_once(graph: Callable[..., Graph], caplog: pytest.LogCaptureFixture) -> None:
    logged: list[bool] = []
    with pytest.raises(StageError):
        run_local(
            graph([], use="Fragile", at=[0]),
            source(40),
            window=1,
            on_journey=lambda journey, walk: logged.append("frame 0 is cursed" in caplog.text),
        )
    assert logged[-1]


def test_work_is_dropped_and_counted_when_too_much_of_it_waits(
    graph: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    walks: list[Walk] = []
    monkeypatch.setattr("pipeline.runners.local.Walk", lambda declared, call: Walk(declared, call, patience=2))
    run_local(graph(kept, seconds=0.1), source(40), on_journey=lambda journey, walk: walks.append(walk))
    done = numbers(kept, DrawnFrame)
    assert done == sorted(done)
    assert 0 < walks[-1].dropped["ponder"] < 20
    assert walks[-1].dropped["ponder"] == 20 - len(done) // 2


class Linger(Operator[DrawnFrame, DrawnFrame]):
    """Takes its time, and counts the frames that are still there when it begins."""

    def __init__(self, frames: list[weakref.ref[Any]], alive: list[int]) -> None:
        self._frames, self._alive = frames, alive

    def __call__(self, batch: Sequence[DrawnFrame]) -> list[DrawnFrame]:
        self._alive.append(sum(frame() is not None for frame in self._frames))
        time.sleep(0.1)
        return []


def test_what_waits_aside_does_not_hold_on_to_the_frames_it_came_from(named: Callable[[type], str]) -> None:
    frames: list[weakref.ref[Any]] = []
    alive: list[int] = []
    stages = {
        "decode": Stage(use="operators.decode:Decode"),
        "thumb": Stage(use="pipeline.testing:Sketch", after="decode"),
        "linger": Stage(use=named(Linger), after="thumb", aside=True, args={"frames": frames, "alive": alive}),
    }

    def arrived(journey: Journey, walk: Walk) -> None:
        del walk
        frames.extend(weakref.ref(frame.image) for frame in journey.out["decode"])

    run_local(Graph(stages), MemorySource(raw_chunks(noise(40))), on_journey=arrived)
    assert len(frames) == 40
    assert len(alive) == 10
    assert alive[-1] == 0
