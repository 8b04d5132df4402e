"""Arguments and options that several verbs share, declared once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.compute import Compute
from pipeline.errors import GraphError
from pipeline.graph import Graph, load

DEPLOY = Path(__file__).parents[2] / "deploy"  # the graphs, scale files and rules that omote comes with

GraphFile = Annotated[Path, typer.Argument(help="The YAML file that declares the graph.", show_default=False)]
Values = Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Values of the graph's variables.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; fails where cuda is asked for and is not there.")]
Engine = Annotated[str, typer.Option(help="auto, onnx, openvino or torch.")]
Threads = Annotated[int, typer.Option(min=0, help="Threads that call stages; 0 runs one stage after the other.")]
Window = Annotated[int, typer.Option(min=1, help="Micro-batches on their way at once.")]


def values(given: list[str] | None) -> dict[str, str]:
    """``name=value`` pairs as a mapping.

    Raises:
        GraphError: One of them has no ``=``.
    """
    if stray := [item for item in given or () if "=" not in item]:
        message = f"{stray[0]!r} is no NAME=VALUE; the variables of a graph are given like input=clip.mp4"
        raise GraphError(message)
    return dict(item.split("=", 1) for item in given or ())


def loaded(path: Path, given: list[str] | None, device: str = "auto", engine: str = "auto") -> Graph:
    """The graph at ``path``, on the device and engine that the command line asks for.

    Raises:
        GraphError: See ``load``; or a device or engine of that name does not exist.
    """
    graph = load(path, values(given))
    return replace(graph, compute=chosen(graph.compute, device, engine))


def chosen(compute: Compute, device: str, engine: str) -> Compute:
    """``compute`` on the device and engine that the command line asks for; ``auto`` leaves what was declared.

    Raises:
        GraphError: A device or engine of that name does not exist.
    """
    asked = {key: value for key, value in (("device", device), ("engine", engine)) if value != "auto"}
    try:
        return Compute(**{**compute.model_dump(), **asked})
    except ValueError as error:
        message = f"there is no device {device!r} or engine {engine!r}; see `omote run --help`"
        raise GraphError(message) from error
