"""A producer that was closed is over, whatever it was still to send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from kafka.errors import KafkaError

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.servers.kafka_server import KafkaServer

pytestmark = pytest.mark.broker
TOPIC = "annotations"


def test_who_closes_a_producer_whose_broker_says_nothing_waits_for_two_seconds_and_leaves_no_thread(
    mortal: tuple[KafkaServer, KafkaSettings],
) -> None:
    server, settings = mortal
    before = set(threading.enumerate())
    producer = settings.producer()
    producer.send(settings.topic(TOPIC), b"first").get(5)
    server.freeze()
    waits = producer.send(settings.topic(TOPIC), b"second")
    since = time.monotonic()
    producer.close()
    assert time.monotonic() - since < 3
    _until(lambda: waits.is_done, 10)
    with pytest.raises(KafkaError):
        waits.get(0)
    _until(lambda: set(threading.enumerate()) <= before, 10)


def test_a_producer_that_was_closed_does_not_fence_off_its_successor(
    mortal: tuple[KafkaServer, KafkaSettings],
) -> None:
    server, settings = mortal
    one = settings.producer(transactional_id=f"{settings.prefix}one")
    one.init_transactions()
    one.begin_transaction()
    one.send(settings.topic(TOPIC), b"known", partition=0).get(5)
    server.freeze()
    one.send(settings.topic(TOPIC), b"not known", partition=0)
    one.close()
    server.thaw()
    other = settings.producer(transactional_id=f"{settings.prefix}one")
    other.init_transactions()
    for number in range(3):
        other.begin_transaction()
        other.send(settings.topic(TOPIC), b"%d" % number, partition=0)
        other.commit_transaction()
        time.sleep(1)
    other.close()
    assert [message.value for message in read_to_end(settings, settings.topic(TOPIC))] == [b"0", b"1", b"2"]


def test_what_arrived_before_it_was_closed_is_there(settings: KafkaSettings) -> None:
    producer = settings.producer()
    for number in range(100):
        producer.send(settings.topic(TOPIC), b"%d" % number, partition=0)
    producer.close()
    producer.close()
    assert len(list(read_to_end(settings, settings.topic(TOPIC)))) == 100


def _until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
