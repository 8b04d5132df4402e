"""``omote doctor``: which device, which weights, which versions, and what is wrong."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Literal, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

import pipeline
from pipeline.commands.options import Device, Engine, chosen
from pipeline.compute import Compute

LIBRARIES = ("omote", "torch", "onnxruntime", "openvino", "av", "opencv-python-headless", "numpy", "captum")
MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "wrong": "[red]wrong[/]"}


class Finding(NamedTuple):
    """One line of the doctor: what was looked at, how it is, and what to do."""

    name: str
    state: Literal["ok", "note", "wrong"]
    text: str


Check = Callable[[Compute], Iterator[Finding]]


def doctor(device: Device = "auto", engine: Engine = "auto") -> None:
    """Look at this installation; exit with 1 if something that was asked for is not there."""
    found = list(findings(chosen(Compute(), device, engine)))
    table = Table("what", "state", "", box=None)
    for finding in found:
        table.add_row(finding.name, MARKS[finding.state], finding.text)
    Console().print(table)
    if any(finding.state == "wrong" for finding in found):
        raise typer.Exit(1)


def findings(compute: Compute) -> Iterator[Finding]:
    """What every check finds; packages beside the engine bring theirs by the entry point ``omote.checks``."""
    yield Finding("machine", "ok", f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    yield Finding("code", "ok", str(Path(pipeline.__file__).parent.parent))
    for library in LIBRARIES:
        yield _installed(library)
    for point in entry_points(group="omote.checks"):
        check: Check = point.load()
        yield from check(compute)


def _installed(library: str) -> Finding:
    try:
        return Finding(library, "ok", version(library))
    except PackageNotFoundError:
        return Finding(library, "note", "not installed")
