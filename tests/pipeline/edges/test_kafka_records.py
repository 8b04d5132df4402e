"""Records as messages of a real Kafka: topics, keys, headers, times."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.edges.delivery import Delivery
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.to_kafka import KafkaSink, headers, place, record_id
from pipeline.edges.video_messages import Message
from pipeline.records import FrameRecord, FrameRef, PolicyRecord, StreamRef, TrackRecord, TrackSummary

pytestmark = pytest.mark.broker


def written(settings: KafkaSettings, topic: str = "annotations") -> list[Message]:
    return list(read_to_end(settings, settings.topic(topic)))


def frame(seq: int = 3, capture: str | None = "2026-09-20T10:00:00.033Z") -> FrameRecord:
    return FrameRecord(
        stream=StreamRef(id="cam", epoch=2, source="kafka", tenant="acme"),
        frame=FrameRef(seq=seq, pts_ns=seq * 40_000_000, capture_ts=capture, w=64, h=48),
        faces=(),
        policy=PolicyRecord(purpose="test", emotion="off", identification="off", unmasking="off", faces="blurred"),
    )


def track(event: str) -> TrackRecord:
    known = TrackSummary(
        decision="unknown",
        subject_id=None,
        mask="bare",
        emotion=None,
        first_pts_ns=0,
        last_pts_ns=1,
        frames=1,
        best_quality=0.5,
    )
    given = frame()
    return TrackRecord(
        event=event,  # type: ignore[arg-type]
        stream=given.stream,
        frame=given.frame,
        track_id="cam:2:7",
        before=None,
        after=known,
    )


def test_records_go_to_the_topic_of_their_kind_as_cloud_events(settings: KafkaSettings) -> None:
    sink = KafkaSink(settings)
    sink.write([frame(), track("new")])
    sink.flush()
    sink.close()
    annotation, event = written(settings)[0], written(settings, "tracks")[0]
    assert FrameRecord.model_validate_json(annotation.value or b"") == frame()
    assert TrackRecord.model_validate_json(event.value or b"") == track("new")
    assert annotation.key == event.key == b"cam"
    assert annotation.said == {
        "ce_specversion": "1.0",
        "ce_id": record_id(place(frame())),
        "ce_source": "/streams/cam",
        "ce_type": "omote.frame.annotated.v1",
        "ce_dataschema": "omote.frame/1.0",
        "ce_time": "2026-09-20T10:00:00.033Z",
        "content-type": "application/json",
        "stream-id": "cam",
        "epoch": "2",
        "frame-seq": "3",
        "pts-ns": "120000000",
        "tenant": "acme",
    }
    assert (event.said["ce_type"], event.said["ce_subject"]) == ("omote.track.new.v1", "cam:2:7")


def test_the_id_of_a_record_is_its_own_and_always_the_same() -> None:
    records = [frame(3), frame(4), track("new"), track("update"), track("end")]
    ids = [dict(headers(record, place(record)))["ce_id"] for record in records]
    assert len(set(ids)) == len(ids)
    assert ids[0] == b"%s" % record_id(place(frame(3))).encode()
    assert record_id(place(frame(3))) == record_id(place(frame(3, capture=None)))


def test_the_time_of_a_record_is_that_of_its_capture_where_that_can_be(settings: KafkaSettings) -> None:
    minute_ago = datetime.now(UTC) - timedelta(minutes=1)
    sink = KafkaSink(settings)
    sink.write(
        [frame(capture=minute_ago.isoformat()), frame(), frame(capture="2199-01-01T00:00:00Z"), frame(capture=None)]
    )
    sink.flush()
    sink.close()
    taken, *others = [message.time_ms / 1000 for message in written(settings)]
    assert abs(taken - minute_ago.timestamp()) < 0.01
    assert all(abs(other - time.time()) < 30 for other in others)


def test_results_of_a_sink_count_with_the_transaction_they_belong_to(
    settings: KafkaSettings, deliver: Callable[..., Delivery]
) -> None:
    delivery = deliver(settings)
    sink = KafkaSink(delivery=delivery)
    delivery.begin()
    sink.write([frame(0)])
    sink.flush()
    delivery.abort()
    delivery.begin()
    sink.write([frame(1), frame(2)])
    delivery.commit({"cam": b"s"}, 1)
    sink.close()
    seqs = [
        FrameRecord.model_validate_json(value).frame.seq
        for value in (message.value or b"" for message in written(settings))
    ]
    assert seqs == [1, 2]
