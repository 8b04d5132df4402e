"""Records as messages of Kafka: which topic, which key, which headers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple

from pipeline.edges import Sink
from pipeline.edges.delivery import AtLeastOnce, Delivery
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.packets import Explanation
from pipeline.records import ExplanationRecord, FrameRecord, MatchRecord, Record, StreamStatusRecord, TrackRecord

# Kafka refuses times that lie more than an hour ahead, and deletes by age: a capture that is further away than this
# (a wrong clock, an archive) is told in `ce_time` alone.
LIVE_MS = 1_800_000


class Where(NamedTuple):
    """Where in its stream a record belongs, and what it tells.

    Attributes:
        topic: Short name of its topic.
        event: What happened.
        stream: Id of its stream.
        epoch: Number of the connection.
        seq: Number of the frame; None where the record is about the stream.
        pts_ns: Presentation time.
        track: Id of the track; empty where the record is about no track alone.
        tenant: To whom the stream belongs.
        time: Wall clock at which it was so, RFC 3339; empty if not known.
        detail: What tells it from records of the same kind in the same place.
    """

    topic: str
    event: str
    stream: str
    epoch: int
    seq: int | None
    pts_ns: int
    track: str = ""
    tenant: str = "default"
    time: str = ""
    detail: str = ""


class KafkaSink(Sink[FrameRecord | TrackRecord | MatchRecord | Explanation]):
    """Writes each record to the topic of its kind: annotations, tracks, matches or explanations.

    The key is the id of the stream, so that a stream stays in order. The headers are CloudEvents in binary mode;
    ``ce_id`` depends on what the record is about alone, so that a record that comes twice is known again.
    """

    def __init__(self, settings: KafkaSettings | None = None, delivery: Delivery | None = None) -> None:
        """Connect, or join a delivery.

        Args:
            settings: How to reach Kafka; from the environment if not given.
            delivery: Sends what is written, and decides when it counts. With none, every batch counts once it is
                flushed: at least once.

        Raises:
            SinkError: No broker answers.
        """
        self._own = delivery is None
        self._delivery = delivery or AtLeastOnce(settings or KafkaSettings.from_environment())

    def write(self, batch: Sequence[FrameRecord | TrackRecord | MatchRecord | Explanation]) -> None:
        """Send the records.

        Raises:
            SinkError: Kafka does not take one.
        """
        for packet in batch:
            record = ExplanationRecord.of(packet) if isinstance(packet, Explanation) else packet
            where = place(record)
            value = record.model_dump_json().encode()
            self._delivery.send(where.topic, where.stream, value, headers(record, where), time_ms(where), where.pts_ns)

    def flush(self) -> None:
        if self._own:
            self._delivery.flush()

    def close(self) -> None:
        if self._own:
            self._delivery.close()


def place(record: Record) -> Where:
    """Where ``record`` belongs."""
    if isinstance(record, ExplanationRecord):
        moment = (record.stream, record.epoch, record.seq, record.pts_ns)
        return Where("explanations", f"explanation.{record.kind}", *moment, track=record.track_id)
    if isinstance(record, StreamStatusRecord):
        about, detail = record.stream, f"{record.state} {record.since} {record.reason}"
        stand = (about.id, about.epoch, None, record.last_pts_ns)
        return Where("streams.status", "stream.status", *stand, tenant=about.tenant, time=record.since, detail=detail)
    if not isinstance(record, (FrameRecord, TrackRecord, MatchRecord)):
        message = f"{type(record).__name__} has no topic"
        raise TypeError(message)
    stream, frame = record.stream, record.frame
    where = Where(
        "annotations",
        "frame.annotated",
        *(stream.id, stream.epoch, frame.seq, frame.pts_ns),
        tenant=stream.tenant,
        time=frame.capture_ts or "",
    )
    if isinstance(record, TrackRecord):
        return where._replace(topic="tracks", event=f"track.{record.event}", track=record.track_id)
    if isinstance(record, MatchRecord):
        return where._replace(topic="matches", event="match.found", track=record.track_id)
    return where


def record_id(where: Where, major: str = "1") -> str:
    """Id of a record, 32 hexadecimal digits: the same whenever and wherever it is computed."""
    parts = (where.stream, where.epoch, where.seq, where.track, where.event, where.topic, where.detail, major)
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def headers(record: Record, where: Where) -> list[tuple[str, bytes]]:
    """CloudEvents 1.0 in Kafka's binary mode, and where the record stands."""
    schema = str(getattr(record, "record", ""))
    major = schema.rpartition("/")[2].partition(".")[0]
    said = {
        "ce_specversion": "1.0",
        "ce_id": record_id(where, major),
        "ce_source": f"/streams/{where.stream}",
        "ce_type": f"omote.{where.event}.v{major}",
        "ce_subject": where.track,
        "ce_dataschema": schema,
        "ce_time": where.time,
        "content-type": "application/json",
        "stream-id": where.stream,
        "epoch": where.epoch,
        "frame-seq": where.seq,
        "pts-ns": where.pts_ns,
        "tenant": where.tenant,
    }
    return [(name, str(value).encode()) for name, value in said.items() if value not in {"", None}]


def time_ms(where: Where) -> int:
    """Time of its message in milliseconds since 1970: of what it tells; now where that is not known or was not now."""
    now = round(time.time() * 1000)
    taken = round(datetime.fromisoformat(where.time).timestamp() * 1000) if where.time else now
    return taken if abs(taken - now) < LIVE_MS else now
