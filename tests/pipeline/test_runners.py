"""Every promise that a runner makes, kept by every runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from pipeline.edges import Sink, Source
from pipeline.errors import GraphError, SinkError, SourceError, StageError
from pipeline.graph import Graph, Stage
from pipeline.operator import KeyedOperator, Operator
from pipeline.packets import Chunk, Frame
from pipeline.records import FrameRecord
from pipeline.runners.local import run_local
from pipeline.runners.worker import Worker
from pipeline.testing import MemorySource, noise, raw_chunks
from pipeline.walk import Journey, Walk

Run = Callable[..., None]

# A runner and how many micro-batches it lets be on their way; the next runner is one more line.
RUNNERS = {
    "local, one after the other": (lambda *a, **k: run_local(*a, threads=0, window=1, **k), 1),
    "local, 2 threads": (lambda *a, **k: run_local(*a, threads=2, window=3, **k), 3),
    "local, 4 threads": (lambda *a, **k: run_local(*a, threads=4, window=5, **k), 5),
}


@pytest.fixture(params=RUNNERS)
def run(request: pytest.FixtureRequest) -> Run:
    return RUNNERS[request.param][0]


@pytest.fixture
def window(request: pytest.FixtureRequest) -> int:
    return RUNNERS[request.node.callspec.params["run"]][1]


class Count(KeyedOperator[Frame, Frame, tuple[int, ...]]):
    """Remembers the numbers of the frames of its stream, and shows how many there were as the time of each frame."""

    def start(self, stream: str) -> tuple[int, ...]:
        return ()

    def __call__(self, state: tuple[int, ...], batch: Sequence[Frame]) -> tuple[tuple[int, ...], list[Frame]]:
        out = []
        for frame in batch:
            state = (*state, frame.seq)
            out.append(replace(frame, pts_ns=len(state)))
        return state, out


class Fragile(Operator[Frame, Frame]):
    """Raises when it meets the frame ``at``."""

    def __init__(self, at: int = -1, error: type[Exception] = ValueError) -> None:
        self._at, self._error = at, error

    def __call__(self, batch: Sequence[Frame]) -> list[Frame]:
        if any(frame.seq == self._at for frame in batch):
            message = f"frame {self._at} is cursed"
            raise self._error(message)
        return list(batch)


class Diary(Sink[object]):
    """Writes down what it is told; may fail when it sees the frame ``at``."""

    def __init__(self, entries: list[Any], at: int = -1, seconds: float = 0.0) -> None:
        self._entries, self._at, self._seconds = entries, at, seconds
        self._busy = threading.Lock()

    def write(self, batch: Sequence[Any]) -> None:
        if not self._busy.acquire(blocking=False):
            message = "two threads write at once"
            raise RuntimeError(message)
        with_fault = any(frame.seq == self._at for frame in batch)
        time.sleep(self._seconds)
        self._busy.release()
        if with_fault:
            message = "cannot write diary: the pen is dry; buy ink"
            raise SinkError(message)
        self._entries.append(("write", [frame.seq for frame in batch]))

    def flush(self) -> None:
        self._entries.append(("flush",))

    def close(self) -> None:
        self._entries.append(("close",))


class Register(Operator[Frame, Frame]):
    """Counts who was built and who was closed."""

    built: ClassVar[list[str]] = []
    closed: ClassVar[list[str]] = []

    def __init__(self, name: str, fails: bool = False) -> None:
        if fails:
            message = f"{name} cannot be built"
            raise GraphError(message)
        self._name = name
        self.built.append(name)

    def __call__(self, batch: Sequence[Frame]) -> list[Frame]:
        return list(batch)

    def close(self) -> None:
        self.closed.append(self._name)


@pytest.fixture(autouse=True)
def declared(named: Callable[[type], str]) -> None:
    for kind in (Count, Fragile, Diary, Register):
        named(kind)
    Register.built.clear()
    Register.closed.clear()


def stage(use: str, after: str | tuple[str, ...] = (), *, aside: bool = False, **arguments: object) -> Stage:
    path = use if ":" in use else f"pipeline.testing:{use}"
    return Stage(use=path, after=after, aside=aside, args=arguments)


def graph(entries: list[Any] | None = None, **stages: Stage) -> Graph:
    """decode → pause (of uneven length) → count → a sink, and what is added."""
    usual = {
        "decode": stage("operators.decode:Decode"),
        "pause": stage("Pause", "decode", seconds=0.004),
        "count": stage("Count", "pause"),
    }
    sinks = {} if entries is None else {"diary": stage("Diary", "count", entries=entries)}
    return Graph({**usual, **stages}, sinks=sinks)


def chunks(frames: int = 40, stream: str = "camera") -> list[Chunk]:
    return raw_chunks(noise(frames, 8, 8), stream, units=2)


def written(entries: list[Any]) -> list[int]:
    return [seq for entry in entries if entry[0] == "write" for seq in entry[1]]


def frames_of(run: Run, given: Sequence[Chunk], declared: Graph) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    last = declared.order[-1]

    def arrived(journey: Journey, walk: Walk) -> None:
        found.extend((frame.stream, frame.seq, frame.pts_ns) for frame in journey.out[last])

    run(declared, MemorySource(given), on_journey=arrived)
    return found


def test_packets_arrive_in_the_order_of_the_source_however_long_each_batch_takes(run: Run) -> None:
    assert frames_of(run, chunks(), graph()) == [("camera", n, n + 1) for n in range(40)]


def test_sinks_are_given_packets_in_the_order_of_the_source(run: Run) -> None:
    entries: list[Any] = []
    run(graph(entries), MemorySource(chunks()))
    assert written(entries) == list(range(40))
    assert entries[-1] == ("close",)


def test_streams_keep_their_states_apart(run: Run) -> None:
    pairs = zip(chunks(20, "a"), chunks(20, "b"), strict=True)
    found = frames_of(run, [chunk for pair in pairs for chunk in pair], graph())
    for stream in ("a", "b"):
        assert [each for each in found if each[0] == stream] == [(stream, n, n + 1) for n in range(20)]


def test_the_source_is_never_read_further_ahead_than_the_window(run: Run, window: int) -> None:
    source = MemorySource(chunks())
    ahead: list[int] = []
    run(graph(), source, on_journey=lambda journey, walk: ahead.append(source.read - journey.chunk.seq))
    assert len(ahead) == 20
    assert max(ahead) <= window


def test_a_chunk_is_committed_only_after_every_sink_has_it(run: Run) -> None:
    entries: list[Any] = []

    class Committing(MemorySource):
        def commit(self, chunk: Chunk) -> None:
            entries.append(("commit", chunk.seq))

    run(graph(entries), Committing(chunks(12)))
    for number in range(6):
        at = entries.index(("commit", number))
        assert entries.index(("write", [2 * number, 2 * number + 1])) < at
        assert entries[:at].count(("flush",)) > number
    assert [entry[1] for entry in entries if entry[0] == "commit"] == list(range(6))


def test_a_stage_that_fails_is_named_with_its_cause_and_outputs_are_closed(run: Run) -> None:
    entries: list[Any] = []
    source = MemorySource(chunks())
    fragile = graph(entries, pause=stage("Fragile", "decode", at=20))
    with pytest.raises(StageError, match=r"^stage 'pause' failed: ValueError: frame 20 is cursed$") as error:
        run(fragile, source)
    assert (error.value.stage, error.value.cause) == ("pause", "ValueError: frame 20 is cursed")
    assert set(range(20)) <= set(written(entries))
    assert not {20, 21} & set(written(entries))
    assert entries.count(("close",)) == 1
    assert source.closed
    assert [chunk.seq for chunk in source.committed] == list(range(10))


@pytest.mark.parametrize("error", [SourceError, GraphError])
def test_what_omote_raises_on_purpose_comes_out_as_it_is(run: Run, error: type[Exception]) -> None:
    source = MemorySource(chunks())
    with pytest.raises(error, match="^frame 20 is cursed$"):
        run(graph(pause=stage("Fragile", "decode", at=20, error=error)), source)
    assert [chunk.seq for chunk in source.committed] == list(range(10))


class AlwaysCursed(Operator[Frame, Frame]):
    """Refuses every batch, the first one last."""

    def __call__(self, batch: Sequence[Frame]) -> list[Frame]:
        time.sleep(0.05 if batch[0].seq == 0 else 0)
        message = "no picture will do"
        raise SourceError(message)


def test_nothing_but_the_error_is_told_when_every_batch_fails(
    run: Run, named: Callable[[type], str], capfd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SourceError, match="no picture will do"):
        run(graph(pause=stage(named(AlwaysCursed), "decode")), MemorySource(chunks()))
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_sink_that_fails_ends_the_run_and_its_chunk_is_not_committed(run: Run) -> None:
    entries: list[Any] = []
    source = MemorySource(chunks())
    declared = replace(graph(), sinks={"diary": stage("Diary", "count", entries=entries, at=6)})
    with pytest.raises(SinkError, match="the pen is dry; buy ink"):
        run(declared, source)
    assert [chunk.seq for chunk in source.committed] == [0, 1, 2]
    assert entries.count(("close",)) == 1


class Late(KeyedOperator[Frame, Frame, int]):
    """Takes its time with the second batch."""

    def start(self, stream: str) -> int:
        return 0

    def __call__(self, state: int, batch: Sequence[Frame]) -> tuple[int, list[Frame]]:
        time.sleep(0.1 if batch[0].seq == 2 else 0)
        return state, list(batch)


def test_a_failed_batch_lets_none_overtake_the_one_before(run: Run, named: Callable[[type], str]) -> None:
    entries: list[Any] = []
    late = graph(entries, pause=stage("Fragile", "decode", at=4), count=stage(named(Late), "pause"))
    with pytest.raises(StageError):
        run(late, MemorySource(chunks(8)))
    assert written(entries) == sorted(written(entries))


class Broken(Source):
    """Gives three chunks and breaks."""

    expected_frames = 0

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.closed = False

    def __iter__(self) -> Iterator[Chunk]:
        yield from chunks(6)
        message = "cannot read camera: it was unplugged"
        raise SourceError(message)

    def commit(self, chunk: Chunk) -> None:
        self.committed.append(chunk.seq)

    def close(self) -> None:
        self.closed = True


def test_what_was_read_before_the_source_broke_is_finished(run: Run) -> None:
    entries: list[Any] = []
    source = Broken()
    with pytest.raises(SourceError, match="it was unplugged"):
        run(graph(entries), source)
    assert source.committed == [0, 1, 2]
    assert written(entries) == list(range(6))
    assert entries[-1] == ("close",)
    assert source.closed


def test_everything_that_was_built_is_closed(run: Run) -> None:
    source = MemorySource(chunks(4))
    run(graph(a=stage("Register", "decode", name="a"), b=stage("Register", "a", name="b")), source)
    assert Register.built == ["a", "b"]
    assert sorted(Register.closed) == ["a", "b"]
    assert source.closed


def test_everything_that_was_built_is_closed_when_a_later_stage_cannot_be(run: Run) -> None:
    source = MemorySource(chunks(4))
    with pytest.raises(GraphError, match="b cannot be built"):
        run(
            graph(a=stage("Register", "decode", name="a"), b=stage("Register", "a", name="b", fails=True)),
            source,
        )
    assert Register.closed == ["a"]
    assert source.closed
    assert source.read == 0


def test_everything_that_was_built_is_closed_when_a_stage_fails(run: Run) -> None:
    declared = graph(pause=stage("Fragile", "decode", at=3), a=stage("Register", "decode", name="a"))
    with pytest.raises(StageError):
        run(declared, MemorySource(chunks()))
    assert Register.closed == ["a"]


def test_a_graph_without_a_source_wants_one() -> None:
    with pytest.raises(GraphError, match="the graph declares no source; add one under `source:` or give an input"):
        run_local(graph())


# Beside the hot path


class Slow(Operator[Frame, Frame]):
    def __init__(self, seconds: float, done: list[int], fails: bool = False) -> None:
        self._seconds, self._done, self._fails = seconds, done, fails

    def __call__(self, batch: Sequence[Frame]) -> list[Frame]:
        time.sleep(self._seconds)
        if self._fails:
            message = "no idea why"
            raise ValueError(message)
        self._done += [frame.seq for frame in batch]
        return list(batch)


def with_aside(path: str, entries: list[Any], seconds: float, done: list[int], fails: bool = False) -> Graph:
    usual = graph(aside=stage(path, "count", aside=True, seconds=seconds, done=done, fails=fails))
    return replace(usual, sinks={"diary": stage("Diary", ("count", "aside"), entries=entries, seconds=0.002)})


def test_a_stage_that_runs_aside_is_waited_for_at_the_end_only(
    run: Run, window: int, named: Callable[[type], str]
) -> None:
    entries: list[Any] = []
    done: list[int] = []
    at_last_commit: list[int] = []
    run(
        with_aside(named(Slow), entries, 0.02, done),
        MemorySource(chunks(16)),
        on_journey=lambda journey, walk: at_last_commit.append(len(done)),
    )
    assert done == list(range(16))
    assert at_last_commit[-1] < 16 or window == 1  # one after the other there is no beside
    assert sorted(written(entries)) == sorted([*range(16), *range(16)])


def test_a_sink_is_never_entered_twice_at_once(run: Run, named: Callable[[type], str]) -> None:
    entries: list[Any] = []
    run(with_aside(named(Slow), entries, 0.0, []), MemorySource(chunks(60)))
    assert sorted(written(entries)) == sorted([*range(60), *range(60)])


def test_a_stage_that_fails_aside_is_told_at_the_end(run: Run, named: Callable[[type], str]) -> None:
    entries: list[Any] = []
    source = MemorySource(chunks(16))
    with pytest.raises(StageError, match="stage 'aside' failed: ValueError: no idea why"):
        run(with_aside(named(Slow), entries, 0.0, [], fails=True), source)
    assert len(source.committed) == 8
    assert entries[-1] == ("close",)


def test_work_aside_is_dropped_and_counted_when_too_much_of_it_waits(
    named: Callable[[type], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    walks: list[Walk] = []
    monkeypatch.setattr("pipeline.runners.local.Walk", lambda graph, call: Walk(graph, call, patience=2))
    declared = graph(aside=stage(named(Slow), "count", aside=True, seconds=0.1, done=done))
    run_local(declared, MemorySource(chunks(40)), on_journey=lambda journey, walk: walks.append(walk))
    assert done == sorted(done)
    assert walks[-1].dropped["aside"] == 20 - len(done) // 2
    assert 0 < walks[-1].dropped["aside"] < 20


# What each record learns of its way


def test_records_carry_the_time_that_each_stage_took(run: Run) -> None:
    records: list[Any] = []
    declared = graph(annotate=stage("operators.annotate:Annotate", "decode"))
    declared = replace(declared, sinks={"memory": stage("MemorySink", "annotate", kept=records)})
    run(declared, MemorySource(chunks(8)))
    assert [record.frame.seq for record in records] == list(range(8))
    for record in records:
        assert isinstance(record, FrameRecord)
        assert {"decode", "annotate", "e2e"} <= set(record.timings_ms)
        assert all(milliseconds >= 0 for milliseconds in record.timings_ms.values())


# The worker, which every runner uses


class Sulking(KeyedOperator[int, int, tuple[int, ...]]):
    """Refuses the number 3, but only after it has begun to work."""

    def start(self, stream: str) -> tuple[int, ...]:
        return ()

    def __call__(self, state: tuple[int, ...], batch: Sequence[int]) -> tuple[tuple[int, ...], Iterator[int]]:
        return (*state, *batch), self._numbers(state, batch)

    def _numbers(self, state: tuple[int, ...], batch: Sequence[int]) -> Iterator[int]:
        for number in batch:
            if number == 3:
                message = "not three"
                raise ValueError(message)
            yield number + len(state)


def test_a_failed_batch_leaves_the_state_as_it_was() -> None:
    worker = Worker("sulk", Sulking())
    assert worker("a", [1, 2]) == [1, 2]
    with pytest.raises(StageError, match="stage 'sulk' failed: ValueError: not three"):
        worker("a", [4, 3])
    assert worker("a", [5]) == [7]
    assert worker("b", [5]) == [5]
