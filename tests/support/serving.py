"""Fixtures: the whole system on Ray, one for all tests in a row that ask for it; what it is fed, and what it gives."""

from __future__ import annotations

import json
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import httpx
import numpy as np
import pytest
from kafka import TopicPartition
from pydantic import SecretStr

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.video_messages import VideoMessage
from pipeline.graph import load
from pipeline.scale import load_scale
from pipeline.servers.process import free_ports
from pipeline.serving.api_settings import ApiSettings
from pipeline.serving.work import PartitionWork, Plan
from tests.support.brokers import lasting_topics

if TYPE_CHECKING:
    from pipeline.serving.application import System

ROOT = Path(__file__).parents[2]
GRAPH, SCALE = ROOT / "deploy" / "graphs" / "faces.yaml", ROOT / "deploy" / "scale" / "laptop.yaml"
PARTITIONS, FRAMES, HEIGHT, WIDTH, CELL = 4, 48, 360, 640, 160
CAMERAS = 3
FIRST_MS = round(time.time() * 1000)  # old messages would fall to the retention of the topic
PEOPLE = (
    *("George_W_Bush", "Serena_Williams", "Gerhard_Schroeder", "Junichiro_Koizumi"),
    *("Jennifer_Capriati", "Vladimir_Putin", "Hans_Blix", "Gloria_Macapagal_Arroyo"),
)
WANTED = pytest.StashKey[bool]()

Records = dict[str, list[dict[str, Any]]]
States = dict[str, list[bytes]]


class Cast(NamedTuple):
    """Eight people: where their gallery is, and pictures (128, 128, 3) BGR of each."""

    gallery: Path
    faces: dict[str, list[np.ndarray]]


@dataclass
class Stage:
    """Where the system runs while tests want it."""

    opened: ExitStack = field(default_factory=ExitStack)
    system: System | None = None

    def close(self) -> None:
        self.system = None
        self.opened.close()


@pytest.fixture(scope="session")
def people(data: Path, weights_ready: None, tmp_path_factory: pytest.TempPathFactory) -> Cast:
    del weights_ready
    from pipeline.__main__ import main

    folder, faces = tmp_path_factory.mktemp("people"), {}
    with zipfile.ZipFile(data / "faces" / "lfw_train128.zip") as archive:
        for person in PEOPLE:
            names = sorted(name for name in archive.namelist() if name.rpartition("_")[0] == person)[:8]
            raw = [np.frombuffer(archive.read(name), np.uint8) for name in names]
            faces[person] = [cv2.imdecode(one, cv2.IMREAD_COLOR) for one in raw]
            (folder / person).mkdir()
            for number, image in enumerate(faces[person][:4]):
                cv2.imwrite(str(folder / person / f"{number}.jpg"), cv2.resize(image, None, fx=2, fy=2))
    assert main(["enrol", str(GRAPH), str(folder), "--into", str(folder / "gallery.npz")]) == 0
    return Cast(folder / "gallery.npz", {person: kept[4:] for person, kept in faces.items()})


