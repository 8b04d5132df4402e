"""Remembers what nets were given, so that the bare time of the nets can be measured on the same batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Net = Callable[..., tuple[Any, ...]]


@dataclass(slots=True)
class Tape:
    """Calls of nets, in the order in which they were made.

    Attributes:
        calls: Name of the net, the net, and its arguments.
    """

    calls: list[tuple[str, Net, tuple[Any, ...]]] = field(default_factory=list)

    def recording(self, name: str, net: Net) -> Net:
        """``net``, with every call of it kept."""

        def run(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, net, arguments))
            return net(*arguments)

        return run
