"""What others have written, as text for a terminal."""

from __future__ import annotations

from rich.text import Text


def plain(text: str, style: str = "") -> Text:
    """``text`` where nothing is markup, nor an order to the terminal."""
    return Text(harmless(text), style)


def harmless(text: str) -> str:
    """``text`` without anything that gives orders to a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
