"""Every promise that a runner makes, kept by every runner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.edges import Sink, Source
from pipeline.errors import GraphError, SinkError, SourceError, StageError
from pipeline.graph import Graph, Stage
from pipeline.operator import KeyedOperator
from pipeline.packets import Chunk, Frame
from pipeline.records import FrameRecord
from pipeline.runners.local import run_local
from pipeline.testing import MemorySource, noise, raw_chunks
from pipeline.walk import Journey, Walk

Run = Callable[..., None]


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


class Diary(Sink[object]):
    """Writes down what it is told; may fail when it sees the frame ``at``."""

    def __init__(self, entries: list[Any], at: int = -1) -> None:
        self._entries, self._at = entries, at

    def write(self, batch: Sequence[Any]) -> None:
        if any(frame.seq == self._at for frame in batch):
            message = "cannot write diary: the pen is dry; buy ink"
            raise SinkError(message)
        self._entries.append(("write", [frame.seq for frame in batch]))

    def flush(self) -> None:
        self._entries.append(("flush",))

    def close(self) -> None:
        self._entries.append(("close",))


@pytest.fixture(autouse=True)
def declared(named: Callable[[type], str]) -> None:
    for kind in (Count, Diary):
        named(kind)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where ``Logged`` writes."""
    return tmp_path / "log"


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
    fragile = graph(entries, pause=stage("Fragile", "decode", at=[20]))
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
    with pytest.raises(error, match=r"^frame 20 is cursed$"):
        run(graph(pause=stage("Fragile", "decode", at=[20], error=error)), source)
    assert [chunk.seq for chunk in source.committed] == list(range(10))


def test_nothing_but_the_error_is_told_when_every_batch_fails(
    run: Run, capfd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cursed = graph(fragile=stage("Fragile", "pause", at=list(range(40)), error=SourceError))
    with pytest.raises(SourceError, match="frame 0 is cursed"):
        run(cursed, MemorySource(chunks()))
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
    late = graph(entries, pause=stage("Fragile", "decode", at=[4]), count=stage(named(Late), "pause"))
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


def logged(name: str, after: str, log: Path, *, fails: bool = False) -> Stage:
    return stage("Logged", after, name=name, log=str(log), fails=fails)


def entries_of(log: Path, what: str) -> list[str]:
    return [name for did, name in map(str.split, log.read_text().splitlines()) if did == what]


def test_everything_that_was_built_is_closed(run: Run, log: Path) -> None:
    source = MemorySource(chunks(4))
    run(graph(a=logged("a", "decode", log), b=logged("b", "a", log)), source)
    assert entries_of(log, "built") == ["a", "b"]
    assert sorted(entries_of(log, "closed")) == ["a", "b"]
    assert source.closed


def test_everything_that_was_built_is_closed_when_a_later_stage_cannot_be(run: Run, log: Path) -> None:
    source = MemorySource(chunks(4))
    with pytest.raises(GraphError, match="b cannot be built"):
        run(graph(a=logged("a", "decode", log), b=logged("b", "a", log, fails=True)), source)
    assert set(entries_of(log, "built")) == {"a"}
    assert entries_of(log, "closed") == entries_of(log, "built")  # a cluster tries it twice
    assert source.closed
    assert source.read == 0


def test_everything_that_was_built_is_closed_when_a_stage_fails(run: Run, log: Path) -> None:
    declared = graph(pause=stage("Fragile", "decode", at=[3]), a=logged("a", "decode", log))
    with pytest.raises(StageError):
        run(declared, MemorySource(chunks()))
    assert entries_of(log, "closed") == ["a"]


def test_a_graph_without_a_source_wants_one() -> None:
    with pytest.raises(
        GraphError, match="the graph declares no source; add one under `source:`, or give it to `omote serve`"
    ):
        run_local(graph())


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
