"""``omote dlq``: messages that could not be worked on; see why, and send them back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.commands.broker import Prefix, Servers, settings
from pipeline.errors import SinkError

app = typer.Typer(help="Messages that could not be worked on: see why, and send them back.", no_args_is_help=True)
Names = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `omote dlq list` shows them.")]


@app.command("list")
def list_letters(servers: Servers = "", prefix: Prefix = "") -> None:
    """Show the dead letters that were not sent back yet."""
    found = settings(servers, prefix)
    from pipeline.edges.dead_letters import identity, letters  # noqa: PLC0415  (an extra)

    table = Table("id", "when", "stream", "stage", "error", "attempts", "bytes", "from", box=None)
    for letter in letters(found):
        said = letter.said
        origin = f"{said.get('dlq-origin-topic')} {said.get('dlq-origin-partition')}:{said.get('dlq-origin-offset')}"
        error = f"{said.get('dlq-error-class', '')}: {said.get('dlq-error', '')}"
        when, stage, attempts = (said.get(f"dlq-{name}", "") for name in ("time", "stage", "attempts"))
        table.add_row(identity(letter), when, letter.stream, stage, error, attempts, _size(letter.value), origin)
    Console().print(table if table.row_count else "no dead letters", markup=False, highlight=False)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="As `omote dlq list` shows it.")],
    servers: Servers = "",
    prefix: Prefix = "",
    out: Annotated[Path | None, typer.Option(help="Write the bytes of the message here.")] = None,
) -> None:
    """Show everything that is known of one dead letter."""
    found = settings(servers, prefix)
    from pipeline.edges.dead_letters import chosen  # noqa: PLC0415  (an extra)

    letter = chosen(found, [name])[0]
    table = Table("header", "value", box=None)
    for header, value in sorted(letter.said.items()):
        table.add_row(header, value)
    Console().print(table, f"{_size(letter.value)} bytes", highlight=False, markup=False)
    if out:
        try:
            out.write_bytes(letter.value or b"")
        except OSError as error:
            message = f"cannot write {out}: {error.strerror}"
            raise SinkError(message) from error


@app.command()
def replay(
    names: Names = None,
    servers: Servers = "",
    prefix: Prefix = "",
    everything: Annotated[bool, typer.Option("--all", help="Send back every dead letter.")] = False,
) -> None:
    """Send dead letters back to the topic they came from, each of them once."""
    if bool(names) == everything:
        message = "name the dead letters to send back, or give --all"
        raise typer.BadParameter(message)
    found = settings(servers, prefix)
    from pipeline.edges.dead_letters import chosen  # noqa: PLC0415  (an extra)
    from pipeline.edges.dead_letters import replay as send_back  # noqa: PLC0415

    letters = chosen(found, names or [])
    if letters:
        send_back(found, letters)
    Console().print(f"{len(letters)} sent back", highlight=False)


def _size(value: bytes | None) -> str:
    return str(len(value or b""))
