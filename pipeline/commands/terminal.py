"""What all verbs show in a terminal, and how."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="Everything, for programs.")]


def console(*, errors: bool = False) -> Console:
    """The terminal; as wide as a table needs where it is none."""
    stream = sys.stderr if errors else sys.stdout
    return Console(stderr=errors, highlight=False, width=None if stream.isatty() else 200)


def plain(text: str, style: str = "") -> Text:
    """``text`` where nothing is markup, nor an order to the terminal."""
    return Text(harmless(text), style)


def harmless(text: str) -> str:
    """``text`` without anything that gives orders to a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
