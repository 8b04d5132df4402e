"""Delivery to a real Kafka: exactly once, whoever dies, and dead letters."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from pipeline.commands.kafka_check import kafka_findings
from pipeline.edges import delivery as delivery_module
from pipeline.edges.dead_letters import letters
from pipeline.edges.delivery import AtLeastOnce, DeadLetter, Delivery, Restored
from pipeline.edges.kafka_settings import FencedError, KafkaSettings, TooLargeError
from pipeline.edges.kafka_topics import create_topics, read_to_end
from pipeline.edges.video_messages import Message, VideoMessage
from pipeline.edges.video_topic import VideoTopic
from pipeline.errors import SinkError, SourceError
from pipeline.servers.kafka_server import KafkaServer

pytestmark = pytest.mark.broker
WORKER = Path(__file__).parents[2] / "support" / "small_worker.py"
Opener = Callable[[KafkaSettings], VideoTopic]
Jpeg = Callable[..., VideoMessage]
Deliver = Callable[..., Delivery]
Mortal = tuple[KafkaServer, KafkaSettings]
RunWorker = Callable[..., subprocess.Popen[bytes]]


def written(settings: KafkaSettings, topic: str = "annotations") -> list[Message]:
    return list(read_to_end(settings, settings.topic(topic)))


def values(settings: KafkaSettings, topic: str = "annotations") -> list[bytes]:
    return [message.value or b"" for message in written(settings, topic)]


def publish(topic: VideoTopic, messages: Sequence[VideoMessage]) -> int:
    """Send all of one stream; the partition that they went to."""
    for message in messages:
        topic.send(message)
    topic.flush()
    name = topic._settings.topic("video")
    key = messages[-1].stream.encode()
    return next(m.partition for m in read_to_end(topic._settings, name) if m.key == key)


def pictures(jpeg: Jpeg, count: int, stream: str = "cam") -> list[VideoMessage]:
    return [jpeg(n, stream, eos=n == count - 1) for n in range(count)]


@pytest.fixture
def run_worker() -> Iterator[RunWorker]:
    """``run_worker(settings, partition)`` starts a worker; in the end none is left."""
    started: list[subprocess.Popen[bytes]] = []

    def run(settings: KafkaSettings, partition: int, dies_at: int = -1) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(WORKER), settings.servers, settings.prefix, str(partition), str(dies_at)]
        started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(WORKER.parents[2])}))
        return started[-1]

    yield run
    for each in started:
        each.kill()
        each.wait()


def chain_of(messages: Sequence[VideoMessage]) -> list[dict[str, object]]:
    """What an undisturbed worker writes for them."""
    out: list[dict[str, object]] = []
    told = "-"
    for number, message in enumerate(messages):
        told = hashlib.sha256(told.encode() + message.data).hexdigest()[:16]
        out.append({"number": number, "told": told})
    return out


# Transactions


def test_what_is_committed_is_there_with_its_state_and_its_position(settings: KafkaSettings, deliver: Deliver) -> None:
    delivery = deliver(settings, 1)
    assert delivery.restore() == {}
    assert delivery.committed() is None
    delivery.begin()
    delivery.send("annotations", "cam", b"one", [], 0)
    delivery.commit({"cam": b"state", "hall": b"other"}, position=5, watermark=3)
    assert values(settings) == [b"one"]
    assert deliver(settings, 1).restore() == {"cam": Restored(b"state", 5), "hall": Restored(b"other", 5)}
    assert delivery.committed() == 3
    assert deliver(settings, 0).restore() == {}


def test_what_is_aborted_was_never_there(settings: KafkaSettings, deliver: Deliver) -> None:
    delivery = deliver(settings)
    delivery.begin()
    delivery.send("annotations", "cam", b"aborted", [], 0)
    delivery.flush()
    delivery.abort()
    delivery.begin()
    delivery.send("annotations", "cam", b"kept", [], 0)
    delivery.commit({"cam": b"s"}, 1)
    assert values(settings) == [b"kept"]


def test_a_trace_goes_on_in_what_comes_of_a_message(settings: KafkaSettings, deliver: Deliver) -> None:
    delivery = deliver(settings)
    delivery.begin()
    delivery.traces = [(40, "of the first"), (80, ""), (120, "of the last")]
    for pts_ns in (0, 40, 100, 400):
        delivery.send("annotations", "cam", b"{}", [("a", b"b")], 0, pts_ns)
    delivery.commit({})
    assert {message.said["a"] for message in written(settings)} == {"b"}
    traces = [message.said.get("traceparent") for message in written(settings)]
    assert traces == ["of the first", "of the first", None, "of the last"]


def test_a_worker_that_was_replaced_can_commit_nothing_any_more(settings: KafkaSettings, deliver: Deliver) -> None:
    zombie = deliver(settings)
    zombie.begin()
    zombie.send("annotations", "cam", b"of the zombie", [], 0)
    zombie.flush()
    successor = deliver(settings)
    successor.begin()
    successor.send("annotations", "cam", b"of the successor", [], 0)
    successor.commit({"cam": b"new"}, 2)
    with pytest.raises(FencedError, match="another worker has taken over"):
        zombie.commit({"cam": b"old"}, 1)
    assert values(settings) == [b"of the successor"]
    assert successor.restore() == {"cam": Restored(b"new", 2)}


def test_a_stream_from_elsewhere_finds_its_state_and_no_other(settings: KafkaSettings, deliver: Deliver) -> None:
    for stream in ("door", "hall", "yard"):
        delivery = deliver(settings, None, owner=stream)
        delivery.begin()
        delivery.commit({stream: stream.encode()})
        assert delivery.committed() is None
    assert deliver(settings, None, owner="hall").restore() == {"hall": Restored(b"hall", 0)}


def test_a_camera_and_a_stream_of_the_video_topic_may_have_one_name(settings: KafkaSettings, deliver: Deliver) -> None:
    camera = deliver(settings, None, owner="hall")
    video = deliver(settings, camera._partition)
    for delivery, state in ((camera, b"of the camera"), (video, b"of the video")):
        delivery.begin()
        delivery.commit({"hall": state})
    assert camera.restore() == {"hall": Restored(b"of the camera", 0)}
    assert video.restore() == {"hall": Restored(b"of the video", 0)}


def test_a_successor_waits_for_states_that_the_transaction_of_another_hides(
    settings: KafkaSettings, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, worker = deliver(settings, None, owner="cam"), deliver(settings)
    other.begin()
    other._send("state", "cam", b"of a camera in the same partition", [], 0, 0)
    other.flush()
    worker.begin()
    worker.commit({"lobby": b"new"}, 9)
    successor = deliver(settings)
    with monkeypatch.context() as patch:
        patch.setattr(delivery_module, "SETTLED_S", 0.3)
        with pytest.raises(SourceError, match="may still be open"):
            successor.restore()
    threading.Timer(0.5, other.abort).start()
    assert successor.restore() == {"lobby": Restored(b"new", 9)}


def test_a_short_transaction_takes_no_time_that_anybody_would_notice(settings: KafkaSettings, deliver: Deliver) -> None:
    delivery, took = deliver(settings), []
    for number in range(12):
        since = time.monotonic()
        delivery.begin()
        delivery.send("annotations", "cam", b"{}", [], 0)
        delivery.commit({"cam": b"s"}, number)
        took.append(time.monotonic() - since)
    assert sorted(took)[6] < 0.15  # 10 ms on a quiet machine


def test_at_least_once_keeps_states_and_positions_too(settings: KafkaSettings, deliver: Deliver) -> None:
    delivery = deliver(settings, 0, AtLeastOnce)
    delivery.begin()
    delivery.send("annotations", "cam", b"one", [], 0)
    delivery.commit({"cam": b"state"}, 7, 6)
    assert values(settings) == [b"one"]
    assert delivery.restore() == {"cam": Restored(b"state", 7)}
    assert delivery.committed() == 6


def test_at_least_once_sends_a_state_only_once_its_records_have_arrived(
    settings: KafkaSettings, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(settings, 0, AtLeastOnce)
    sent: list[Any] = []
    under_way: dict[str, int] = {}

    def send(topic: str, *more: Any) -> Any:
        under_way[topic] = sum(not each.succeeded() for each in sent)
        sent.append(KafkaProducer.send(delivery._producer, topic, *more))
        return sent[-1]

    monkeypatch.setattr(delivery._producer, "send", send)
    delivery.begin()
    delivery.send("annotations", "cam", b"one", [], 0)
    delivery.commit({"cam": b"state"}, 7)
    assert under_way[settings.topic("state")] == 0


# Deaths


def test_a_worker_that_dies_between_begin_and_commit_loses_and_doubles_nothing(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, run_worker: RunWorker
) -> None:
    sent = pictures(jpeg, 40)
    partition = publish(video_topic(settings), sent)
    for dies_at in (5, 21):
        assert run_worker(settings, partition, dies_at).wait(30) == -9
    assert run_worker(settings, partition).wait(30) == 0
    assert [json.loads(value) for value in values(settings)] == chain_of(sent)


def test_a_broker_that_dies_inside_a_transaction_is_noticed_and_the_successor_makes_it_good(
    mortal: Mortal, deliver: Deliver
) -> None:
    server, settings = mortal
    stuck: list[tuple[str, float]] = []
    first = deliver(settings, deadline_s=2, on_stuck=lambda what: stuck.append((what, time.monotonic())))
    first.begin()
    first.send("annotations", "cam", b"before", [], 0)
    first.commit({"cam": b"1"}, 1)
    first.begin()
    first.send("annotations", "cam", b"cut off", [], 0)
    first.flush()
    server.kill()
    since = time.monotonic()
    thread = threading.Thread(target=_commit, args=(first,), daemon=True)  # it may never return
    thread.start()
    while not stuck and time.monotonic() - since < 5:
        time.sleep(0.05)
    server.start()
    assert stuck
    assert stuck[0][0] == "to commit took longer than 2 s"
    assert stuck[0][1] - since < 3
    second = deliver(settings)
    restored = second.restore()
    done = restored["cam"].position == 2  # the commit may have come through after all: then nothing is to be done
    assert restored == {"cam": Restored(b"2", 2) if done else Restored(b"1", 1)}
    if not done:
        second.begin()
        second.send("annotations", "cam", b"cut off", [], 0)
        second.commit({"cam": b"2"}, 2)
    assert values(settings) == [b"before", b"cut off"]


def _commit(delivery: Delivery) -> None:
    try:
        delivery.commit({"cam": b"2"}, 2)
    except SinkError:
        return


def test_workers_whose_broker_is_killed_under_load_lose_and_double_nothing(
    mortal: Mortal, video_topic: Opener, jpeg: Jpeg, run_worker: RunWorker
) -> None:
    server, settings = mortal
    sent = pictures(jpeg, 600)
    partition = publish(video_topic(settings), sent)
    worker = run_worker(settings, partition)
    while len(values(settings)) < 30:
        time.sleep(0.05)
    server.kill()
    server.start()
    for _ in range(3):  # it ends itself where its client hangs; whoever started it starts it again
        if worker.wait(30) == 0:
            break
        worker = run_worker(settings, partition)
    assert [json.loads(value) for value in values(settings)] == chain_of(sent)


# Dead letters


def test_poison_goes_to_the_dead_letters_once_and_stops_nobody(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, run_worker: RunWorker
) -> None:
    good = pictures(jpeg, 20)
    bad = [
        VideoMessage("cam", 0, 8, 0, "video/mp4", b"no container at all"),
        VideoMessage("cam", 0, 9, 0, "text/plain", b"what is this"),
        VideoMessage("cam", 0, 9, 0, "image/jpeg", b""),
    ]
    partition = publish(video_topic(settings), [*good[:10], *bad, *good[10:]])
    assert run_worker(settings, partition, 15).wait(30) == -9
    assert run_worker(settings, partition).wait(30) == 0
    assert [json.loads(value) for value in values(settings)] == chain_of(good)
    found = letters(settings)
    assert [letter.value for letter in found] == [b"no container at all", b"what is this", b""]
    assert [letter.said["dlq-stage"] for letter in found] == ["read"] * 3
    assert "is no video/mp4" in found[0].said["dlq-error"]
    assert "content-type 'text/plain' is not one of" in found[1].said["dlq-error"]
    assert "is empty" in found[2].said["dlq-error"]
    assert all(letter.key == b"cam" and letter.said["stream-id"] == "cam" for letter in found)
    assert [int(letter.said["dlq-origin-offset"]) for letter in found] == [10, 11, 12]


def test_the_largest_message_has_room_among_the_dead_letters(settings: KafkaSettings, deliver: Deliver) -> None:
    message = Message(settings.topic("video"), 0, 0, b"cam", os.urandom(settings.message_bytes - 2_000), (), 0)
    deliver(settings).reject([DeadLetter(message, "decode", "MemoryError", "x" * 100_000)], 1)
    assert len(letters(settings)[0].value or b"") == settings.message_bytes - 2_000


def test_a_result_that_is_too_large_ends_neither_the_worker_nor_the_stream(
    settings: KafkaSettings, deliver: Deliver
) -> None:
    delivery = deliver(settings)
    delivery.begin()
    with pytest.raises(TooLargeError, match="larger than a limit"):
        delivery.send("annotations", "cam", bytes(settings.message_bytes * 2), [], 0)
    delivery.abort()
    small = KafkaSettings(servers=settings.servers, prefix=f"{settings.prefix}small.", message_bytes=4096)
    create_topics(small, 1)
    generous = small.model_copy(update={"message_bytes": 100_000})
    delivery = deliver(generous)
    delivery.begin()
    delivery.send("annotations", "cam", os.urandom(9_000), [], 0)
    with pytest.raises(TooLargeError, match="larger than a limit"):
        delivery.commit({"cam": b"s"}, 1)
    delivery.abort()
    delivery.reject([DeadLetter(Message("t", 0, 0, b"cam", b"v"), "sink", "TooLargeError", "too large")], 1)
    assert len(letters(small)) == 1


# Limits


def test_the_doctor_names_the_limit_that_is_too_small(settings: KafkaSettings) -> None:
    assert [finding.state for finding in kafka_findings(settings)] == ["ok"]
    larger = settings.model_copy(update={"message_bytes": 20 << 20})
    told = {finding.text.split(" takes ")[0]: finding.text for finding in kafka_findings(larger)}
    assert set(told) == {"the broker", f"the topic {settings.topic('video')}"}
    assert "up to 8388608 bytes, and the producer sends up to 20971520" in told[f"the topic {settings.topic('video')}"]
    assert "raise max.message.bytes there" in told[f"the topic {settings.topic('video')}"]


def test_a_chunk_that_is_too_large_is_refused_in_one_sentence(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg
) -> None:
    with pytest.raises(TooLargeError, match=r"^cannot write \d+ bytes to .*video.v1: .* `omote doctor` says which"):
        video_topic(settings).send(jpeg(0, data=bytes(9 << 20)))
    topic = video_topic(settings.model_copy(update={"message_bytes": 9 << 20}))  # the producer would, the topic not
    with pytest.raises(TooLargeError, match="larger than a limit"):
        publish(topic, [jpeg(0, data=os.urandom((9 << 20) - 5_000))])


def test_no_result_crosses_from_one_stream_to_another(
    settings: KafkaSettings, video_topic: Opener, jpeg: Jpeg, run_worker: RunWorker
) -> None:
    topic = video_topic(settings)
    streams = {f"cam-{n}": pictures(jpeg, 24, f"cam-{n}") for n in range(6)}
    streams = {name: [replace(m, data=m.data + name.encode()) for m in own] for name, own in streams.items()}
    for together in zip(*streams.values(), strict=True):
        for message in together:
            topic.send(message)
    topic.flush()
    workers = [run_worker(settings, partition) for partition in (0, 1)]
    assert [worker.wait(30) for worker in workers] == [0, 0]
    of: dict[str, list[object]] = {}
    for message in written(settings):
        of.setdefault((message.key or b"").decode(), []).append(json.loads(message.value or b""))
    assert of == {name: chain_of(own) for name, own in streams.items()}
