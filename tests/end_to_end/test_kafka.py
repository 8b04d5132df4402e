"""Video in by Kafka, records out by Kafka, each of them once, whatever is killed on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.edges.files import VideoFile
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.video_cutting import recut
from pipeline.edges.video_messages import VideoMessage
from pipeline.servers.kafka_server import KafkaServer
from tests.support.brokers import lasting_topics

pytestmark = pytest.mark.broker
ROOT = Path(__file__).parents[2]
GRAPH = ROOT / "deploy" / "graphs" / "faces.yaml"
WORKER = ROOT / "tests" / "support" / "partition_worker.py"
STREAMS = ("lobby", "gate")
FIRST_MS = round(time.time() * 1000)  # old messages would fall to the retention of the topic
TIMES, FRAMES = 2, 72  # how often the clip is sent, and its frames
Records = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def messages(weights_ready: None, clip: Callable[[str], Path]) -> list[VideoMessage]:
    """The clip of two cameras at once, three times over."""
    del weights_ready
    with closing(VideoFile(str(clip("single_face")))) as source:
        once = list(recut(source, "video/mp2t", 0.5))
    again = (
        replace(m, seq=m.seq + n * len(once), pts_ns=m.pts_ns + n * 2_400_000_000) for n in range(TIMES) for m in once
    )
    return [replace(m, stream=stream) for m in again for stream in STREAMS]


def publish(settings: KafkaSettings, messages: Sequence[VideoMessage]) -> None:
    lasting_topics(settings, 1)
    producer = settings.producer()
    for m in messages:
        taken_ms = FIRST_MS + m.pts_ns // 1_000_000  # the same clock in every run
        producer.send(settings.topic("video"), m.data, m.stream.encode(), m.headers, 0, taken_ms)
    producer.flush()
    producer.close()


def start(settings: KafkaSettings) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, str(WORKER), settings.servers, settings.prefix, str(GRAPH)]
    return subprocess.Popen(arguments, cwd=ROOT)


def records(settings: KafkaSettings) -> Records:
    """What a reader of committed messages sees, by stream, without what differs from run to run."""
    found: Records = {stream: [] for stream in STREAMS}
    for message in read_to_end(settings, settings.topic("annotations"), [0]):
        record = json.loads(message.value or b"")
        del record["timings_ms"]
        found[record["stream"]["id"]].append(record)
    return found


def states(settings: KafkaSettings) -> dict[bytes, bytes]:
    """The last state of each stream."""
    changelog = read_to_end(settings, settings.topic("state"), [0])
    return {message.key or b"": message.value or b"" for message in changelog}


def analysed(
    settings: KafkaSettings, disturb: Callable[[int, subprocess.Popen[bytes]], subprocess.Popen[bytes]]
) -> Records:
    """Run a worker until every frame is out; ``disturb`` is told of each hundred and gives the worker that goes on."""
    worker, told, deadline = start(settings), 0, time.monotonic() + 120
    try:
        while True:
            found = records(settings)
            count = sum(map(len, found.values()))
            if count >= len(STREAMS) * TIMES * FRAMES:
                return found
            assert time.monotonic() < deadline, f"only {count} frames came out"
            if count // 100 > told:
                told = count // 100
                worker = disturb(told, worker)
            if worker.poll() is not None:  # it ended itself, for it stood still: its supervisor starts another
                worker = start(settings)
            time.sleep(0.3)
    finally:
        worker.kill()
        worker.wait()


@pytest.fixture(scope="module")
def undisturbed(own_kafka: KafkaServer, messages: list[VideoMessage]) -> tuple[Records, dict[bytes, bytes]]:
    settings = KafkaSettings(servers=own_kafka.address, prefix="calm.")
    publish(settings, messages)
    return analysed(settings, lambda _, worker: worker), states(settings)


def test_every_frame_of_every_stream_comes_out_once_in_order_and_with_its_own_face(
    undisturbed: tuple[Records, dict[bytes, bytes]],
) -> None:
    found, _ = undisturbed
    for stream in STREAMS:
        assert [record["frame"]["seq"] for record in found[stream]] == list(range(TIMES * FRAMES))
        assert {face["track_id"] for record in found[stream] for face in record["faces"]} == {f"{stream}:0:1"}


def test_a_killed_worker_loses_nothing_and_repeats_nothing(
    own_kafka: KafkaServer, messages: list[VideoMessage], undisturbed: tuple[Records, dict[bytes, bytes]]
) -> None:
    settings = KafkaSettings(servers=own_kafka.address, prefix="worker.")
    publish(settings, messages)

    def kill(hundred: int, worker: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        del hundred
        worker.kill()
        worker.wait()
        return start(settings)

    assert analysed(settings, kill) == undisturbed[0]
    assert states(settings) == undisturbed[1]


def test_a_killed_broker_loses_nothing_and_repeats_nothing(
    mortal_kafka: KafkaServer, messages: list[VideoMessage], undisturbed: tuple[Records, dict[bytes, bytes]]
) -> None:
    settings = KafkaSettings(servers=mortal_kafka.address, prefix="broker.")
    publish(settings, messages)

    def kill(hundred: int, worker: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        if hundred == 1:
            mortal_kafka.kill()
            time.sleep(1)
            mortal_kafka.start()
        return worker

    assert analysed(settings, kill) == undisturbed[0]
    assert states(settings) == undisturbed[1]
