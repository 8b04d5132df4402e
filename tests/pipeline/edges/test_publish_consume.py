"""``omote publish``, ``consume`` and ``dlq`` on a real Kafka, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from pipeline.commands import dlq
from pipeline.commands.consume import consume
from pipeline.commands.drawing import drawn, words
from pipeline.commands.kafka_check import check
from pipeline.commands.publish import publish
from pipeline.compute import Compute
from pipeline.edges.dead_letters import letters
from pipeline.edges.delivery import DeadLetter, Delivery
from pipeline.edges.from_kafka import KafkaSource
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.to_kafka import KafkaSink, headers, place
from pipeline.edges.video_messages import BrokerChunk, Message, read
from pipeline.errors import PipelineError
from pipeline.records import (
    DetectionRecord,
    EmotionRecord,
    FaceRecord,
    FrameRecord,
    FrameRef,
    IdentityRecord,
    OcclusionRecord,
    PolicyRecord,
    QualityRecord,
    StreamRef,
    WindowRecord,
)
from pipeline.testing import noise
from tests.support.sample_records import SAMPLES

pytestmark = pytest.mark.broker
Film = Callable[..., Path]
Omote = Callable[..., Result]

app = typer.Typer()
app.command()(publish)
app.command()(consume)
app.add_typer(dlq.app, name="dlq")


@pytest.fixture
def omote(settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> Omote:
    """``omote("consume", ...)`` with the topics of this test."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", settings.servers)
    monkeypatch.setenv("OMOTE_KAFKA_PREFIX", settings.prefix)
    monkeypatch.setenv("COLUMNS", "250")

    def run(*words: object) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def clip_file(film: Film) -> Path:
    """Two seconds in four groups."""
    still = cv2.GaussianBlur(noise(1, 96, 128)[0], (0, 0), 5)
    pictures = [np.roll(still, n, axis=1) for n in range(48)]
    return film(pictures, "street.mp4", "libx264", encoder={"g": "12", "bf": "0", "sc_threshold": "0"})


def face(decision: str = "known") -> FaceRecord:
    identity = {"subject_id": "ada", "score": 0.71, "threshold": 0.5, "margin": 0.2, "runner_up_score": 0.3, "votes": 3}
    return FaceRecord(
        track_id="street:0:1",
        det=DetectionRecord(bbox_px=(30, 30, 40, 40), bbox_norm=(0, 0, 0, 0), score=0.9, landmarks5=()),
        quality=QualityRecord(score=0.9, blur=0, yaw=0, size_px=40, gate="pass", reasons=()),
        occlusion=OcclusionRecord(mask="masked", p=0.9),
        identity=IdentityRecord(
            decision=decision,  # type: ignore[arg-type]
            gallery="main",
            gallery_version=1,
            masked_policy="bare",
            **identity,  # type: ignore[arg-type]
        ),
        emotion=EmotionRecord(state="ok", label="happy", probs={}, window=WindowRecord(frames=9, span_ms=300)),
        explain=(),
    )


def record(seq: int, epoch: int, stream: str = "street", decision: str = "known") -> FrameRecord:
    return FrameRecord(
        stream=StreamRef(id=stream, epoch=epoch, source="kafka"),
        frame=FrameRef(seq=seq, pts_ns=seq * 40_000_000, w=128, h=96),
        faces=(face(decision),),
        policy=PolicyRecord(purpose="test", emotion="off", identification="off", unmasking="off", faces="blurred"),
    )


def published(settings: KafkaSettings) -> list[Message]:
    return list(read_to_end(settings, settings.topic("video")))


def write(settings: KafkaSettings, *records: FrameRecord) -> None:
    sink = KafkaSink(settings)
    sink.write(records)
    sink.flush()
    sink.close()


def test_a_file_is_published_and_can_be_read(omote: Omote, settings: KafkaSettings, clip_file: Path) -> None:
    result = omote("publish", clip_file, "--pace", "fast", "--chunk-seconds", 0.5, "--loop", 2, "--stream", "gate")
    assert f"8 messages, 0.0 MB, of stream gate to {settings.topic('video')}" in result.output
    videos = [read(message) for message in published(settings)]
    assert [(v.stream, v.seq, v.frames, v.eos) for v in videos] == [("gate", n, 12, n == 7) for n in range(8)]
    source, frames = KafkaSource(settings), 0
    for chunk in source:
        assert isinstance(chunk, BrokerChunk)
        frames += len(chunk.units)
        if chunk.last:
            break
    source.close()
    assert frames == 96


