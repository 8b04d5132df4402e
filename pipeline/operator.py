"""The two shapes of an operator: a function of its batch, and a function of its batch and its stream's state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")
State = TypeVar("State")


class Operator(ABC, Generic[In, Out]):
    """Turns a batch of packets into zero or more packets; what it gives depends on the batch alone.

    An operator is built where it runs, so ``__init__`` may load weights and open devices;
    once built it is ready. It knows nothing of Ray, queues or its neighbours, and it may be
    called from several threads at once.
    """

    @abstractmethod
    def __call__(self, batch: Sequence[In]) -> Iterable[Out]:
        """Process packets of one stream, in stream order."""

    def close(self) -> None:
        """Release what ``__init__`` took."""


class KeyedOperator(ABC, Generic[In, Out, State]):
    """Turns the state of a stream and a batch into the next state and zero or more packets.

    It runs only in the stream's own worker, one batch after the other. The state is a plain
    value: a frozen dataclass of numbers, strings, tuples and arrays that can be pickled. It is
    never edited in place, so that a batch that failed leaves the state as it was.
    """

    @abstractmethod
    def start(self, stream: str) -> State:
        """The state of a stream before its first packet."""

    @abstractmethod
    def __call__(self, state: State, batch: Sequence[In]) -> tuple[State, Iterable[Out]]:
        """Process packets of one stream, in stream order."""

    def finish(self, state: State) -> Iterable[Out]:
        """What is left to say once the stream is over; called once, after its last batch."""
        return ()

    def close(self) -> None:
        """Release what ``__init__`` took."""