def film(people: Cast, person: str, stream: str, frames: int = FRAMES) -> list[VideoMessage]:
    """One person in a corner of the picture that belongs to that person, as JPEG messages at 25 frames/s."""
    number, messages = PEOPLE.index(person), []
    y, x = number // 4 * 180, number % 4 * CELL
    for seq in range(frames):
        canvas = np.full((HEIGHT, WIDTH, 3), 96, np.uint8)
        face = people.faces[person][seq // 12 % len(people.faces[person])]
        canvas[y + 10 : y + 160, x + 5 : x + 155] = cv2.resize(face, (150, 150))
        picture = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        messages.append(VideoMessage(stream, 1, seq, seq * 40_000_000, "image/jpeg", picture, eos=seq == frames - 1))
    return messages


def publish(settings: KafkaSettings, messages: Sequence[VideoMessage], partition: int | None = None) -> None:
    """Send them; the clock of their pictures is the same in every run."""
    producer = settings.producer()
    for m in messages:
        taken_ms = FIRST_MS + m.pts_ns // 1_000_000
        producer.send(settings.topic("video"), m.data, m.stream.encode(), m.headers, partition, taken_ms)
    producer.flush()
    producer.close()


def records(settings: KafkaSettings, streams: Sequence[str]) -> Records:
    """What a reader of committed messages sees of these streams, without what differs from run to run."""
    found: Records = {stream: [] for stream in streams}
    for message in read_to_end(settings, settings.topic("annotations")):
        if message.stream in found:
            record = json.loads(message.value or b"")
            del record["timings_ms"]
            found[message.stream].append(record)
    return found


def analysed(settings: KafkaSettings, streams: Sequence[str], frames: int = FRAMES, limit_s: float = 90) -> Records:
    """The records of these streams once every frame is out."""
    until = time.monotonic() + limit_s
    while True:
        found = records(settings, streams)
        counts = {stream: len(kept) for stream, kept in found.items()}
        if all(count >= frames for count in counts.values()):
            return found
        assert time.monotonic() < until, f"after {limit_s:.0f} s only {counts} frames came out"
        time.sleep(0.3)


def settled(settings: KafkaSettings, topic: str, limit_s: float = 10) -> None:
    """Wait until no transaction is open in ``topic``: a commit reaches one topic before it reaches the next."""
    consumers = [settings.consumer(isolation_level=level) for level in ("read_committed", "read_uncommitted")]
    there = [TopicPartition(topic, number) for number in consumers[0].partitions_for_topic(topic)]
    until = time.monotonic() + limit_s
    while consumers[0].end_offsets(there) != consumers[1].end_offsets(there) and time.monotonic() < until:
        time.sleep(0.05)
    for consumer in consumers:
        consumer.close(autocommit=False)


def states(settings: KafkaSettings, streams: Sequence[str]) -> States:
    """Every state of these streams that counted, in order; one that was told again counts once."""
    found: States = {stream: [] for stream in streams}
    settled(settings, settings.topic("state"))
    for message in read_to_end(settings, settings.topic("state")):
        if message.stream in found and found[message.stream][-1:] != [message.value or b""]:
            found[message.stream].append(message.value or b"")
    return found


@pytest.fixture(scope="session")
def plan(kafka: str, redis_url: str, people: Cast) -> Plan:
    settings = KafkaSettings(servers=kafka, prefix=f"serving{os.getpid()}.")
    return Plan(load(GRAPH, {"gallery": str(people.gallery)}), settings, SecretStr(redis_url))


@pytest.fixture(scope="session")
def stage(plan: Plan) -> Iterator[Stage]:
    del plan  # the servers that it names are to end after the system
    opened = Stage()
    yield opened
    opened.close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    item.config.stash[WANTED] = "system" in getattr(nextitem, "fixturenames", ())


@pytest.fixture
def system(request: pytest.FixtureRequest, stage: Stage, plan: Plan) -> Iterator[System]:
    """What runs; it ends with the last test in a row that wants it, so that it takes no time from others."""
    if stage.system is None:
        from pipeline.runners.on_ray import cluster
        from pipeline.serving.application import running

        scale = load_scale(SCALE).model_copy(update={"cameras": CAMERAS})
        settings = ApiSettings(port=free_ports(1)[0])
        stage.opened.enter_context(cluster(cpus=4))
        stage.system = stage.opened.enter_context(running(plan, scale, settings, partitions=PARTITIONS))
    yield stage.system
    if not request.config.stash[WANTED]:
        stage.close()


@pytest.fixture
def api(system: System) -> Iterator[httpx.Client]:
    """A client of its API; the cameras of a test end with it."""
    with httpx.Client(base_url=system.url, timeout=15) as client:
        yield client
        for view in client.get("/v1/streams").json()["streams"]:
            if view["source"] == "rtsp":
                client.delete(f"/v1/streams/{view['id']}")


def undisturbed(plan: Plan, messages: Sequence[VideoMessage]) -> tuple[Records, States]:
    """What one worker alone makes of the same messages, with nobody killed."""
    calm = replace(plan, kafka=plan.kafka.model_copy(update={"prefix": f"calm{time.monotonic_ns()}."}))
    lasting_topics(calm.kafka, 1)
    publish(calm.kafka, messages)
    streams = sorted({m.stream for m in messages})
    work = PartitionWork(calm, 0)

    def watch() -> None:
        while len(work.views()) < len(streams) or any(view.state != "offline" for view in work.views()):
            time.sleep(0.1)
        work.stop()

    threading.Thread(target=watch, daemon=True).start()
    work.run()
    return records(calm.kafka, streams), states(calm.kafka, streams)


def process_of(name: str, system: System) -> int:
    """Process id of a worker, once it runs."""

    def found() -> int:
        return next((view.pid for view in system.workers() if view.name == name and view.state == "running"), 0)

    return eventually(found, f"worker {name} does not run")


def eventually(ask: Callable[[], Any], otherwise: object, limit_s: float = 60) -> Any:
    """The first answer that holds anything; what ``otherwise`` has to say once it is too late."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if found := ask():
            return found
        time.sleep(0.1)
    pytest.fail(f"{otherwise}, after {limit_s:.0f} s")
