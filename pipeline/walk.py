"""The one walk over the graph: the same code on a laptop and on a cluster; only the way to call a stage differs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from pipeline.graph import Graph
from pipeline.packets import Chunk, Frame
from pipeline.records import FrameRecord

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Journey:
    """One micro-batch on its way, and what came of it.

    Attributes:
        chunk: What the source gave.
        started: ``time.perf_counter()`` when it left the source.
        out: Packets that each stage gave.
        states: What each keyed stage remembers of the stream once this batch is in.
        frames: Pictures that came out of it.
        seconds: Time spent in each stage and sink.
        error: What ended it, if anything did.
        failed: Name of the stage or sink where it ended then.
        finished: ``time.perf_counter()`` when its last sink had it.
    """

    chunk: Chunk
    started: float
    out: dict[str, list[Any]] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    frames: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    error: PipelineError | None = None
    failed: str = ""
    finished: float = 0.0


Call = Callable[[str, Journey, list[Any]], Awaitable[list[Any]]]  # stage or sink, whose batch, batch -> packets


@dataclass(slots=True)
class Passage:
    """Lets the next journey know which ordered stages this one has left behind."""

    passed: dict[str, asyncio.Event]


class Walk:
    """Takes journeys through the graph.

    Journeys overlap. Stages that keep state, and sinks, meet them in the order in which they set out;
    stages without state meet them as they come. Stages marked ``aside`` are not waited for: they run
    one by one, newest work is dropped when more than ``patience`` batches wait, and drops are counted.
    A sink takes one batch at a time, whichever stage it comes from.

    Attributes:
        busy: What is being computed now, newest last.
        dropped: Batches that aside stages did not get, by stage.
    """

    def __init__(self, graph: Graph, call: Call, patience: int = 64) -> None:
        self._graph, self._call, self._patience = graph, call, patience
        self._ordered = {name for name in graph.order if graph.keyed(name)} | set(graph.sinks)
        self._last = self._passage(done=True)
        asides = [name for name, stage in graph if stage.aside]
        self._doors = {
            name: asyncio.Lock() for name in (*asides, *graph.sinks)
        }  # one at a time, first come first served
        self._asides: set[asyncio.Task[None]] = set()
        self._failed: PipelineError | None = None
        self._waiting: dict[str, int] = {}
        self.busy: list[str] = []
        self.dropped: dict[str, int] = {}

    def start(self, chunk: Chunk) -> asyncio.Task[Journey]:
        """Set out; call it in the order of the source."""
        before, own = self._last, self._passage()
        self._last = own
        return asyncio.create_task(self._travel(Journey(chunk, time.perf_counter()), before, own))

    async def settle(self) -> None:
        """Wait for what runs aside.

        Raises:
            PipelineError: The first that failed aside.
        """
        await asyncio.gather(*self._asides)
        if self._failed is not None:
            raise self._failed

    def _passage(self, *, done: bool = False) -> Passage:
        passed = {name: asyncio.Event() for name in self._ordered}
        for event in passed.values() if done else ():
            event.set()
        return Passage(passed)

    async def _travel(self, journey: Journey, before: Passage, own: Passage) -> Journey:
        out = journey.out
        try:
            for name, stage in self._graph:
                batch = [packet for up in stage.after for packet in out[up]] if stage.after else [journey.chunk]
                if stage.aside:
                    self._set_aside(name, journey, batch)
                    out[name] = []
                    continue
                out[name] = _stamp(await self._visit(name, batch, journey, before, own), journey)
                journey.frames = journey.frames or sum(isinstance(packet, Frame) for packet in out[name])
            await asyncio.gather(*(self._deliver(name, journey, before, own) for name in self._graph.sinks))
        except PipelineError as error:
            journey.error = error
        finally:
            await self._clear(before, own)
        journey.finished = time.perf_counter()
        return journey

    async def _clear(self, before: Passage, own: Passage) -> None:
        """Let the next journey pass where this one never came, but not past the one before."""
        for name, event in own.passed.items():
            if not event.is_set():
                await before.passed[name].wait()
                event.set()

    async def _deliver(self, name: str, journey: Journey, before: Passage, own: Passage) -> None:
        batch = [packet for up in self._graph.sinks[name].after for packet in journey.out[up]]
        await self._visit(name, batch, journey, before, own)

    async def _visit(self, name: str, batch: list[Any], journey: Journey, before: Passage, own: Passage) -> list[Any]:
        if name in self._ordered:
            await before.passed[name].wait()
        ends = journey.chunk.last and name in self._graph.stages  # a stage with state may have something left to say
        given = await self._timed(name, batch, journey) if batch or (ends and name in self._ordered) else []
        if name in self._ordered:
            own.passed[name].set()
        return given

    async def _timed(self, name: str, batch: list[Any], journey: Journey) -> list[Any]:
        self.busy.append(name)
        since = time.perf_counter()
        try:
            async with self._doors.get(name) or nullcontext():
                return await self._call(name, journey, batch)
        except PipelineError:
            journey.failed = name
            raise
        finally:
            self.busy.remove(name)
            journey.seconds[name] = time.perf_counter() - since

    def _set_aside(self, name: str, journey: Journey, batch: list[Any]) -> None:
        if not batch:
            return
        if self._waiting.get(name, 0) >= self._patience:
            self.dropped[name] = self.dropped.get(name, 0) + 1
            return
        self._waiting[name] = self._waiting.get(name, 0) + 1
        alone = Journey(journey.chunk, journey.started)  # what waits must not hold on to the frames of the others
        task = asyncio.create_task(self._run_aside(name, alone, batch))
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _run_aside(self, name: str, journey: Journey, batch: list[Any]) -> None:
        try:
            async with self._doors[name]:
                given = await self._call(name, journey, batch)
                for sink in [sink for sink, stage in self._graph.sinks.items() if given and name in stage.after]:
                    async with self._doors[sink]:
                        await self._call(sink, journey, given)
        except PipelineError as error:
            log.warning("stream %r, aside: %s", journey.chunk.stream, error)  # a run for ever never settles
            self._failed = self._failed or error
        finally:
            self._waiting[name] -= 1


def _stamp(packets: Sequence[Any], journey: Journey) -> list[Any]:
    """Frame records learn here, where alone it is known, what each stage took: milliseconds a frame."""
    if not any(isinstance(packet, FrameRecord) for packet in packets):
        return list(packets)
    share = 1e3 / max(journey.frames, 1)
    timings = {name: round(seconds * share, 3) for name, seconds in journey.seconds.items()}
    timings["e2e"] = round((time.perf_counter() - journey.started) * 1e3, 3)
    return [p.model_copy(update={"timings_ms": timings}) if isinstance(p, FrameRecord) else p for p in packets]
