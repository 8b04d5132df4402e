"""The system on Ray in figures: what Ray costs beside the local runner, and the running system from Kafka to Kafka.

``python benchmarks/streaming.py`` measures on this machine, with the demo's clip for the first and a Kafka of its own
for the second (`streaming_kafka.py` says what each figure is), and prints a table, each figure beside its target;
``--json F`` writes the figures, ``--quick`` takes three minutes.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from local import demo  # the scripts beside this one
from memory import chunks
from rich.console import Console
from rich.table import Table
from streaming_kafka import TARGETS as KAFKA_TARGETS

from operators import weights
from pipeline.graph import Graph, load
from pipeline.packets import Chunk
from pipeline.runners.local import run_local
from pipeline.runners.on_ray import Deployments, cluster
from pipeline.scale import load_scale
from pipeline.testing import MemorySource
from pipeline.walk import Journey, Walk

ROOT = Path(__file__).parent.parent
GRAPH = ROOT / "deploy" / "graphs" / "file.yaml"
SCALE = ROOT / "deploy" / "scale" / "laptop.yaml"
TARGETS = {"ray_share_of_local": ">= 0.75"} | KAFKA_TARGETS

Figures = dict[str, Any]


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    quick: Annotated[bool, typer.Option(help="Less of everything.")] = False,
    clip: Annotated[Path | None, typer.Option(help="A video; the demo's if not given.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="A gallery; the demo's if not given.")] = None,
) -> None:
    """Measure and print the table."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if clip is None or gallery is None:
        weights.pull(("models", "clips"))
        clip, gallery = demo()
    graph = load(GRAPH, {"input": str(clip), "gallery": str(gallery)}).up_to("annotate")
    figures: Figures = {"machine": machine(), "load_before": round(os.getloadavg()[0], 1)}
    figures |= cost_of_ray(graph, clip, frames=120 if quick else 240, rounds=2 if quick else 7)
    figures |= kafka_to_kafka(quick=quick)
    Console().print(as_table(figures))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1))


def kafka_to_kafka(*, quick: bool) -> Figures:
    """Throughput, recovery, latency and neighbours, in a process that has measured nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "kafka.json"
        script = Path(__file__).parent / "streaming_kafka.py"
        command = [sys.executable, str(script), "--json", str(figures), *(["--quick"] if quick else [])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found: Figures = json.loads(figures.read_text())
    return found


def cost_of_ray(graph: Graph, clip: Path, *, frames: int, rounds: int) -> Figures:
    """Frames a second of one stream on Ray over those of the local runner, in turns on the same cores.

    The deployments are up before the clock starts, and the local runner has built its stages. Runs alternate, for
    other programs may use the machine: each pair gives a ratio, and the median of the ratios counts. Seconds of
    processor time, summed over all processes, say the same and depend less on who else is there.
    """
    given = list(chunks(clip, frames))
    scale = load_scale(SCALE).model_copy(update={"here": ()})  # it names a stage behind the end of this graph
    with cluster():
        deployments = Deployments(graph, scale)
        elsewhere = deployments.replicas.stages
        timed(graph, given, window=4, threads=6, elsewhere=elsewhere)  # a first run fills the object store's pages
        pairs = [
            (
                timed(graph, given, window=3, threads=2),
                timed(graph, given, window=4, threads=6, elsewhere=elsewhere),
            )
            for _ in range(rounds)
        ]
        deployments.close()
    local, on_ray = ([pair[n] for pair in pairs] for n in (0, 1))
    shares = [there[0] / here[0] for here, there in pairs]
    return {
        "ray_share_of_local": round(statistics.median(shares), 3),
        "ray_share_of_local_range": [round(min(shares), 3), round(max(shares), 3)],
        "ray_frames_per_s": round(statistics.median(rate for rate, _ in on_ray), 1),
        "local_frames_per_s": round(statistics.median(rate for rate, _ in local), 1),
        "ray_cpu_ms_per_frame": round(statistics.median(cpu for _, cpu in on_ray), 1),
        "local_cpu_ms_per_frame": round(statistics.median(cpu for _, cpu in local), 1),
    }


def timed(graph: Graph, given: list[Chunk], **options: Any) -> tuple[float, float]:
    """Frames a second from the first chunk on, and milliseconds of processor time a frame."""
    began, spent, frames = 0.0, 0.0, 0

    def read() -> Iterator[Chunk]:
        nonlocal began, spent
        began, spent = time.perf_counter(), processor_s()
        yield from given

    def arrived(journey: Journey, walk: Walk) -> None:
        nonlocal frames
        del walk
        frames += journey.frames

    run_local(graph, MemorySource(read()), on_journey=arrived, **options)
    return frames / (time.perf_counter() - began), (processor_s() - spent) / frames * 1e3


def processor_s() -> float:
    """Seconds of processor time that this process and all its children have used."""
    used = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def machine() -> str:
    """What the figures were taken on."""
    return f"{platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}"


def as_table(figures: Figures) -> Table:
    """Every figure beside its target."""
    table = Table("figure", "value", "target", box=None)
    for name, value in figures.items():
        table.add_row(name, str(value), TARGETS.get(name, ""))
    return table


if __name__ == "__main__":
    typer.run(main)
