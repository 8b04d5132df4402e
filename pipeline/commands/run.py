"""``omote run``: run a graph here, watch it, and say at the end who was seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.commands.options import Device, Engine, GraphFile, Threads, Values, Window, loaded
from pipeline.commands.terminal import plain
from pipeline.edges import Source
from pipeline.errors import GraphError, SourceError
from pipeline.graph import Graph
from pipeline.records import FrameRecord, TrackRecord
from pipeline.runners.local import OnJourney, open_source, run_local
from pipeline.scale import Scale, load_scale
from pipeline.walk import Journey, Walk


def run(
    graph: GraphFile,
    variables: Values = None,
    device: Device = "auto",
    engine: Engine = "auto",
    threads: Threads = 2,
    window: Window = 3,
    on: Annotated[Literal["local", "ray"], typer.Option(help="In this process, or on a Ray cluster.")] = "local",
    scale: Annotated[Path | None, typer.Option(help="On Ray: the file of replicas and resources.")] = None,
    address: Annotated[str, typer.Option(help="On Ray: the cluster; one is started here if empty.")] = "",
) -> None:
    """Run a graph until its source ends or until Ctrl-C."""
    console = Console(stderr=True)
    declared = loaded(graph, variables, device, engine)
    source = open_source(declared)
    tally = Tally()
    with _progress(console, source.expected_frames) as watch:

        def arrived(journey: Journey, walk: Walk) -> None:
            tally.take(journey)
            tally.dropped = walk.dropped
            watch(tally, walk)

        if on == "ray":
            _on_ray(declared, source, scale, address, window, arrived)
        else:
            run_local(declared, source, window=window, threads=threads, on_journey=arrived)
    if tally.units and not tally.frames:
        message = f"none of the {tally.units} units of the input could be decoded; re-encode it or choose another"
        raise SourceError(message)
    console.print(tally.table())
    console.print(tally.summary(), highlight=False)
    for name, path in outputs(declared):
        console.print(plain(f"  {name:<14}{path}"), soft_wrap=True)


def _on_ray(graph: Graph, source: Source, scale: Path | None, address: str, window: int, on_journey: OnJourney) -> None:
    try:
        from pipeline.runners.on_ray import cluster, run_on_ray  # noqa: PLC0415  (an extra)
    except ImportError as error:
        message = "Ray is not installed here: install omote[ray], or run with --on local"
        raise GraphError(message) from error
    with cluster(address):
        run_on_ray(graph, load_scale(scale) if scale else Scale(), source, window=window, on_journey=on_journey)


class Tally:
    """What a run has seen so far: frames, speed, and the last word on each track."""

    def __init__(self) -> None:
        self.units = self.frames = self.faces = self.lost = 0
        self.tracks: dict[str, TrackRecord] = {}
        self.dropped: dict[str, int] = {}
        self._since = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time since the run began."""
        return time.perf_counter() - self._since

    def take(self, journey: Journey) -> None:
        """Count what a journey gave."""
        self.units += len(journey.chunk.units)
        self.frames += journey.frames
        for packet in (packet for packets in journey.out.values() for packet in packets):
            self._count(packet)

    def _count(self, packet: Any) -> None:
        if isinstance(packet, FrameRecord):
            self.faces += len(packet.faces)
            self.lost += packet.frame.dropped_before
        elif isinstance(packet, TrackRecord):
            self.tracks[packet.track_id] = packet

    def summary(self) -> str:
        """One line for the terminal."""
        lost = f", {self.lost} damaged units lost" if self.lost else ""
        aside = "".join(f", {count} batches of {name} dropped" for name, count in self.dropped.items())
        speed = self.frames / max(self.seconds, 1e-9)
        return f"{self.frames} frames, {self.faces} faces in {self.seconds:.1f} s ({speed:.1f} frames/s){lost}{aside}"

    def table(self) -> Table:
        """One row a track."""
        table = Table("track", "who", "mask", "emotion", "from", "to", "frames", "best quality", box=None)
        for track, record in self.tracks.items():
            after = record.after
            who = f"{after.decision}: {after.subject_id}" if after.subject_id else after.decision
            first, last = (f"{ns / 1e9:.2f} s" for ns in (after.first_pts_ns, after.last_pts_ns))
            cells = [track, who, after.mask, after.emotion or "–", first, last]
            table.add_row(*map(plain, (*cells, str(after.frames), f"{after.best_quality:.2f}")))
        return table


def outputs(graph: Graph) -> Iterator[tuple[str, Path]]:
    """The files that the sinks of a graph have written."""
    for name, sink in graph.sinks.items():
        if "path" in sink.args and Path(sink.args["path"]).exists():
            yield name, Path(sink.args["path"])


@contextmanager
def _progress(console: Console, expected: int) -> Iterator[Any]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[fps]:.1f} frames/s"), TimeElapsedColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as bar:
        task: TaskID = bar.add_task("starting", total=expected or None, fps=0.0)

        def watch(tally: Tally, walk: Walk) -> None:
            stage = walk.busy[-1] if walk.busy else "reading"
            fps = tally.frames / max(tally.seconds, 1e-9)
            bar.update(task, completed=tally.frames, description=f"{stage:<12}", fps=fps)

        yield watch
