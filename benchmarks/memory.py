"""Whether memory grows: the demo clip over and over through the whole graph, with no sink.

Runs in a process of its own, for what other measurements leave behind would blur the figure. ``rss_growth`` is the
resident set after the last frame over the resident set after frame 1,000; 1.0 means none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from pipeline.edges.files import VideoFile
from pipeline.graph import Graph, load
from pipeline.packets import Chunk
from pipeline.runners.local import run_local
from pipeline.testing import MemorySource
from pipeline.walk import Journey, Walk

GRAPH = Path(__file__).parent.parent / "deploy" / "graphs" / "file.yaml"
CLIP_NS = 20_000_000_000


def main(
    clip: Annotated[Path, typer.Argument(help="A video.")],
    gallery: Annotated[Path, typer.Argument(help="A gallery.")],
    frames: Annotated[int, typer.Option(help="Frames in all.")] = 10_000,
    after: Annotated[int, typer.Option(help="Frames after which memory is looked at first.")] = 1_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure and print."""
    graph = load(GRAPH, {"input": str(clip), "gallery": str(gallery)})
    figures = measure(graph, clip, frames, after)
    print(json.dumps(figures, indent=1))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1))


def measure(graph: Graph, clip: Path, frames: int, after: int) -> dict[str, Any]:
    """Resident set at the end over the resident set after ``after`` frames; records are made and let go."""
    process, seen, early = psutil.Process(), 0, 0

    def arrived(journey: Journey, walk: Walk) -> None:
        nonlocal seen, early
        del walk
        seen += journey.frames
        if seen >= after and not early:
            early = process.memory_info().rss

    run_local(replace(graph, sinks={}), MemorySource(chunks(clip, frames)), on_journey=arrived)
    late = process.memory_info().rss
    return {"rss_growth": round(late / early, 4), "rss_frames": seen, "rss_mb": round(late / 2**20)}


def chunks(clip: Path, frames: int) -> Iterator[Chunk]:
    """The clip over and over, as one stream whose clock and numbers go on."""
    given, shift_ns, first = 0, 0, 0
    while given < frames:
        source = VideoFile(str(clip))
        played = list(source)
        source.close()
        for chunk in played:
            units = tuple(
                replace(u, pts_ns=(u.pts_ns or 0) + shift_ns, dts_ns=(u.dts_ns or 0) + shift_ns) for u in chunk.units
            )
            yield replace(chunk, seq=first + chunk.seq, units=units, last=False)
            given += len(units)
            if given >= frames:
                return
        shift_ns, first = shift_ns + CLIP_NS, first + len(played)


if __name__ == "__main__":
    typer.run(main)
