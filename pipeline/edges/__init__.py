"""Where chunks come from and where results go: two protocols, and one file for each kind of edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from pipeline.packets import Chunk

T_contra = TypeVar("T_contra", contravariant=True)


class Source(Protocol):
    """Gives chunks of one or more streams, each stream in order.

    Attributes:
        expected_frames: How many pictures it will give, as far as its container says; 0 if unknown.
    """

    expected_frames: int

    def __iter__(self) -> Iterator[Chunk]: ...

    def commit(self, chunk: Chunk) -> None:
        """Called once everything that came of ``chunk`` is safely written."""

    def stop(self) -> None:
        """Let the iteration end soon, also while it waits; may be called from any thread."""
        return None  # noqa: RET501  (a body of its own makes it optional)

    def close(self) -> None:
        """Release what was opened; called once, also after an error."""


class Sink(Protocol[T_contra]):
    """Takes what came of one micro-batch. An implementation names what it takes: ``class X(Sink[FrameRecord])``."""

    def write(self, batch: Sequence[T_contra]) -> None:
        """Take packets in stream order."""

    def flush(self) -> None:
        """Return once all that was written is safe, so that its source may be committed."""

    def close(self) -> None:
        """Finish the output so that it opens; called once, also after an error or Ctrl-C."""
