"""The video topic as a source, and how Kafka is reached, on a real broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import TopicPartition

from pipeline.edges import from_kafka
from pipeline.edges.delivery import AtLeastOnce
from pipeline.edges.from_kafka import KafkaSource
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.video_messages import BrokerChunk, Poison, VideoMessage
from pipeline.edges.video_topic import VideoTopic
from pipeline.errors import PipelineError, SinkError, SourceError
from pipeline.packets import Chunk
from pipeline.servers.kafka_server import KafkaServer

pytestmark = pytest.mark.broker
Opener = Callable[[KafkaSettings], VideoTopic]
Jpeg = Callable[..., VideoMessage]
Read = Callable[..., KafkaSource]


@pytest.fixture
def read() -> Iterator[Read]:
    """``read(settings, ...)`` is a source that is closed in the end."""
    opened: list[KafkaSource] = []

    def make(settings: KafkaSettings, **more: object) -> KafkaSource:
        opened.append(KafkaSource(settings, **more))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def publish(topic: VideoTopic, *messages: VideoMessage) -> None:
    for message in messages:
        topic.send(message)
    topic.flush()


def upto(source: KafkaSource, enough: Callable[[list[BrokerChunk]], bool], patience_s: float = 10) -> list[BrokerChunk]:
    """Chunks until there are enough of them."""
    timer = threading.Timer(patience_s, source.stop)
    timer.start()
    found: list[BrokerChunk] = []
    for chunk in source:
        assert isinstance(chunk, BrokerChunk)
        found.append(chunk)
        if enough(found):
            break
    timer.cancel()
    return found


def over(count: int = 1) -> Callable[[list[BrokerChunk]], bool]:
    """Whether so many streams are over."""
    return lambda chunks: sum(chunk.last for chunk in chunks) == count


def numbers(chunks: list[BrokerChunk], stream: str = "cam") -> list[int]:
    return [int(unit.data[2:8]) for chunk in chunks if chunk.stream == stream for unit in chunk.units]


def refused(kind: type[PipelineError], doing: Callable[[], object]) -> str:
    """The sentence with which ``doing`` fails, within five seconds."""
    since = time.monotonic()
    with pytest.raises(kind) as caught:
        doing()
    assert time.monotonic() - since < 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Reading


def test_every_message_comes_once_and_each_stream_in_order(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    streams = ("cam", "door", "hall", "yard")
    publish(video_topic(settings), *(jpeg(n, name, eos=n == 20) for n in range(21) for name in streams))
    chunks = upto(read(settings), over(4))
    for name in streams:
        assert numbers(chunks, name) == list(range(21))
    assert {len(chunk.units) for chunk in chunks} == {8, 5}
    for partition in {chunk.messages[0].partition for chunk in chunks}:
        own = [chunk for chunk in chunks if chunk.messages[0].partition == partition]
        assert [chunk.watermark for chunk in own] == sorted(chunk.watermark for chunk in own)
        assert own[-1].watermark == own[-1].position


def test_a_source_goes_on_where_it_was_told_to(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    publish(video_topic(settings), *(jpeg(n, eos=n == 29) for n in range(30)))
    first = upto(read(settings), lambda chunks: len(chunks) == 2)
    where = first[-1].messages[0].partition
    rest = upto(read(settings, partitions=[where], offsets={where: first[-1].watermark}), over())
    assert numbers(first) + numbers(rest) == list(range(30))


def test_what_was_analysed_is_passed_over_stream_by_stream(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    publish(video_topic(settings), *(jpeg(n, eos=n == 29) for n in range(30)))
    assert numbers(upto(read(settings, positions={"cam": 13}), over())) == list(range(13, 30))


def test_positions_of_a_topic_that_was_made_anew_cost_no_message(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    publish(video_topic(settings), *(jpeg(n, eos=n == 9) for n in range(10)))
    assert numbers(upto(read(settings, positions={"cam": 5_000}), over())) == list(range(10))
    assert "was made anew or has lost its end: 1 streams begin again" in caplog.text


def test_what_was_deleted_before_it_was_read_is_told(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    publish(video_topic(settings), *(jpeg(n, eos=n == 9) for n in range(10)))
    (first, *_) = upto(read(settings), over())
    partition = first.messages[0].partition
    with closing(settings.admin()) as admin:
        admin.delete_records({TopicPartition(settings.topic("video"), partition): 6})
    rest = upto(read(settings, partitions=[partition], offsets={partition: 2}), over())
    assert numbers(rest) == [6, 7, 8, 9]
    assert "4 messages of" in caplog.text
    assert "were deleted before anybody had read them" in caplog.text


def test_what_is_deleted_while_a_source_reads_is_not_passed_over_without_a_word(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    publish(video_topic(settings), *(jpeg(n) for n in range(8)))
    (first,) = upto(read(settings), lambda chunks: len(chunks) == 1)
    source = read(settings)  # it has found where to begin, and has not read yet
    with closing(settings.admin()) as admin:
        admin.delete_records({TopicPartition(settings.topic("video"), first.messages[0].partition): 8})
    with pytest.raises(SourceError, match="was deleted before anybody had read it"):
        upto(source, over())


def test_a_consumer_group_remembers_what_was_committed(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    publish(video_topic(settings), *(jpeg(n, eos=n == 29) for n in range(30)))
    source = KafkaSource(settings, group="mine")
    first = upto(source, lambda chunks: len(chunks) == 2)
    source.commit(first[0])
    source.close()
    assert numbers(upto(read(settings, group="mine"), over())) == list(range(8, 30))


def test_poison_comes_in_its_place_and_does_not_stop_the_stream(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    bad = VideoMessage("cam", 0, 3, 0, "video/mp2t", b"\x00" * 500)
    publish(video_topic(settings), jpeg(0), jpeg(1), bad, jpeg(2), jpeg(3, eos=True))
    chunks = upto(read(settings), over())
    assert [type(chunk) for chunk in chunks] == [BrokerChunk, Poison, BrokerChunk]
    assert numbers(chunks) == [0, 1, 2, 3]
    assert isinstance(chunks[1], Poison)
    assert "video/mp2t" in chunks[1].reason
    assert chunks[1].messages[0].value == b"\x00" * 500
    assert (chunks[1].position, chunks[1].watermark) == (3, 3)


def test_pictures_do_not_wait_for_companions_that_do_not_come(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    publish(video_topic(settings), jpeg(0), jpeg(1), jpeg(2))
    since = time.monotonic()
    chunks = upto(read(settings), lambda chunks: len(chunks) == 1)
    assert numbers(chunks) == [0, 1, 2]
    assert time.monotonic() - since < 3


def test_the_newest_comes_first_where_that_is_the_policy_and_what_is_left_out_is_counted(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    topic = video_topic(settings)
    publish(topic, *(jpeg(n) for n in range(20)))
    latest, adaptive = read(settings, keep="latest"), read(settings, keep="adaptive")
    publish(topic, *(jpeg(n, eos=n == 259) for n in range(20, 260)))
    chunks = upto(latest, over())
    assert numbers(chunks)[-1] == 259
    assert len(numbers(chunks)) + sum(chunk.dropped for chunk in chunks) == 240
    assert latest.drops == {("cam", "behind"): sum(chunk.dropped for chunk in chunks)}
    assert sum(chunk.dropped for chunk in chunks) > 200
    kept = upto(adaptive, over())  # ten seconds of video wait, more than the four that it bears
    assert numbers(kept)[-1] == 259
    assert sum(chunk.dropped for chunk in kept) > 200
    assert read(settings, keep="lossless").drops == {}


def test_a_source_ends_soon_after_it_is_told_to_stop(settings: KafkaSettings, read: Read) -> None:
    source = read(settings)
    threading.Timer(0.3, source.stop).start()
    since = time.monotonic()
    assert list(source) == []
    assert time.monotonic() - since < 2
    assert source.last_progress_s() < 2


def test_a_source_comes_back_after_its_broker_was_killed(
    own_kafka: KafkaServer, mortal: tuple[KafkaServer, KafkaSettings], video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    server, settings = mortal
    publish(video_topic(settings), *(jpeg(n) for n in range(8)))
    source = read(settings)
    chunks = upto(source, lambda chunks: len(chunks) == 1)
    server.kill()
    server.start()
    publish(video_topic(settings), *(jpeg(n, eos=n == 15) for n in range(8, 16)))
    assert numbers(chunks + upto(source, over(), 20)) == list(range(16))


# Bad input


def test_a_client_that_gives_nothing_though_messages_wait_is_not_waited_for(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_kafka, "LOOK_S", 0.5)
    source = read(settings, partitions=[0, 1])
    threading.Timer(2.5, source.stop).start()
    assert list(source) == []  # nothing is there, so nothing is missed
    stuck = read(settings, partitions=[0, 1])
    stuck._consumer.pause(*stuck._consumer.assignment())  # as if it fetched no more
    publish(video_topic(settings), jpeg(seq=0))
    with pytest.raises(SourceError, match="does not give them"):
        upto(stuck, lambda found: False)


def test_a_wrong_address_is_told_within_five_seconds() -> None:
    nobody = KafkaSettings(servers="127.0.0.1:9")
    assert refused(SourceError, lambda: KafkaSource(nobody)) == (
        "no Kafka answers at 127.0.0.1:9; check the address and that the broker runs"
    )


def test_a_wrong_address_is_told_within_five_seconds_also_to_whoever_writes() -> None:
    unknown = KafkaSettings(servers="no-such-host.invalid:9092,127.0.0.1", connect_s=0.5)
    assert refused(SinkError, lambda: AtLeastOnce(unknown)).startswith("no Kafka answers at no-such-host.invalid")


def test_an_unknown_topic_or_partition_is_told_within_five_seconds(settings: KafkaSettings) -> None:
    other = settings.model_copy(update={"prefix": "nothing."})
    assert refused(SourceError, lambda: KafkaSource(other)) == (
        f"there is no topic nothing.video.v1 at {settings.servers}; `omote publish` makes it"
    )
    assert refused(SourceError, lambda: KafkaSource(settings, [0, 7])) == (
        f"{settings.topic('video')} has no partition 7; it has 2, counted from 0"
    )
    assert "keep must be lossless, latest or adaptive, got 'oldest'" in refused(
        SourceError, lambda: KafkaSource(settings, keep="oldest")
    )  # type: ignore[arg-type]


# Security


def guarded(port: int, user: str, password: Path) -> KafkaSettings:
    return KafkaSettings(
        servers=f"127.0.0.1:{port}",
        security="SASL_PLAINTEXT",
        mechanism="PLAIN",
        user=user,
        password_file=password,
        connect_s=1,
    )


def test_a_user_with_a_password_is_let_in_and_the_password_is_seen_nowhere(
    own_kafka: KafkaServer, guarded_port: int, password: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(f"{password}\n")
    wrong.write_text(f"not-{password}")
    with caplog.at_level(logging.DEBUG):
        known = guarded(guarded_port, "camera", right)
        known.consumer().close()
        sentence = refused(SourceError, guarded(guarded_port, "camera", wrong).consumer)
    assert "does not let omote in as user 'camera' over SASL_PLAINTEXT" in sentence
    seen = [repr(known), str(known), known.model_dump_json(), repr(known.password()), sentence, caplog.text]
    assert [text for text in seen if password in text] == []


def test_settings_that_cannot_be_are_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMOTE_KAFKA_SECURITY", "SASL_SSL")
    with pytest.raises(PipelineError, match="security SASL_SSL needs a user; set OMOTE_KAFKA_USER"):
        KafkaSettings.from_environment()
    monkeypatch.setenv("OMOTE_KAFKA_SECURITY", "secret")
    with pytest.raises(PipelineError, match=r"^OMOTE_KAFKA_SECURITY: Input should be 'PLAINTEXT'"):
        KafkaSettings.from_environment(servers="a:1")
    nowhere = KafkaSettings(security="SASL_PLAINTEXT", user="camera", password_env="NO_SUCH_VARIABLE")
    with pytest.raises(PipelineError, match="needs a password, but the variable NO_SUCH_VARIABLE cannot be read"):
        nowhere.consumer()
    missing = nowhere.model_copy(update={"password_file": tmp_path / "none"})
    with pytest.raises(PipelineError, match=r"needs a password, but the file .*none cannot be read"):
        missing.consumer()
    monkeypatch.setenv("NO_SUCH_VARIABLE", "s3cret")
    assert nowhere.password().get_secret_value() == "s3cret"
    assert "s3cret" not in repr(nowhere)


def test_chunks_are_chunks_to_whoever_knows_nothing_of_kafka(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, read: Read
) -> None:
    message = jpeg(0, eos=True)
    publish(video_topic(settings), message)
    (chunk,) = upto(read(settings), over())
    assert isinstance(chunk, Chunk)
    assert (chunk.codec.name, chunk.closed, chunk.last) == ("still", True, True)
    assert chunk.capture_ns == message.capture_ns
    assert chunk.source == "kafka"
