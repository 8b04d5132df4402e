"""Writes video messages to Kafka, in order, and says at once when one does not arrive."""

from __future__ import annotations

from collections import deque
from typing import Any

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import create_topics
from pipeline.edges.video_messages import VideoMessage
from pipeline.errors import SinkError

ARRIVES_S = 10.0  # Kafka's client itself gives up after 8 s
ON_THE_WAY = 32


class VideoTopic:
    """The video topic, for one producer."""

    def __init__(self, settings: KafkaSettings, partitions: int = 4) -> None:
        """Connect, and make omote's topics where they are not there yet, with so many ``partitions``.

        Raises:
            PipelineError: No broker answers, or it does not let us.
        """
        create_topics(settings, partitions)
        self._settings, self._name = settings, settings.topic("video")
        self._producer = settings.producer(max_in_flight_requests_per_connection=1)
        self._sent: deque[Any] = deque()

    def send(self, message: VideoMessage) -> None:
        """Send it; its key is its stream, its time that of its capture.

        Raises:
            SinkError: It, or one before it, is too large or did not arrive.
        """
        with self._settings.errors(SinkError, f"write {len(message.data)} bytes to {self._name}"):
            time_ms = message.capture_ns // 1_000_000 or None
            key = message.stream.encode()
            self._sent.append(self._producer.send(self._name, message.data, key, message.headers, None, time_ms))
            while self._sent and (self._sent[0].is_done or len(self._sent) > ON_THE_WAY):
                self._sent.popleft().get(ARRIVES_S)

    def flush(self) -> None:
        """Return once everything has arrived.

        Raises:
            SinkError: Something has not.
        """
        with self._settings.errors(SinkError, f"write to {self._name}"):
            while self._sent:
                self._sent.popleft().get(ARRIVES_S)

    def close(self) -> None:
        self._producer.close()