def test_the_same_file_again_is_another_connection(
    omote: Omote, settings: KafkaSettings, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for clock in (1_000, 2_000):
        monkeypatch.setattr("pipeline.commands.publish.time.time", lambda clock=clock: clock)
        omote("publish", clip_file, "--pace", "fast", "--content-type", "image/jpeg")
    assert {read(message).epoch for message in published(settings)} == {1_000, 2_000}


def test_records_come_as_json_lines(omote: Omote, settings: KafkaSettings, tmp_path: Path) -> None:
    write(settings, *(record(n, 0) for n in range(5)), record(0, 0, "other"))
    common = ("--topics", "annotations", "--from", "beginning", "--timeout", 0.5, "--stream", "street")
    lines = omote("consume", "--as", "jsonl", *common).stdout.splitlines()
    assert [FrameRecord.model_validate_json(line) for line in lines] == [record(n, 0) for n in range(5)]
    omote("consume", "--as", "jsonl", *common, "--limit", 2, "--out", tmp_path / "two.jsonl")
    written = (tmp_path / "two.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"]["seq"] for line in written] == [0, 1]


def test_records_come_as_a_table(omote: Omote, settings: KafkaSettings) -> None:
    write(settings, record(3, 0), record(4, 0, decision="unknown"))
    rows = omote("consume", "--topics", "annotations", "--from", "beginning", "--timeout", 0.5).stdout.splitlines()
    assert rows[0].split() == ["topic", "stream", "frame", "time", "what"]
    assert rows[1].split(maxsplit=5) == ["annotations", "street", "3", "0.12", "s", rows[1].split(maxsplit=5)[-1]]
    assert "1: ada 0.71 · happy · masked" in rows[1]
    assert "1: unknown" in rows[2]


def test_an_id_of_any_letters_is_shown_in_the_table(omote: Omote, settings: KafkaSettings) -> None:
    write(settings, record(3, 0, "cam[/x]"))
    rows = omote("consume", "--topics", "annotations", "--from", "beginning", "--timeout", 0.5).stdout.splitlines()
    assert rows[1].split()[:2] == ["annotations", "cam[/x]"]


def test_versions_of_the_future_are_told_in_their_place_and_the_next_record_is_shown(
    omote: Omote, settings: KafkaSettings, clip_file: Path, tmp_path: Path
) -> None:
    omote("publish", clip_file, "--pace", "fast")
    epoch = read(published(settings)[0]).epoch
    later = json.loads(record(1, epoch).model_dump_json()) | {"record": "omote.frame/1.1", "weather": "rain"}
    future = {"record": "omote.frame/2.0", "people": 3}
    lines = [json.dumps(later), json.dumps(future), "\ufffd", record(2, epoch).model_dump_json()]
    producer = settings.producer()
    for line in lines:
        producer.send(
            settings.topic("annotations"), line.encode(), b"street", [("content-type", b"application/json")], 0
        )
    producer.flush()
    producer.close()
    common = ("--topics", "annotations", "--from", "beginning", "--timeout", 0.5)
    rows = omote("consume", *common).stdout.splitlines()[1:]
    assert "1: ada 0.71" in rows[0]
    assert "omote.frame/2.0 came and this omote understands omote.frame/1; upgrade it" in rows[1]
    assert "what came is no record, for it is no JSON" in rows[2]
    assert "1: ada 0.71" in rows[3]
    assert omote("consume", *common, "--as", "jsonl").stdout.splitlines() == lines
    drawn = omote("consume", *common, "--as", "mp4", "--out", tmp_path / "drawn.mp4")
    assert drawn.exit_code == 0
    assert "left out: omote.frame/2.0 came" in drawn.stderr


def test_every_kind_of_record_has_its_words(omote: Omote, settings: KafkaSettings) -> None:
    producer = settings.producer()
    for each in SAMPLES.values():
        where = place(each)
        topic = settings.topic(where.topic)
        producer.send(topic, each.model_dump_json().encode(), b"gate", headers(each, where), 0)
    producer.flush()
    producer.close()
    topics = "annotations,tracks,matches,explanations,streams.status"
    shown = omote("consume", "--topics", topics, "--from", "beginning", "--timeout", 0.5).stdout
    for words_of in (
        "1: ada 0.71 · happy · masked",
        "new gate:3:1: known ada, masked, happy",
        "gate:3:1 is ada (0.71)",
        "gate:3:1: why ada (cosine_contributions)",
        "reconnecting · the server has fallen silent",
    ):
        assert words_of in shown


