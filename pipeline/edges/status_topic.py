"""The topic that says how each stream does: compacted, so that it keeps the last status of every stream."""

from __future__ import annotations

import logging
from threading import Condition, Thread

from pipeline.edges.kafka_producer import Producer
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.status import StreamStatus
from pipeline.edges.to_kafka import headers, place, time_ms
from pipeline.errors import PipelineError, SinkError
from pipeline.reading import read_record
from pipeline.records import StreamRef, StreamStatusRecord
from pipeline.redact import redact

ARRIVES_S = 10.0  # Kafka's client itself gives up after 8 s
AGAIN_S = 1.0
LAST_WORDS_S = 2.0

log = logging.getLogger(__name__)


class StatusTopic:
    """Writes the newest status of each stream, on a thread of its own, for as long as it takes.

    While no broker answers, newer statuses take the place of older ones of the same stream. After a failure a status
    may come twice, with the same ``ce_id``.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        """Nothing is opened before the first status."""
        self._settings = settings
        self._waiting: dict[str, StreamStatusRecord] = {}
        self._changed = Condition()
        self._closed = False
        self._writer = Thread(target=self._run, name="stream status", daemon=True)
        self._writer.start()

    def tell(self, status: StreamStatus) -> None:
        """Say how a stream does; returns at once, whatever Kafka does."""
        with self._changed:
            self._waiting[status.stream] = record_of(status)
            self._changed.notify()

    def close(self) -> None:
        """Send what waits, for up to two seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join(LAST_WORDS_S)
        with self._changed:
            if left := sorted(self._waiting):
                log.warning("Kafka did not take the last status of %s", ", ".join(left))

    def _run(self) -> None:
        producer: Producer | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                newest = dict(self._waiting)
                if not newest:
                    break
            try:
                producer = producer or self._settings.producer(max_in_flight_requests_per_connection=1)
                self._send(producer, newest)
            except PipelineError as error:
                log.warning("the status of %s waits: %s", ", ".join(sorted(newest)), error)
                _close(producer)
                producer = None
                if self._pause():
                    return
        _close(producer)

    def _send(self, producer: Producer, newest: dict[str, StreamStatusRecord]) -> None:
        topic = self._settings.topic("streams.status")
        with self._settings.errors(SinkError, f"write to {topic}"):
            sent = {}
            for stream, record in newest.items():
                where = place(record)
                value = record.model_dump_json().encode()
                sent[stream] = producer.send(
                    topic, value, stream.encode(), headers(record, where), None, time_ms(where)
                )
            for stream, future in sent.items():
                future.get(ARRIVES_S)
                with self._changed:
                    if self._waiting.get(stream) is newest[stream]:
                        del self._waiting[stream]

    def _pause(self) -> bool:
        """Wait before the next attempt; whether nobody waits for it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, AGAIN_S)
            return self._closed


def record_of(status: StreamStatus) -> StreamStatusRecord:
    """The status as consumers read it; it tells no password."""
    return StreamStatusRecord(
        stream=StreamRef(id=status.stream, epoch=status.epoch, source=status.source),
        state=status.state,
        reason=redact(status.reason),
        last_pts_ns=status.last_pts_ns,
        since=status.since.isoformat(),
    )


def last_statuses(settings: KafkaSettings) -> dict[str, StreamStatusRecord]:
    """The last status of each stream, by its id.

    Raises:
        SourceError: The topic cannot be read, or a newer omote wrote it.
    """
    statuses: dict[str, StreamStatusRecord] = {}
    for message in read_to_end(settings, settings.topic("streams.status")):
        record = read_record(message.value) if message.value else None
        if isinstance(record, StreamStatusRecord):
            statuses[message.stream] = record
        else:  # somebody took the stream out
            statuses.pop(message.stream, None)
    return statuses


def _close(producer: Producer | None) -> None:
    if producer is not None:
        producer.close()
