"""``omote schema``: the published JSON Schema of the records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import schemas


def schema(
    kind: Annotated[str, typer.Argument(help="frame, track, ...; lists the kinds if not given.")] = "",
    write: Annotated[Path | None, typer.Option(help="Write all of them into this folder.")] = None,
) -> None:
    """Print the JSON Schema of a kind of record."""
    if write:
        for file in schemas.publish(write):
            typer.echo(file)
    elif kind:
        typer.echo(schemas.text(kind), nl=False)
    else:
        for short, name in schemas.kinds().items():
            typer.echo(f"{short:14} {name:26} {schemas.schema(short)['description']}")
