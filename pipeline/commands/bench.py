"""``omote bench``: what each stage costs, how fast the whole is, and how much of the bare nets' speed is left."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from pipeline.commands.options import Device, Engine, GraphFile, Threads, Values, Window, loaded
from pipeline.errors import SourceError
from pipeline.graph import Graph
from pipeline.packets import Chunk
from pipeline.runners.local import open_source, run_local
from pipeline.runners.worker import Worker
from pipeline.tape import Tape
from pipeline.testing import MemorySource
from pipeline.walk import Journey, Walk


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured; times in seconds for ``frames`` frames, medians over the rounds.

    Attributes:
        frames: Frames of each round.
        wall_s: The pipeline, from the first chunk read to the last record out, with no sink.
        decode_s: Decoding alone.
        nets_s: The nets alone, one call after the other, each on all cores.
        saturated_s: Decoding and nets alone, on as many threads at once as the pipeline has: the best the
            cores could do.
        stages_s: Each stage, when nothing runs beside it.
        latencies_s: From a chunk's reading to its last record, one for each micro-batch.
    """

    frames: int
    wall_s: float
    decode_s: float
    nets_s: float
    saturated_s: float
    stages_s: dict[str, float]
    latencies_s: list[float]

    @property
    def figures(self) -> dict[str, float]:
        """Flat, with units in the names."""
        p50, p95, p99 = (float(np.percentile(self.latencies_s, q)) * 1e3 for q in (50, 95, 99))
        return {
            "frames": self.frames,
            "frames_per_s": round(self.frames / self.wall_s, 2),
            "share_of_bare_model_time": round((self.decode_s + self.nets_s) / self.wall_s, 4),
            "share_of_saturated_model_time": round(self.saturated_s / self.wall_s, 4),
            "e2e_p50_ms": round(p50, 1),
            "e2e_p95_ms": round(p95, 1),
            "e2e_p99_ms": round(p99, 1),
            **{f"{name}_ms_per_frame": round(s / self.frames * 1e3, 3) for name, s in self.stages_s.items()},
        }


def bench(
    graph: GraphFile,
    variables: Values = None,
    until: Annotated[str, typer.Option(help="Measure the graph up to this stage.")] = "annotate",
    frames: Annotated[int, typer.Option(min=16, help="Frames to measure on.")] = 320,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 3,
    device: Device = "auto",
    engine: Engine = "auto",
    threads: Threads = 2,
    window: Window = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure a graph on this machine, with no sink."""
    declared = loaded(graph, variables, device, engine)
    found = measure(declared.up_to(until), frames=frames, rounds=rounds, threads=threads, window=window)
    console = Console()
    console.print(as_table(found))
    for name, value in found.figures.items():
        if not name.endswith("_per_frame"):
            console.print(f"{name:<32}{value:>10}", highlight=False)
    if json_file:
        json_file.write_text(json.dumps(found.figures, indent=1))


def measure(graph: Graph, *, frames: int, rounds: int, threads: int, window: int) -> Bench:
    """Measure ``graph`` on the first ``frames`` units of its source.

    Raises:
        SourceError: The source gives nothing.
    """
    chunks = _first(graph, frames)
    cores = os.cpu_count() or 1
    alone, one_by_one = _recorded(graph, chunks, cores)
    _, at_once = _recorded(graph, chunks, graph.compute.threads)
    runs = [
        (
            _timed_run(graph, chunks, threads, window),
            _decoding(graph, chunks),
            _replay(one_by_one, 1),
            _replay(at_once, max(threads, 1)),
        )
        for _ in range(rounds)
    ]
    walls, decodings, nets, saturated = zip(*runs, strict=True)
    return Bench(
        frames=sum(journey.frames for journey in alone),
        wall_s=statistics.median(wall for wall, _ in walls),
        decode_s=statistics.median(decodings),
        nets_s=statistics.median(nets),
        saturated_s=statistics.median(decodings) / max(threads, 1) + statistics.median(saturated),
        stages_s=dict(sum((Counter(journey.seconds) for journey in alone), Counter())),
        latencies_s=[latency for _, latencies in walls for latency in latencies],
    )


def as_table(found: Bench) -> Table:
    """Milliseconds a frame and share of each stage."""
    table = Table("stage", "ms/frame", "share", box=None, title="each stage alone, nothing beside it")
    total = sum(found.stages_s.values())
    for name, seconds in found.stages_s.items():
        table.add_row(name, f"{seconds / found.frames * 1e3:.2f}", f"{seconds / total:.0%}")
    return table


def _first(graph: Graph, frames: int) -> list[Chunk]:
    source = open_source(graph)
    try:
        chunks, count = [], 0
        for chunk in islice(source, frames):
            chunks.append(chunk)
            count += len(chunk.units)
            if count >= frames:
                break
    finally:
        source.close()
    if not chunks:
        message = "the source gives nothing to measure on"
        raise SourceError(message)
    return chunks


def _run(graph: Graph, chunks: list[Chunk], threads: int, window: int) -> list[Journey]:
    journeys: list[Journey] = []

    def arrived(journey: Journey, walk: Walk) -> None:
        del walk
        journey.out.clear()
        journeys.append(journey)

    run_local(graph, MemorySource(chunks), threads=threads, window=window, on_journey=arrived)
    return journeys


def _recorded(graph: Graph, chunks: list[Chunk], threads: int) -> tuple[list[Journey], Tape]:
    """One stage after the other, the nets on ``threads`` threads, and what they were given."""
    tape = Tape()
    compute = graph.compute.model_copy(update={"tape": tape, "threads": threads})
    return _run(replace(graph, compute=compute), chunks, 0, 1), tape


def _timed_run(graph: Graph, chunks: list[Chunk], threads: int, window: int) -> tuple[float, list[float]]:
    journeys = _run(graph, chunks, threads, window)
    wall = max(j.finished for j in journeys) - min(j.started for j in journeys)
    return wall, [journey.finished - journey.started for journey in journeys]


def _decoding(graph: Graph, chunks: list[Chunk]) -> float:
    """The stages that take chunks, alone."""
    workers = [Worker(name, graph.build_stage(name)) for name, stage in graph if not stage.after]
    since = time.perf_counter()
    for chunk in chunks:
        for worker in workers:
            worker(Journey(chunk, since), [chunk])
    took = time.perf_counter() - since
    for worker in workers:
        worker.close()
    return took


def _replay(tape: Tape, threads: int) -> float:
    """The nets alone, on the batches of the tape, ``threads`` calls at once."""
    with ThreadPoolExecutor(threads) as pool:
        since = time.perf_counter()
        for done in [pool.submit(net, *arguments) for _, net, arguments in tape.calls]:
            done.result()
        return time.perf_counter() - since
