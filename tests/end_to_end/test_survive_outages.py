"""What a worker needs is away for a while: it stands, says why, goes on by itself, and nothing is lost or doubled."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from pipeline.edges.dead_letters import letters
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.video_messages import ACCESS_UNIT, VideoMessage
from pipeline.servers.kafka_server import KafkaServer
from tests.support.brokers import lasting_topics
from tests.support.requirements import missing
from tests.support.serving import ROOT, Records, States, eventually, publish, records
from tests.support.solo import alone, at_work, graph_file, outcome, plan_of, shots, until, zipped

pytestmark = pytest.mark.broker
MPEG_TS, FRAMES, STREAMS = "video/mp2t", 48, ("gate", "lobby")
WORKER = ROOT / "tests" / "support" / "lone_worker.py"
New = Callable[..., KafkaSettings]


class Crew:
    """A worker in a process, in whose place another comes whenever it ends, as Ray does it.

    Attributes:
        said: State and reason, each time they changed, of all processes.
    """

    def __init__(self, settings: KafkaSettings, graph: Path) -> None:
        self._command = [sys.executable, str(WORKER), settings.servers, settings.prefix, str(graph)]
        self._over, self._began_s = False, time.monotonic()
        self._heard_s: list[float] = []
        self.said: list[tuple[str, str]] = []
        self.deaths = -1
        self._thread = threading.Thread(target=self._run)

    def __str__(self) -> str:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)  # its threads tell where they are, on the standard error
            time.sleep(0.5)
        said = [f"after {at - self._began_s:.1f} s: {word}" for at, word in zip(self._heard_s, self.said, strict=True)]
        return "\n".join([*said, f"now, after {time.monotonic() - self._began_s:.1f} s: {self.deaths} deaths"])

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def failures(self) -> int:
        """How often it had to wait."""
        states = [state for state, _ in self.said]
        return sum(now == "waiting" != before for before, now in itertools.pairwise(["", *states]))

    def reasons(self) -> str:
        return "\n".join(reason for _, reason in self.said)

    def _run(self) -> None:
        while not self._over:
            self.deaths += 1
            with subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as self._process:
                assert self._process.stdout
                for line in self._process.stdout:
                    self._heard_s.append(time.monotonic())
                    self.said.append(tuple(json.loads(line)))

    @contextmanager
    def at_work(self) -> Iterator[Crew]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over = True
            self._process.kill()
            self._thread.join()


def calm(new: New, servers: str, file: Path, films: Sequence[Sequence[VideoMessage]]) -> tuple[Records, States]:
    """What comes of these films where nothing is away."""
    plan = plan_of(new(servers, 1), file)
    publish(plan.kafka, zipped(*films), 0)
    with at_work(alone(plan)):
        until(plan.kafka, STREAMS, (FRAMES, FRAMES))
    return outcome(plan.kafka, STREAMS)[:2]


def last(remembered: States) -> States:
    """The end of a stream and the state before it; how many there were before depends on how it was cut."""
    return {stream: of[-2:] for stream, of in remembered.items()}


def test_a_worker_killed_inside_a_group_of_pictures_decodes_it_again_and_tells_nothing_twice(
    settings: KafkaSettings, kafka: str, new_topics: New, tmp_path: Path
) -> None:
    file, films = graph_file(tmp_path), [shots(stream, ACCESS_UNIT, seconds=0.96) for stream in STREAMS]
    keys = [number for number, message in enumerate(films[0]) if message.keyframe]
    assert keys[:2] == [0, 24], "a group of pictures lasts for longer than a chunk"
    with Crew(settings, file).at_work() as crew:
        for first, end in ((0, 14), (14, 37), (37, FRAMES)):
            publish(settings, zipped(*(film[first:end] for film in films)), 0)
            until(settings, STREAMS, (end // 8 * 8, end // 8 * 8), who=crew)
            crew.kill()
        found = until(settings, STREAMS, (FRAMES, FRAMES), who=crew)
    assert crew.deaths >= 2
    wanted, kept = calm(new_topics, kafka, file, films)
    assert found == wanted
    assert last(outcome(settings, STREAMS)[1]) == last(kept)


def test_a_stage_that_cannot_be_called_makes_no_dead_letters(
    settings: KafkaSettings, kafka: str, new_topics: New, tmp_path: Path
) -> None:
    films, down = [shots(stream, MPEG_TS) for stream in STREAMS], tmp_path / "down"
    down.touch()
    publish(settings, zipped(*films), 0)
    with Crew(settings, graph_file(tmp_path, "Unreachable", f"{{down: {down}, since: 16}}")).at_work() as crew:
        until(settings, STREAMS, (16, 16), who=crew)
        eventually(lambda: crew.failures() >= 4, crew)
        assert [len(of) for of in records(settings, STREAMS).values()] == [16, 16]
        down.unlink()
        until(settings, STREAMS, (FRAMES, FRAMES), who=crew)
    assert "no replica of stage 'check' answered in 4 attempts" in crew.reasons()
    found, remembered, dead = outcome(settings, STREAMS)
    assert (found, remembered) == calm(new_topics, kafka, graph_file(tmp_path), films)
    assert dead == []


@pytest.mark.parametrize(("trouble", "reason"), [("no topic", "dlq.v1"), ("no room", "larger than a limit")])
def test_while_the_dead_letters_cannot_be_written_nothing_is_passed_over(
    trouble: str, reason: str, kafka: str, new_topics: New, tmp_path: Path
) -> None:
    settings = new_topics(kafka, 1)
    file, films = graph_file(tmp_path), [shots(stream, MPEG_TS) for stream in STREAMS]
    whole = zipped(*films)
    bad = whole[4].__class__("gate", 1, 99, 0, MPEG_TS, b"no video")
    close(settings, trouble)
    publish(settings, [*whole[:4], bad, *whole[4:]], 0)
    with Crew(settings, file).at_work() as crew:
        until(settings, STREAMS, (16, 16), who=crew)
        eventually(lambda: reason in crew.reasons(), crew)
        time.sleep(3)
        assert [len(of) for of in records(settings, STREAMS).values()] == [16, 16], "it went on without the bad message"
        assert crew.deaths == 0, "it need not end for that"
        reopen(settings, trouble)
        found = until(settings, STREAMS, (FRAMES, FRAMES), 1, crew)
        eventually(lambda: crew.said[-1] == ("running", ""), crew)
    assert (found, outcome(settings, STREAMS)[1]) == calm(new_topics, kafka, file, films)
    assert [letter.value for letter in letters(settings)] == [b"no video"]


def close(settings: KafkaSettings, trouble: str) -> None:
    """Make the dead-letter topic one that takes nothing."""
    if trouble == "no room":
        configure(settings, "100")
    else:
        with admin(settings) as client:
            client.delete_topics([settings.topic("dlq")])
        eventually(lambda: not there(settings), "the topic does not go")


def reopen(settings: KafkaSettings, trouble: str) -> None:
    if trouble == "no room":
        assert letters(settings) == []
        configure(settings, "1000000")
    else:
        lasting_topics(settings, 1)


def there(settings: KafkaSettings) -> bool:
    with admin(settings) as client:
        return settings.topic("dlq") in client.list_topics()


def configure(settings: KafkaSettings, most_bytes: str) -> None:
    name, change = settings.topic("dlq"), {"max.message.bytes": most_bytes}
    with admin(settings) as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, change)])


def admin(settings: KafkaSettings) -> closing[KafkaAdminClient]:
    return closing(settings.admin())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    mounts = shutil.which("mount") and not os.geteuid()
    if not mounts or subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("only root, and not in every container, may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_ends_the_broker_and_costs_nothing_once_there_is_room(
    small_disk: Path, kafka_home: Path, kafka: str, new_topics: New, tmp_path: Path
) -> None:
    films = [shots(stream, MPEG_TS) for stream in STREAMS]
    file = graph_file(tmp_path, given="{seconds: 0.5}")
    whole = zipped(*films)
    bad = whole[4].__class__("gate", 1, 99, 0, MPEG_TS, b"no video")
    with KafkaServer(kafka_home, small_disk / "kafka") as server:
        settings = new_topics(server.address, 1)
        publish(settings, [*whole[:4], *[bad] * 3, *whole[4:]], 0)
        with Crew(settings, file).at_work() as crew:
            eventually(lambda: crew.said[-1:] == [("running", "")], "no worker runs")
            fill(small_disk / "ballast")
            eventually(lambda: not server.pid, "the broker lives on")
            time.sleep(3)
            (small_disk / "ballast").unlink()
            server.start()
            found = until(settings, STREAMS, (FRAMES, FRAMES), 3, crew)
        remembered = outcome(settings, STREAMS)[1]
        assert len(letters(settings)) == 3
    assert (found, remembered) == calm(new_topics, kafka, file, films)


def fill(file: Path) -> None:
    """Leave no room on the disk of this file."""
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
