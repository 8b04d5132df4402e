"""Analyse one partition of the video topic: take over where the last worker left off, deliver, go on for ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from pipeline.edges import Sink
from pipeline.edges.delivery import DeadLetter, Delivery, Transactions
from pipeline.edges.from_kafka import KafkaSource
from pipeline.edges.kafka_settings import KafkaSettings, TooLargeError
from pipeline.edges.video_messages import BrokerChunk, Poison
from pipeline.graph import Graph
from pipeline.runners.local import CallStage, OnJourney, run_local
from pipeline.state_codec import decode, encode
from pipeline.walk import Journey

OnSource = Callable[[KafkaSource], None]


class Courier:
    """Delivers journeys in order: what a message gave is safe together with the states it left, or not at all."""

    def __init__(self, graph: Graph, delivery: Delivery, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Open the sinks that take part.

        Args:
            graph: Its sinks after stages that are waited for take part; those after stages aside stand alone.
            delivery: What makes everything safe.
            states: What was remembered of each stream.
        """
        self._delivery, self._open = delivery, False
        self._states = {stream: dict(of) for stream, of in states.items()}
        shared = {"delivery": delivery}
        self._sinks: list[tuple[tuple[str, ...], Sink[Any]]] = [
            (sink.after, graph.build(sink, shared)) for sink in hot(graph).values()
        ]

    def __call__(self, journey: Journey) -> None:
        """Deliver what came of ``journey``, or put its messages among the dead letters.

        Raises:
            SinkError: It cannot be made safe; this worker must end, and its successor does it again.
        """
        chunk = journey.chunk
        if not isinstance(chunk, BrokerChunk):
            message = f"{type(chunk).__name__} did not come through a broker"
            raise TypeError(message)
        if isinstance(chunk, Poison):
            self._reject(chunk, "read", "SourceError", chunk.reason)
        elif journey.error is not None:
            stage = getattr(journey.error, "stage", "deliver")
            self._reject(chunk, stage, type(journey.error).__name__, str(journey.error))
        else:
            try:
                self._deliver(chunk, journey)
            except TooLargeError as error:  # it would be too large again
                self._reject(chunk, "deliver", type(error).__name__, str(error))

    def close(self) -> None:
        """Close the sinks; the delivery is closed by whoever opened it."""
        for _, sink in self._sinks:
            sink.close()

    def _deliver(self, chunk: BrokerChunk, journey: Journey) -> None:
        remembered = self._states.setdefault(chunk.stream, {})
        remembered.update(journey.states)
        if not self._open:
            self._delivery.begin()
            self._open = True
        for after, sink in self._sinks:
            sink.write([packet for up in after for packet in journey.out[up]])
        if chunk.partial:
            return
        states = {chunk.stream: b"" if chunk.last else encode(remembered)}
        self._delivery.commit(states, chunk.position, chunk.watermark)
        self._open = False
        if chunk.last:
            del self._states[chunk.stream]

    def _reject(self, chunk: BrokerChunk, stage: str, error_class: str, error: str) -> None:
        if self._open:
            self._delivery.abort()
            self._open = False
        letters = [DeadLetter(message, stage, error_class, error) for message in chunk.messages]
        self._delivery.reject(letters, chunk.position, chunk.watermark)


def hot(graph: Graph) -> dict[str, Any]:
    """The sinks whose packets are waited for."""
    return {name: s for name, s in graph.sinks.items() if not any(graph.stages[up].aside for up in s.after)}


def run_partition(
    graph: Graph,
    settings: KafkaSettings,
    partition: int,
    *,
    group: str = "omote",
    elsewhere: Mapping[str, CallStage] | None = None,
    window: int = 3,
    threads: int = 2,
    on_source: OnSource = lambda source: None,
    on_journey: OnJourney = lambda journey, walk: None,
) -> None:
    """Analyse ``partition`` until its source is stopped.

    A worker that takes over fences off the one before, reads from the changelog what the stages remembered, and goes
    on behind the last message that was made safe.

    Args:
        graph: What to run; it needs no source.
        settings: How to reach Kafka.
        partition: Which partition of the video topic.
        group: Consumer group to which offsets are written, and part of the name that fences.
        elsewhere: See ``run_local``.
        window: See ``run_local``.
        threads: See ``run_local``.
        on_source: Told of the source once it is open, to stop it later.
        on_journey: See ``run_local``.

    Raises:
        FencedError: A newer worker has taken over.
        PipelineError: Kafka cannot be reached or does not take what came out.
    """
    with closing(Transactions(settings, partition=partition, group=group)) as delivery:
        restored, watermark = delivery.restore(), delivery.committed()
        states = {stream: decode(each.state) for stream, each in restored.items() if each.state}
        positions = {stream: each.position for stream, each in restored.items()}
        offsets = {} if watermark is None else {partition: watermark}
        source = KafkaSource(settings, partitions=[partition], offsets=offsets, positions=positions)
        on_source(source)
        with closing(Courier(graph, delivery, states)) as courier:
            asides = {name: sink for name, sink in graph.sinks.items() if name not in hot(graph)}
            alone = replace(graph, sinks=asides)
            run_local(
                alone, source, window=window, threads=threads, on_journey=on_journey, elsewhere=elsewhere,
                deliver=courier, states=states,
            )  # fmt: skip
