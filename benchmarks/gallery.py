"""The gallery in figures: matching, following Redis, open-set decisions on real faces, and the API under load.

``python benchmarks/gallery.py`` prints a table, each figure beside its target; ``--json F`` writes the figures,
``--quick`` takes a few minutes. The real faces lie under ``OMOTE_DATA``. What each figure is, the scripts say that
measure it: `gallery_matching.py`, `gallery_following.py`, `gallery_open_set.py` and `gallery_clients.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from streaming import machine  # the scripts beside this one

HERE = Path(__file__).parent
PARTS = ("matching", "following", "open_set", "clients")
TARGETS = {
    "match_over_bare_matmul_100k": "<= 1.3",
    "recall_at_1_1m": ">= 0.99",
    "p99_ms_1m": "reported",
    "cold_start_s_100k": "< 3",
    "propagation_p99_ms": "< 300",
    "far_measured_over_promised": "<= 1",
    "api_p99_ms_200_clients": "reported",
    "api_errors": "0",
    "lost_after_kill": "0",
}
Figures = dict[str, Any]


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    quick: Annotated[bool, typer.Option(help="Less of everything.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}.")] = None,
) -> None:
    """Measure and print the table."""
    figures: Figures = {"machine": machine(), "load_before": round(os.getloadavg()[0], 1)}
    failed = []
    for part in only or PARTS:
        try:
            figures |= measured(part, quick=quick)
        except subprocess.CalledProcessError:  # it has said why
            failed.append(part)
        if json_file:
            json_file.write_text(json.dumps(figures, indent=1))
    Console().print(as_table(figures))
    if failed:
        Console(stderr=True).print(f"not measured: {', '.join(failed)}; see above")
        raise typer.Exit(1)


def measured(part: str, *, quick: bool) -> Figures:
    """The figures of one script, in a process that has measured nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [
            sys.executable,
            str(HERE / f"gallery_{part}.py"),
            "--json",
            str(file),
            *(["--quick"] if quick else []),
        ]
        subprocess.run(command, check=True)
        found: Figures = json.loads(file.read_text())
    return found


def as_table(figures: Figures) -> Table:
    """The figures that have a target first."""
    table = Table("figure", "measured", "target", box=None)
    for name in (*TARGETS, *(name for name in figures if name not in TARGETS)):
        value = figures.get(name, "-")
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value), TARGETS.get(name, ""))
    return table


if __name__ == "__main__":
    typer.run(main)
