"""One process: the runner of laptops and tests, and the reference for every other."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from pipeline.edges import Source
from pipeline.errors import GraphError, SourceError
from pipeline.graph import Graph
from pipeline.packets import Chunk
from pipeline.runners.worker import Worker
from pipeline.walk import Journey, Walk

OnJourney = Callable[[Journey, Walk], None]


def run_local(
    graph: Graph,
    source: Source | None = None,
    *,
    window: int = 3,
    threads: int = 2,
    on_journey: OnJourney = lambda journey, walk: None,
) -> None:
    """Run until the source ends, or until Ctrl-C; then what is on its way is finished and the outputs are closed.

    Args:
        graph: What to run.
        source: Replaces the graph's own source.
        window: Micro-batches on their way at once. It bounds memory and gives order and back-pressure.
        threads: Threads that call stages. With 0 everything runs one after the other in the calling
            thread: the reference, which gives the same records.
        on_journey: Told of each finished micro-batch, in order.

    Raises:
        PipelineError: What ended the first journey that failed; outputs are closed before.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(closing(source or open_source(graph)))
        workers = {name: stack.enter_context(closing(worker)) for name, worker in _workers(graph)}
        if threads:
            pools = _pools(graph, threads)
            for pool in set(pools.values()):
                stack.enter_context(pool)
            call = _threaded(workers, pools)
        else:
            call, window = _inline(workers), 1
        asyncio.run(_drive(Walk(graph, call), opened, window, on_journey))


def open_source(graph: Graph) -> Source:
    """The graph's own source, opened.

    Raises:
        GraphError: It declares none.
        SourceError: It cannot be opened.
    """
    if graph.source is None:
        message = "the graph declares no source; add one under `source:` or give an input"
        raise GraphError(message)
    built: Source = graph.build(graph.source)
    return built


def _workers(graph: Graph) -> Iterator[tuple[str, Worker]]:
    for name in graph.order:
        yield name, Worker(name, graph.build_stage(name))
    for name, sink in graph.sinks.items():
        yield name, Worker(name, graph.build(sink))


def _pools(graph: Graph, threads: int) -> dict[str, ThreadPoolExecutor]:
    """One pool for the hot path, one thread for all that runs aside."""
    hot, cold = ThreadPoolExecutor(threads, "stage"), ThreadPoolExecutor(1, "aside")
    return {name: cold if name in graph.stages and graph.stages[name].aside else hot for name in _names(graph)}


def _names(graph: Graph) -> tuple[str, ...]:
    return (*graph.order, *graph.sinks)


def _threaded(workers: dict[str, Worker], pools: dict[str, ThreadPoolExecutor]) -> Callable[..., Awaitable[list[Any]]]:
    async def call(name: str, journey: Journey, batch: list[Any]) -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(pools[name], workers[name], journey, batch)

    return call


def _inline(workers: dict[str, Worker]) -> Callable[..., Awaitable[list[Any]]]:
    async def call(name: str, journey: Journey, batch: list[Any]) -> list[Any]:
        return workers[name](journey, batch)

    return call


async def _drive(walk: Walk, source: Source, window: int, on_journey: OnJourney) -> None:
    under_way: deque[asyncio.Task[Journey]] = deque()
    with _interruptible() as stopped:
        chunks, read = iter(source), None
        while not stopped.is_set() and isinstance(read := await asyncio.to_thread(_next, chunks), Chunk):
            under_way.append(walk.start(read))
            if len(under_way) >= window:
                _arrive(await under_way.popleft(), walk, source, on_journey)
        while under_way:
            _arrive(await under_way.popleft(), walk, source, on_journey)
        await walk.settle()
    if isinstance(read, SourceError):
        raise read


def _next(chunks: Iterator[Chunk]) -> Chunk | SourceError | None:
    """The next chunk, or what broke the source: what was read before is finished first."""
    try:
        return next(chunks, None)
    except SourceError as error:
        return error


def _arrive(journey: Journey, walk: Walk, source: Source, on_journey: OnJourney) -> None:
    if journey.error is not None:
        raise journey.error
    source.commit(journey.chunk)
    on_journey(journey, walk)


@contextmanager
def _interruptible() -> Iterator[asyncio.Event]:
    """The first Ctrl-C or SIGTERM asks to stop after what is under way; the second one acts as usual."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopped.set()
        _release(loop)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
    except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or no such signals here
        pass
    try:
        yield stopped
    finally:
        _release(loop)


def _release(loop: asyncio.AbstractEventLoop) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
