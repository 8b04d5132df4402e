"""Kafka's producer, with an end."""

from __future__ import annotations

import logging

from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

log = logging.getLogger(__name__)


class Producer(KafkaProducer):  # type: ignore[misc]  # the library has no types
    """A producer that is over once it was closed.

    That of the library raises from `close` where something it was given has not arrived, and lives on: it goes on
    sending, and may fence off the producer that has come in its place.
    """

    def close(self, timeout: float = 1.0, null_logger: bool = False) -> None:
        """End it within ``timeout`` seconds, or twice that; what has not arrived then is given up.

        Whoever must know what arrived waits for it before.
        """
        try:
            super().close(timeout, null_logger)
        except KafkaTimeoutError:
            log.warning("Kafka did not take all that was sent before its producer was closed")
            self._unsent_given_up(timeout)

    def _unsent_given_up(self, timeout: float) -> None:
        """The library has no other way: it ends its thread by force only after it has waited for what waits."""
        self._sender.force_close()
        self._sender.join(timeout)  # where it waits for a broker now, it ends once that wait does
        self._closed = True
