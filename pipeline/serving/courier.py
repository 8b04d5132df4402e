"""Delivers what comes of a stream: records, states and position together, or not at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pipeline.edges.delivery import DeadLetter, Delivery
from pipeline.edges.kafka_settings import TooLargeError
from pipeline.edges.video_messages import BrokerChunk, Poison
from pipeline.errors import PipelineError, StageError, UnavailableError
from pipeline.graph import Graph, Stage
from pipeline.packets import Chunk
from pipeline.runners.worker import Worker
from pipeline.state_codec import encode
from pipeline.walk import Journey

log = logging.getLogger(__name__)

TRACE = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # what W3C calls traceparent

OnDelivered = Callable[[Journey], None]


class SetBackError(PipelineError):
    """The stages have seen in part what did not go through: begin again, with the states from before it.

    Attributes:
        suspects: Offsets of the messages of which one is to blame: give them one by one. Empty where it is known
            which, and that one is among the dead letters.
    """

    def __init__(self, message: str, suspects: Collection[int] = ()) -> None:
        super().__init__(message, suspects)
        self.suspects = suspects

    def __str__(self) -> str:
        return str(self.args[0])


class Courier:
    """Delivers journeys in order: what a message gave is safe together with the states it left, or not at all."""

    def __init__(
        self,
        graph: Graph,
        delivery: Delivery,
        states: Mapping[str, Mapping[str, Any]],
        on_delivered: OnDelivered = lambda journey: None,
    ) -> None:
        """Open the sinks that take part.

        Args:
            graph: Its sinks after stages that are waited for take part; those after stages aside stand alone.
            delivery: What makes everything safe.
            states: What was remembered of each stream.
            on_delivered: Told of each journey that is safe.
        """
        self._delivery, self._on_delivered, self._open = delivery, on_delivered, False
        self._states = {stream: dict(of) for stream, of in states.items()}
        shared = {"delivery": delivery}
        self._sinks = [(sink.after, Worker(name, graph.build(sink, shared))) for name, sink in hot(graph).items()]
        self.failed: dict[str, int] = {}

    def __call__(self, journey: Journey) -> None:
        """Deliver what came of ``journey``, or put its messages among the dead letters.

        Raises:
            SetBackError: The stages must forget that they saw them: they are among the dead letters, or, where
                there are several, must come one by one.
            UnavailableError: A stage could not be called, which is not the fault of the messages.
            SinkError: It cannot be made safe; this worker must begin again.
        """
        chunk, error = journey.chunk, journey.error
        if isinstance(chunk, Poison):  # no stage has seen anything of it
            self._reject(chunk, "read", "SourceError", chunk.reason)
        elif isinstance(error, UnavailableError):
            raise error
        elif error is not None:
            self._set_back(chunk, journey.failed, error)
        else:
            try:
                self._deliver(chunk, journey)
            except (TooLargeError, StageError) as refused:  # it would be again
                self._set_back(chunk, getattr(refused, "stage", "deliver"), refused)
            else:
                self._on_delivered(journey)

    def close(self) -> None:
        """Close the sinks; the delivery is closed by whoever opened it."""
        for _, sink in self._sinks:
            sink.close()

    def _deliver(self, chunk: Chunk, journey: Journey) -> None:
        if not self._open:
            self._delivery.begin()
            self._open = True
        remembered = {**self._states.get(chunk.stream, {}), **journey.states}
        self._states[chunk.stream] = remembered
        self._delivery.traces = _traces(chunk)
        for after, sink in self._sinks:
            sink(journey, [packet for up in after for packet in journey.out[up]])
        if isinstance(chunk, BrokerChunk) and chunk.partial:
            return
        states = {chunk.stream: b"" if chunk.last else encode(remembered)}
        self._delivery.commit(states, chunk.position, chunk.watermark if isinstance(chunk, BrokerChunk) else None)
        self._open = False
        if chunk.last:
            del self._states[chunk.stream]

    def _set_back(self, chunk: Chunk, stage: str, error: PipelineError) -> None:
        if isinstance(chunk, BrokerChunk) and len(chunk.messages) > 1:
            self._abort()
            message = f"one of {len(chunk.messages)} messages of stream {chunk.stream!r} is to blame: {error}"
            raise SetBackError(message, [each.offset for each in chunk.messages]) from error
        if isinstance(chunk, BrokerChunk):
            self._reject(chunk, stage, type(error).__name__, str(error))
            message = f"message {chunk.seq} of stream {chunk.stream!r} is a dead letter: {error}"
            raise SetBackError(message) from error
        self._abort()  # a camera does not wait, and its next picture makes up for this one
        self.failed[stage] = self.failed.get(stage, 0) + len(chunk.units)
        log.warning("stream %r lost %d units: %s", chunk.stream, len(chunk.units), error)

    def _reject(self, chunk: BrokerChunk, stage: str, error_class: str, error: str) -> None:
        self._abort()
        letters = [DeadLetter(message, stage, error_class, error) for message in chunk.messages]
        self._delivery.reject(letters, chunk.position, chunk.watermark)

    def _abort(self) -> None:
        if self._open:
            self._open = False
            self._delivery.abort()


def _traces(chunk: Chunk) -> list[tuple[int, str]]:
    """The trace of each message, from its first picture on; empty where it has none."""
    messages = chunk.messages if isinstance(chunk, BrokerChunk) else ()
    traces = [message.said.get("traceparent", "") for message in messages]
    pairs = zip(chunk.units, traces, strict=False)  # a container has more units, all of one message
    return [(unit.pts_ns or 0, trace if TRACE.fullmatch(trace) else "") for unit, trace in pairs]


def hot(graph: Graph) -> dict[str, Stage]:
    """The sinks whose packets are waited for."""
    return {name: s for name, s in graph.sinks.items() if not any(graph.stages[up].aside for up in s.after)}
