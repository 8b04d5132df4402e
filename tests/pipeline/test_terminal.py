"""What others have written is shown as it is, and gives no orders to the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.commands.serve import watch
from pipeline.commands.terminal import plain
from pipeline.serving.streams import StreamView
from tests.support.memory_streams import camera


class Seen:
    """A system in which one stream was seen, until Ctrl-C."""

    def __init__(self, view: StreamView) -> None:
        self._views = iter([view])

    def streams(self) -> list[StreamView]:
        for view in self._views:
            return [view]
        raise KeyboardInterrupt


def test_what_looks_like_markup_is_shown() -> None:
    assert plain("cam[/x] [red]").plain == "cam[/x] [red]"


def test_what_would_give_orders_to_the_terminal_is_not() -> None:
    assert plain("a\x1b[2J\n").plain == "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}"


def test_an_id_of_any_letters_does_not_end_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.commands.serve.LOOK_S", 0.0)
    console = Console(file=io.StringIO(), width=80)
    with pytest.raises(KeyboardInterrupt):
        watch(console, Seen(camera("cam[/x]", "rejected", reason="[b] is full\x1b")))  # type: ignore[arg-type]
    assert console.file.getvalue().split(maxsplit=1) == [  # type: ignore[attr-defined]
        "cam[/x]",
        "rejected: [b] is full\N{REPLACEMENT CHARACTER}\n",
    ]
