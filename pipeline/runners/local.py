"""One process: the runner of laptops and tests, and the reference for every other."""

from __future__ import annotations

import asyncio
import ctypes
import signal
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any

from pipeline.edges import Source
from pipeline.errors import GraphError, SourceError
from pipeline.graph import Graph
from pipeline.packets import Chunk
from pipeline.runners.worker import Worker
from pipeline.walk import Call, Journey, Walk

M_MMAP_THRESHOLD = -3  # of malloc.h

OnJourney = Callable[[Journey, Walk], None]
Deliver = Callable[[Journey], None]
CallStage = Callable[[Journey, list[Any]], list[Any]]


def run_local(
    graph: Graph,
    source: Source | None = None,
    *,
    window: int = 3,
    threads: int = 2,
    on_journey: OnJourney = lambda journey, walk: None,
    elsewhere: Mapping[str, CallStage] | None = None,
    deliver: Deliver | None = None,
    states: Mapping[str, Mapping[str, Any]] | None = None,
    shared: Mapping[str, Any] | None = None,
) -> None:
    """Run until the source ends, or until Ctrl-C; then what is on its way is finished and the outputs are closed.

    Args:
        graph: What to run.
        source: Replaces the graph's own source.
        window: Micro-batches on their way at once. It bounds memory and gives order and back-pressure.
        threads: Threads that call stages. With 0 everything runs one after the other in the calling
            thread: the reference, which gives the same records.
        on_journey: Told of each finished micro-batch, in order.
        elsewhere: How to call the stages that do not run in this process, by name; none of them is built here.
        deliver: Makes safe what came of a micro-batch, or why nothing came of it; called in order, one after
            the other. Without it the first journey that failed ends the run, and the others are committed.
        states: What the stages remembered of each stream when another worker left off.
        shared: What stages and sinks receive whose constructors have a parameter of that name.

    Raises:
        PipelineError: What ended the first journey that failed; outputs are closed before.
    """
    _give_memory_back()
    with ExitStack() as stack:
        opened = stack.enter_context(closing(source or open_source(graph)))
        here = {n: stack.enter_context(closing(worker)) for n, worker in workers(graph, set(elsewhere or ()), shared)}
        for stream, remembered in (states or {}).items():
            for name, state in remembered.items():
                here[name].restore(stream, state)
        stages: dict[str, CallStage] = {**here, **(elsewhere or {})}
        if threads:
            pools = _pools(graph, threads)
            for pool in set(pools.values()):
                stack.enter_context(pool)
            call = _threaded(stages, pools)
        else:
            call, window = _inline(stages), 1
        asyncio.run(_drive(Walk(graph, call), opened, window, deliver or partial(_commit, opened), on_journey))


def _give_memory_back() -> None:
    """Let a frame go back to the system when it is dropped.

    glibc keeps blocks of a size that was freed before, up to 32 MiB each, in heaps that fragment while threads take
    turns with them: the resident set grew by a fifth over 10,000 frames. A fixed threshold ends that.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


def open_source(graph: Graph) -> Source:
    """The graph's own source, opened.

    Raises:
        GraphError: It declares none.
        SourceError: It cannot be opened.
    """
    if graph.source is None:
        message = "the graph declares no source; add one under `source:`, or give it to `omote serve`"
        raise GraphError(message)
    built: Source = graph.build(graph.source)
    return built


def workers(
    graph: Graph, elsewhere: Set[str] = frozenset(), shared: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Worker]]:
    """Build the stages and sinks of ``graph`` that are not ``elsewhere``; for ``shared`` see ``run_local``."""
    for name in graph.order:
        if name not in elsewhere:
            yield name, Worker(name, graph.build(graph.stages[name], shared))
    for name, sink in graph.sinks.items():
        yield name, Worker(name, graph.build(sink, shared))


def _pools(graph: Graph, threads: int) -> dict[str, ThreadPoolExecutor]:
    """One pool for the hot path, one thread for all that runs aside."""
    hot, cold = ThreadPoolExecutor(threads, "stage"), ThreadPoolExecutor(1, "aside")
    return {name: cold if name in graph.stages and graph.stages[name].aside else hot for name in _names(graph)}


def _names(graph: Graph) -> tuple[str, ...]:
    return (*graph.order, *graph.sinks)


def _threaded(stages: Mapping[str, CallStage], pools: Mapping[str, ThreadPoolExecutor]) -> Call:
    async def call(name: str, journey: Journey, batch: list[Any]) -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(pools[name], stages[name], journey, batch)

    return call


def _inline(stages: Mapping[str, CallStage]) -> Call:
    async def call(name: str, journey: Journey, batch: list[Any]) -> list[Any]:
        return stages[name](journey, batch)

    return call


async def _drive(walk: Walk, source: Source, window: int, deliver: Deliver, on_journey: OnJourney) -> None:
    """Read, and beside it deliver in order: what is done must not wait for a live source to give more."""
    places, under_way = asyncio.Semaphore(window), asyncio.Queue[asyncio.Task[Journey] | None]()
    with _interruptible(source) as stop:
        courier = asyncio.create_task(_deliver(under_way, places, walk, deliver, on_journey))

        def ended(_: asyncio.Task[None]) -> None:
            stop()  # a delivery that failed ends the reading
            places.release()

        courier.add_done_callback(ended)
        chunks, read = iter(source), None
        await places.acquire()
        while not stop.asked and isinstance(read := await asyncio.to_thread(_next, chunks), Chunk):
            under_way.put_nowait(walk.start(read))
            await places.acquire()
        under_way.put_nowait(None)
        await courier
        await walk.settle()
    if isinstance(read, SourceError):
        raise read


async def _deliver(
    under_way: asyncio.Queue[asyncio.Task[Journey] | None],
    places: asyncio.Semaphore,
    walk: Walk,
    deliver: Deliver,
    on_journey: OnJourney,
) -> None:
    while (task := await under_way.get()) is not None:
        journey = await task
        await asyncio.to_thread(deliver, journey)
        on_journey(journey, walk)
        places.release()


def _next(chunks: Iterator[Chunk]) -> Chunk | SourceError | None:
    """The next chunk, or what broke the source: what was read before is finished first."""
    try:
        return next(chunks, None)
    except SourceError as error:
        return error


def _commit(source: Source, journey: Journey) -> None:
    if journey.error is not None:
        raise journey.error
    source.commit(journey.chunk)


class Stop:
    """Asks a source to end; the first Ctrl-C or SIGTERM does, and the second one acts as usual."""

    def __init__(self, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        self._source, self._loop = source, loop
        self.asked = False

    def __call__(self) -> None:
        """Ask; may be asked again."""
        self.asked = True
        _release(self._loop)
        self._source.stop()


@contextmanager
def _interruptible(source: Source) -> Iterator[Stop]:
    loop = asyncio.get_running_loop()
    stop = Stop(source, loop)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
    except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or no such signals here
        pass
    try:
        yield stop
    finally:
        _release(loop)


def _release(loop: asyncio.AbstractEventLoop) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
