"""The local runner in figures: how much the pipeline costs, how it compares, whether memory grows, whether it is right.

``python benchmarks/local.py`` measures on the demo clip (1280x720, four people) and prints a table. ``--json F`` writes
the figures, ``--quick`` finishes within a minute on less data, ``--facenet`` also installs facenet-pytorch, which
brings an old CUDA build of PyTorch (2 GB) into an environment of its own.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import memory as memory_script  # the scripts beside this one
import orl
import psutil
import typer
from rich.console import Console
from rich.table import Table

from operators import weights
from operators.engine import resolve
from pipeline.commands.bench import measure
from pipeline.graph import Graph, load
from pipeline.runners.local import run_local
from pipeline.testing import MemorySource
from pipeline.walk import Journey, Walk

ROOT = Path(__file__).parent.parent
GRAPH = ROOT / "deploy" / "graphs" / "file.yaml"
TARGETS = {
    "share_of_bare_model_time": ">= 0.90",
    "speedup_vs_facenet_pytorch": ">= 5",
    "speedup_vs_face_recognition": ">= 5",
    "rss_growth": "<= 1.05",
    "orl_rank1": "1.000",
    "orl_tar_at_1e2": ">= 0.99",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """Another library and how to install it beside us: arguments of pip, one list a call."""

    name: str
    script: str
    installs: tuple[tuple[str, ...], ...]


FACENET = Peer("facenet_pytorch", "facenet_pytorch_loop.py", (("facenet-pytorch==2.6.0", "av==18.1.0"),))
DLIB = Peer(
    "face_recognition",
    "face_recognition_loop.py",
    (
        ("--no-deps", "face-recognition==1.3.0", "face-recognition-models==0.3.0", "dlib-bin==20.0.1.post1"),
        ("setuptools<81", "numpy", "pillow", "click", "av==18.1.0"),
    ),
)


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    quick: Annotated[bool, typer.Option(help="Less data, within a minute; says what it leaves out.")] = False,
    facenet: Annotated[bool, typer.Option(help="Install facenet-pytorch (2 GB) and compare with it.")] = False,
) -> None:
    """Measure and print the table."""
    weights.pull(("models", "clips", "benchmarks"))
    clip, gallery = demo()
    graph = load(GRAPH, {"input": str(clip), "gallery": str(gallery)})
    figures: dict[str, Any] = {"device": resolve(graph.compute)[0], "machine": machine(), "left_out": []}
    figures |= speed(graph, quick=quick)
    figures |= with_video(graph, clip, frames=100 if quick else 500)
    figures |= compared(clip, figures, quick=quick, facenet=facenet)
    figures |= {} if quick else memory(clip, gallery)
    figures["left_out"] += ["rss_growth"] if quick else []
    figures |= orl.measure(20 if quick else 40)
    Console().print(as_table(figures))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1))


def demo() -> tuple[Path, Path]:
    """The demo clip and its gallery, made if they are not there."""
    folder = weights.cache() / "demo"
    gallery = folder / "gallery.npz"
    subprocess.run([sys.executable, "-m", "deploy.demo.compose", str(folder)], cwd=ROOT, check=True)
    if not gallery.exists():
        enrol = [sys.executable, "-m", "pipeline", "enrol", str(GRAPH), str(folder / "enrol"), "--into", str(gallery)]
        subprocess.run([*enrol, "--keep-photos"], cwd=ROOT, check=True)
    return folder / "demo.mp4", gallery


def speed(graph: Graph, *, quick: bool) -> dict[str, Any]:
    """The pipeline against its own nets, with no sink."""
    found = measure(graph.up_to("annotate"), frames=96 if quick else 320, rounds=1 if quick else 5, threads=2, window=3)
    return found.figures


def with_video(graph: Graph, clip: Path, frames: int) -> dict[str, Any]:
    """The whole graph with everything written: JSON lines, the annotated MP4, the report and its explanations."""
    with tempfile.TemporaryDirectory() as folder:
        sinks = {
            name: sink.model_copy(update={"args": sink.args | {"path": f"{folder}/{Path(sink.args['path']).name}"}})
            for name, sink in graph.sinks.items()
        }
        source = MemorySource(memory_script.chunks(clip, frames))
        since, journeys = time.perf_counter(), [0, 0.0]

        def arrived(journey: Journey, walk: Walk) -> None:
            del walk
            journeys[0] += journey.frames
            journeys[1] = journeys[1] or time.perf_counter() - since

        run_local(replace(graph, sinks=sinks), source, on_journey=arrived)
        took = time.perf_counter() - since
    return {
        "frames_per_s_with_mp4_and_report": round(journeys[0] / took, 2),
        "first_annotated_frames_s": round(journeys[1], 2),
    }


def compared(clip: Path, ours: dict[str, Any], *, quick: bool, facenet: bool) -> dict[str, Any]:
    """Frames a second of others on the same clip in the same run, and how many times as fast we are."""
    figures: dict[str, Any] = {"left_out": list(ours["left_out"])}
    for peer in (FACENET, DLIB):
        python = weights.cache() / "peers" / peer.name / "bin" / "python"
        if not python.exists() and (quick or (peer is FACENET and not facenet)):
            figures["left_out"].append(f"speedup_vs_{peer.name}")
            continue
        rates = [peer_rate(peer, python, clip, 6 if quick else 20) for _ in range(1 if quick else 3)]
        figures[f"{peer.name}_frames_per_s"] = round(statistics.median(rates), 3)
        figures[f"speedup_vs_{peer.name}"] = round(ours["frames_per_s"] / statistics.median(rates), 2)
    return figures


def peer_rate(peer: Peer, python: Path, clip: Path, frames: int) -> float:
    """Frames a second of a peer, in an environment of its own."""
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        for arguments in peer.installs:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)
    script = Path(__file__).parent / "peers" / peer.script
    done = subprocess.run(
        [str(python), str(script), str(clip), str(frames)], check=True, capture_output=True, text=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    return float(said["frames"] / said["seconds"])


def memory(clip: Path, gallery: Path) -> dict[str, Any]:
    """Whether memory grows over 10,000 frames, in a process that has measured nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "memory.json"
        script = Path(__file__).parent / "memory.py"
        subprocess.run(
            [sys.executable, str(script), str(clip), str(gallery), "--json", str(figures)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found: dict[str, Any] = json.loads(figures.read_text())
    return found


def machine() -> str:
    """What the figures were taken on."""
    return (
        f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}"
    )


def as_table(figures: dict[str, Any]) -> Table:
    """Every figure beside its target."""
    table = Table("figure", "value", "target", box=None)
    for name, value in figures.items():
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value), TARGETS.get(name, ""))
    return table


if __name__ == "__main__":
    typer.run(main)