def test_records_are_drawn_on_the_video_they_belong_to(
    omote: Omote, settings: KafkaSettings, clip_file: Path, tmp_path: Path
) -> None:
    omote("publish", clip_file, "--pace", "fast", "--chunk-seconds", 0.5)
    epoch = read(published(settings)[0]).epoch
    write(settings, *(record(n, epoch) for n in range(40)))  # the last eight were not analysed: nobody vouches for them
    out = tmp_path / "drawn.mp4"
    omote("consume", "--as", "mp4", "--from", "beginning", "--timeout", 0.5, "--out", out)
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 40
    with av.open(str(clip_file)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    difference = np.abs(frames[10].astype(int) - plain[10])
    assert difference[30, 30:70].mean() > 20  # the upper side of the box
    assert difference[:20].mean() < 6


def test_a_message_that_cannot_be_read_is_left_out_of_the_video(
    omote: Omote, settings: KafkaSettings, clip_file: Path, tmp_path: Path
) -> None:
    producer = settings.producer()
    producer.send(settings.topic("video"), b"junk", b"street", [("content-type", b"image/jpeg")], 0)
    producer.flush()
    producer.close()
    omote("publish", clip_file, "--pace", "fast", "--chunk-seconds", 0.5)
    epoch = read(published(settings)[-1]).epoch
    write(settings, *(record(n, epoch) for n in range(40)))
    out = tmp_path / "drawn.mp4"
    told = omote("consume", "--as", "mp4", "--from", "beginning", "--timeout", 0.5, "--out", out).stderr
    assert told.startswith("left out: ")
    assert told.count("\n") == 1
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 40


def test_a_video_of_nothing_is_told_and_not_written(omote: Omote, settings: KafkaSettings, tmp_path: Path) -> None:
    out = tmp_path / "drawn.mp4"
    with pytest.raises(PipelineError, match="no video came of which there is a record"):
        omote("consume", "--as", "mp4", "--from", "beginning", "--timeout", 0.5, "--out", out)
    assert not out.exists()


def test_a_face_that_must_be_hidden_is_hidden() -> None:
    image = noise(1, 96, 128)[0]
    hidden, shown = (drawn(image, record(0, 0, decision=decision)) for decision in ("unknown", "known"))
    inside = np.s_[40:60, 40:60]
    np.testing.assert_array_equal(shown[inside], image[inside])
    assert np.abs(hidden[inside].astype(int) - image[inside]).mean() > 20
    np.testing.assert_array_equal(hidden[80:], image[80:])
    assert words(face("unknown")) == "unknown · happy · masked"


def test_dead_letters_are_listed_shown_and_sent_back(
    omote: Omote, settings: KafkaSettings, deliver: Callable[..., Delivery], tmp_path: Path
) -> None:
    assert "no dead letters" in omote("dlq", "list").stdout
    delivery = deliver(settings)
    for number in range(2):
        headers = (("stream-id", b"cam"), ("content-type", b"image/jpeg"))
        message = Message(settings.topic("video"), 0, number, b"cam", b"picture %d" % number, headers, 0)
        delivery.reject([DeadLetter(message, "detect", "ValueError", "it is blue")], number + 1)
    listed = omote("dlq", "list").stdout
    assert listed.count("ValueError: it is blue") == 2
    name = f"{letters(settings)[0].partition}:{letters(settings)[0].offset}"
    assert name in listed
    shown = omote("dlq", "show", name, "--out", tmp_path / "bytes")
    assert "dlq-stage" in shown.stdout
    assert (tmp_path / "bytes").read_bytes() == b"picture 0"
    assert "1 sent back" in omote("dlq", "replay", name).stdout
    assert "1 sent back" in omote("dlq", "replay", "--all").stdout
    assert [message.value for message in published(settings)] == [b"picture 0", b"picture 1"]
    assert "no dead letters" in omote("dlq", "list").stdout
    with pytest.raises(PipelineError, match=f"no dead letter '{name}' waits"):
        omote("dlq", "replay", name)
    assert omote("dlq", "replay").exit_code == 2


def test_mistakes_are_told_in_one_sentence(omote: Omote, clip_file: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="there is no content type 'video/avi'; it is video/mp2t"):
        omote("publish", clip_file, "--content-type", "video/avi")
    with pytest.raises(PipelineError, match=r"no such file: .*none.mp4"):
        omote("publish", tmp_path / "none.mp4")
    with pytest.raises(PipelineError, match="a video needs a place: give --out"):
        omote("consume", "--as", "mp4")
    with pytest.raises(PipelineError, match=r"there is no topic .*faces.v1"):
        omote("consume", "--topics", "faces")


def test_the_doctor_looks_at_kafka_where_it_is_told_of_one(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    assert [finding.state for finding in check(Compute())] == ["note"]
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", settings.servers)
    monkeypatch.setenv("OMOTE_KAFKA_PREFIX", settings.prefix)
    (finding,) = check(Compute())
    assert (finding.state, finding.text) == ("ok", f"{settings.servers}, messages of up to 8388608 bytes")
    monkeypatch.setenv("OMOTE_KAFKA_USER", "camera")
    monkeypatch.setenv("OMOTE_KAFKA_SECURITY", "SASL_PLAINTEXT")
    (finding,) = check(Compute())
    assert finding.state == "wrong"
    assert "the variable OMOTE_KAFKA_PASSWORD cannot be read" in finding.text
