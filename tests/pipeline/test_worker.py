"""The worker, which every runner uses, keeps the state of each stream and names what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from pipeline.errors import StageError
from pipeline.operator import KeyedOperator
from pipeline.packets import Chunk, Codec
from pipeline.runners.worker import Worker
from pipeline.walk import Journey


def journey(stream: str, *, last: bool = False) -> Journey:
    return Journey(Chunk(stream, 0, 0, 0, Codec("still"), (), last=last), 0.0)


class Sulking(KeyedOperator[int, int, tuple[int, ...]]):
    """Refuses the number 3, but only after it has begun to work."""

    def start(self, stream: str) -> tuple[int, ...]:
        return ()

    def __call__(self, state: tuple[int, ...], batch: Sequence[int]) -> tuple[tuple[int, ...], Iterator[int]]:
        return (*state, *batch), self._numbers(state, batch)

    def finish(self, state: tuple[int, ...]) -> tuple[int, ...]:
        return (sum(state),)

    def _numbers(self, state: tuple[int, ...], batch: Sequence[int]) -> Iterator[int]:
        for number in batch:
            if number == 3:
                message = "not three"
                raise ValueError(message)
            yield number + len(state)


def test_a_failed_batch_leaves_the_state_as_it_was() -> None:
    worker = Worker("sulk", Sulking())
    assert worker(journey("a"), [1, 2]) == [1, 2]
    with pytest.raises(StageError, match="stage 'sulk' failed: ValueError: not three"):
        worker(journey("a"), [4, 3])
    assert worker(journey("a"), [5]) == [7]
    assert worker(journey("b"), [5]) == [5]


def test_an_operator_has_the_last_word_once_its_stream_is_over() -> None:
    worker = Worker("sulk", Sulking())
    assert worker(journey("a"), [1, 2]) == [1, 2]
    assert worker(journey("a", last=True), []) == [3]


def test_a_stream_that_is_over_leaves_nothing_behind_and_begins_anew() -> None:
    worker = Worker("sulk", Sulking())
    ended = journey("a", last=True)
    worker(ended, [1, 2])
    assert ended.states == {"sulk": (1, 2)}
    assert worker(journey("a"), [5]) == [5]


def test_a_journey_keeps_the_state_that_its_batch_left() -> None:
    worker, first, second = Worker("sulk", Sulking()), journey("a"), journey("a")
    worker(first, [1])
    worker(second, [2])
    assert (first.states, second.states) == ({"sulk": (1,)}, {"sulk": (1, 2)})


def test_a_restored_state_is_gone_on_with() -> None:
    worker = Worker("sulk", Sulking())
    worker.restore("a", (7, 8))
    assert worker(journey("a"), [1]) == [3]


def test_a_state_that_another_kind_of_operator_left_is_told_and_begun_anew(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker("sulk", Sulking())
    worker.restore("a", {"who": 7})
    assert worker(journey("a"), [1]) == [1]
    assert caplog.messages == ["stage 'sulk' begins stream 'a' anew: a dict was remembered, not a tuple"]
