"""The example consumers of the documentation, run as a reader runs them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer

import pytest

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.status import StreamStatus
from pipeline.edges.status_topic import StatusTopic
from pipeline.edges.to_kafka import KafkaSink
from tests.support.sample_records import SAMPLES

pytestmark = pytest.mark.broker
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
Lines = Callable[..., list[str]]


@pytest.fixture
def lines(settings: KafkaSettings) -> Iterator[Lines]:
    """``lines(example, topic, count)`` are the first lines that an example prints; it is ended after them."""
    started: list[subprocess.Popen[str]] = []

    def read(example: str, topic: str, count: int) -> list[str]:
        command: Sequence[str] = (sys.executable, str(EXAMPLES / example), settings.servers, settings.topic(topic))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        timer = Timer(30, process.kill)
        timer.start()
        assert process.stdout is not None
        found = [process.stdout.readline().strip() for _ in range(count)]
        timer.cancel()
        return found

    yield read
    for process in started:
        process.kill()
        process.communicate()


def test_who_comes_and_goes_is_told_once(settings: KafkaSettings, lines: Lines) -> None:
    track = SAMPLES["track"]
    sink = KafkaSink(settings)
    sink.write([track, track, track.model_copy(update={"event": "end"})])
    sink.close()
    assert lines("who_comes_and_goes.py", "tracks", 2) == [
        "gate new gate:3:1 known ada",
        "gate end gate:3:1 known ada",
    ]


def test_how_streams_do_is_told_at_once(settings: KafkaSettings, lines: Lines) -> None:
    topic = StatusTopic(settings)
    topic.tell(StreamStatus("gate", "offline", "nothing listens", 1, 0, datetime.now(UTC), "rtsp"))
    topic.close()
    assert lines("how_streams_do.py", "streams.status", 1) == ["gate offline nothing listens"]
