"""The status topic keeps how each stream does, and nobody ever waits for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from jsonschema import Draft202012Validator

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.status import State, StreamStatus
from pipeline.edges.status_topic import StatusTopic, last_statuses
from pipeline.errors import SourceError
from pipeline.schemas import schema
from pipeline.servers.kafka_server import KafkaServer
from pipeline.servers.process import free_ports

pytestmark = pytest.mark.broker
SINCE = datetime(2026, 9, 20, 10, 0, 0, 33_000, UTC)
Opener = Callable[[KafkaSettings], StatusTopic]


def status(stream: str = "gate", state: State = "online", reason: str = "", epoch: int = 1) -> StreamStatus:
    return StreamStatus(stream, state, reason, epoch, 40_000_000, SINCE, "rtsp")


@pytest.fixture
def opened() -> Iterator[Opener]:
    topics: list[StatusTopic] = []

    def make(settings: KafkaSettings) -> StatusTopic:
        topics.append(StatusTopic(settings))
        return topics[-1]

    yield make
    for topic in topics:
        topic.close()


def test_the_last_status_of_each_stream_can_be_read(settings: KafkaSettings, opened: Opener) -> None:
    topic = opened(settings)
    for each in (status(), status("yard", epoch=4), status(state="reconnecting", reason="it has fallen silent")):
        topic.tell(each)
    topic.close()
    found = last_statuses(settings)
    assert {name: (each.state, each.reason, each.stream.epoch) for name, each in found.items()} == {
        "gate": ("reconnecting", "it has fallen silent", 1),
        "yard": ("online", "", 4),
    }
    assert found["gate"].since == "2026-09-20T10:00:00.033000+00:00"
    assert (found["gate"].stream.source, found["gate"].last_pts_ns) == ("rtsp", 40_000_000)


def test_a_status_is_a_cloud_event_of_the_published_schema_that_tells_no_password(
    settings: KafkaSettings, opened: Opener
) -> None:
    topic = opened(settings)
    for reason in ("rtsp://admin:s3cret@host/1 broke off", "it has fallen silent"):
        topic.tell(status(state="reconnecting", reason=reason))
        time.sleep(1)  # each is sent alone
    topic.close()
    first, second = read_to_end(settings, settings.topic("streams.status"))
    said = dict(first.said)
    assert said.pop("ce_id") != second.said["ce_id"]
    assert first.key == second.key == b"gate"
    assert said == {
        "ce_specversion": "1.0",
        "ce_source": "/streams/gate",
        "ce_type": "omote.stream.status.v1",
        "ce_dataschema": "omote.stream-status/1.0",
        "ce_time": "2026-09-20T10:00:00.033000+00:00",
        "content-type": "application/json",
        "stream-id": "gate",
        "epoch": "1",
        "pts-ns": "40000000",
        "tenant": "default",
    }
    Draft202012Validator(schema("stream-status")).validate(json.loads(first.value or b""))
    assert b"s3cret" not in (first.value or b"")


def test_while_no_broker_answers_nobody_waits_and_the_newest_status_comes_through_in_the_end(
    mortal: tuple[KafkaServer, KafkaSettings], opened: Opener
) -> None:
    server, settings = mortal
    topic = opened(settings)
    topic.tell(status())
    _until(lambda: "gate" in last_statuses(settings), 10)
    server.kill()
    since = time.monotonic()
    for number in range(100):
        topic.tell(status(state="reconnecting", reason=f"attempt {number}"))
        topic.tell(status("yard", "offline", f"attempt {number}"))
    assert time.monotonic() - since < 1
    server.start()
    _until(lambda: len(last_statuses(settings)) == 2 and last_statuses(settings)["gate"].reason == "attempt 99", 30)
    assert last_statuses(settings)["yard"].reason == "attempt 99"


def test_a_status_that_a_frozen_broker_did_not_take_comes_once_it_is_thawed(
    mortal: tuple[KafkaServer, KafkaSettings], opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    server, settings = mortal
    topic = opened(settings)
    topic.tell(status())
    _until(lambda: "gate" in last_statuses(settings), 10)
    server.freeze()
    topic.tell(status(state="reconnecting", reason="it has fallen silent"))
    _until(lambda: "the status of gate waits" in caplog.text, 20)
    server.thaw()
    _until(lambda: last_statuses(settings)["gate"].reason == "it has fallen silent", 30)


def test_a_topic_that_never_found_its_broker_is_closed_within_three_seconds(
    opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    topic = opened(KafkaSettings(servers=f"127.0.0.1:{free_ports(1)[0]}"))
    since = time.monotonic()
    topic.tell(status())
    assert time.monotonic() - since < 0.5
    topic.close()
    assert time.monotonic() - since < 3
    assert "Kafka did not take the last status of gate" in caplog.text


def test_what_a_newer_omote_wrote_is_refused_in_a_sentence(settings: KafkaSettings) -> None:
    producer = settings.producer()
    producer.send(settings.topic("streams.status"), b'{"record": "omote.stream-status/2.0"}', b"gate").get(5)
    producer.close()
    with pytest.raises(SourceError, match=r"omote.stream-status/2.0 came and this omote understands omote.stream-st"):
        last_statuses(settings)


def test_a_stream_that_was_taken_out_has_no_status(settings: KafkaSettings, opened: Opener) -> None:
    topic = opened(settings)
    topic.tell(status())
    topic.close()
    producer = settings.producer()
    producer.send(settings.topic("streams.status"), None, b"gate").get(5)
    producer.close()
    assert last_statuses(settings) == {}


def _until(done: Callable[[], bool], limit_s: float) -> None:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < limit_s
        time.sleep(0.1)
