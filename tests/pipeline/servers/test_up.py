"""Everything on one machine by one command, and nothing of it left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir
from urllib.parse import urlsplit

import psutil
import pytest

from pipeline.commands.up import Interruption
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.servers.process import free_ports, listens

pytestmark = pytest.mark.broker
COMMAND = [sys.executable, "-m", "pipeline", "up"]
BEGIN_S, END_S = 150.0, 20.0


class Up:
    """``omote up`` as a process of its own, and what it says."""

    def __init__(self, folder: Path, clip: Path, **environment: str) -> None:
        (folder / "tmp").mkdir()
        self._said = folder / "said"
        mine = {
            "TMPDIR": str(folder / "tmp"),
            "RAY_TMPDIR": gettempdir(),  # the names of its sockets must be short
            "OMOTE_API_PORT": str(free_ports(1)[0]),
        }
        asked = {name: os.environ[name] for name in os.environ.keys() - {"KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL"}}
        with self._said.open("wb") as said:
            self.process = psutil.Popen(
                [*COMMAND, "--clip", str(clip)],
                env={**asked, **mine, **environment},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait_for(self, words: str, limit_s: float = BEGIN_S) -> re.Match[str]:
        """Until it says so."""
        until = time.monotonic() + limit_s
        while not (found := re.search(words, self.said)):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.1)
        return found

    def end(self, number: signal.Signals = signal.SIGINT) -> list[psutil.Process]:
        """SIGTERM, or Ctrl-C in its terminal; gives what is left of it."""
        family = self.process.children(recursive=True)
        began = time.monotonic()
        (os.killpg if number == signal.SIGINT else os.kill)(self.process.pid, number)
        # Python ends by the signal itself where it has hit an `exec`, as those of an import.
        assert self.process.wait(60) in {0, -signal.SIGINT}, self.said
        assert time.monotonic() - began < END_S
        _, alive = psutil.wait_procs(family, timeout=5)
        return alive


@pytest.fixture
def up(tmp_path: Path, clip: Callable[[str], Path], kafka_home: Path) -> Iterator[Callable[..., Up]]:
    """``up(**environment)`` starts it; it is killed in the end, if it has not ended."""
    begun: list[Up] = []

    def begin(**environment: str) -> Up:
        begun.append(Up(tmp_path, clip("single_face"), **{"OMOTE_KAFKA_HOME": str(kafka_home), **environment}))
        return begun[-1]

    yield begin
    for each in begun:
        if each.process.is_running():
            for process in [*each.process.children(recursive=True), each.process]:
                process.kill()
        each.process.wait()


def streams(settings: KafkaSettings) -> set[str]:
    """Streams of which records came out."""
    records = read_to_end(settings, settings.topic("annotations"), [0])
    return {json.loads(record.value or b"")["stream"]["id"] for record in records}


@pytest.mark.ray
def test_records_of_both_streams_come_out_and_ctrl_c_ends_what_was_started_and_nothing_else(
    up: Callable[..., Up], weights_ready: None, redis_url: str, tmp_path: Path
) -> None:
    del weights_ready
    started = up(REDIS_URL=redis_url)
    assert started.wait_for(r"Redis: (\S+) \(was there\)").group(1) == redis_url
    settings = KafkaSettings(servers=started.wait_for(r"Kafka: (\S+) \(started here\)").group(1))
    camera = started.wait_for(r"camera: (.*)").group(1)
    started.wait_for("what to look at")
    expected = {"clip", "camera"} if camera.startswith("rtsp://") else {"clip"}
    until = time.monotonic() + BEGIN_S
    while streams(settings) != expected:
        assert time.monotonic() < until, started.said
        time.sleep(0.5)
    assert started.end() == []
    assert listens(urlsplit(redis_url).port or 6379)
    assert list((tmp_path / "tmp").glob("omote-*")) == []


@pytest.mark.ray
@pytest.mark.parametrize(("words", "number"), [("camera: ", signal.SIGINT), ("Ray: ", signal.SIGTERM)])
def test_a_signal_in_the_middle_of_starting_ends_what_there_is(
    up: Callable[..., Up], tmp_path: Path, words: str, number: signal.Signals
) -> None:
    started = up()
    started.wait_for(words)
    time.sleep(1)
    assert started.end(number) == []
    assert list((tmp_path / "tmp").glob("omote-*")) == []


def test_an_interruption_that_python_dropped_is_raised_again() -> None:
    interruption = Interruption()
    interruption.check()
    with suppress(KeyboardInterrupt):  # as Python does it where an object is finalized
        interruption(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        interruption.check()


def test_a_part_that_cannot_start_takes_down_those_before_it(up: Callable[..., Up], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    started = up(OMOTE_CACHE=str(tmp_path), OMOTE_KAFKA_HOME=str(tmp_path / "empty"))
    assert started.process.wait(60) == 1
    assert "omote: Kafka cannot be started here: it needs a folder `libs`" in started.said
    redis = re.search(r"Redis: redis://127.0.0.1:(\d+)/0 \(started here\)", started.said)
    assert redis
    assert not listens(int(redis.group(1)))
    assert list((tmp_path / "tmp").glob("omote-*")) == []
