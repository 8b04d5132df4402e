"""Holds one operator or sink where it runs, keeps the state of its streams, and names it in errors."""

from __future__ import annotations

import logging
from typing import Any

from pipeline.errors import PipelineError, StageError
from pipeline.operator import KeyedOperator
from pipeline.walk import Journey

log = logging.getLogger(__name__)


class Worker:
    """Calls what a stage or sink of the graph was built into."""

    def __init__(self, name: str, built: Any) -> None:
        self._name, self._built = name, built
        self._states: dict[str, Any] = {}

    def __call__(self, journey: Journey, batch: list[Any]) -> list[Any]:
        """What the operator gives for ``batch``; nothing for a sink. A new state is left in ``journey`` too.

        Raises:
            StageError: The operator failed; the state of the stream is as it was before.
            SinkError: The output cannot be written.
        """
        try:
            return self._run(journey, batch)
        except PipelineError:
            raise
        except Exception as error:
            raise StageError(self._name, f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Release what was built."""
        self._built.close()

    def restore(self, stream: str, state: Any) -> None:
        """Go on with ``state``, which another worker left behind; with none that an operator of another kind left."""
        kind = type(self._built.start(stream))
        if type(state) is kind:
            self._states[stream] = state
        else:
            what = f"a {type(state).__name__} was remembered, not a {kind.__name__}"
            log.warning("stage %r begins stream %r anew: %s", self._name, stream, what)

    def _run(self, journey: Journey, batch: list[Any]) -> list[Any]:
        if isinstance(self._built, KeyedOperator):
            stream = journey.chunk.stream
            state = self._states.get(stream)
            state, given = self._built(self._built.start(stream) if state is None else state, batch)
            out = [*given, *(self._built.finish(state) if journey.chunk.last else ())]
            self._states[stream] = journey.states[self._name] = state
            if journey.chunk.last:
                del self._states[stream]
            return out
        if hasattr(self._built, "write"):
            self._built.write(batch)
            self._built.flush()
            return []
        return list(self._built(batch))
