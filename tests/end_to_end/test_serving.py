"""The whole system: Kafka and cameras in, Kafka out, on a Ray cluster, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from tests.support.cameras import Studio

from pipeline.__main__ import main
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import create_topics, read_to_end
from pipeline.edges.status_topic import last_statuses
from pipeline.edges.video_messages import VideoMessage
from pipeline.graph import load
from pipeline.scale import load_scale
from pipeline.servers.kafka_server import KafkaServer
from pipeline.servers.process import free_ports
from pipeline.serving.api_settings import ApiSettings
from pipeline.serving.work import PartitionWork, Plan

ray = pytest.importorskip("ray")

from pipeline.runners.on_ray import cluster  # noqa: E402
from pipeline.serving.application import NAMESPACE, System, running  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.broker, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
GRAPH, SCALE = ROOT / "deploy" / "graphs" / "faces.yaml", ROOT / "deploy" / "scale" / "laptop.yaml"
PARTITIONS, FRAMES, HEIGHT, WIDTH, CELL = 4, 48, 360, 640, 160
FIRST_MS = round(time.time() * 1000)
PEOPLE = (
    *("George_W_Bush", "Serena_Williams", "Gerhard_Schroeder", "Junichiro_Koizumi"),
    *("Jennifer_Capriati", "Vladimir_Putin", "Hans_Blix", "Gloria_Macapagal_Arroyo"),
)
Records = dict[str, list[dict[str, Any]]]


class Cast(NamedTuple):
    """Eight people: where their gallery is, and pictures (128, 128, 3) BGR of each."""

    gallery: Path
    faces: dict[str, list[np.ndarray]]


@pytest.fixture(scope="module")
def people(data: Path, weights_ready: None, tmp_path_factory: pytest.TempPathFactory) -> Cast:
    del weights_ready
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


def publish(settings: KafkaSettings, messages: Sequence[VideoMessage]) -> None:
    producer = settings.producer()
    for m in messages:
        taken_ms = FIRST_MS + m.pts_ns // 1_000_000
        producer.send(settings.topic("video"), m.data, m.stream.encode(), m.headers, None, taken_ms)
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
    """Wait until every frame of these streams is out, and a moment longer for those that are too many."""
    until = time.monotonic() + limit_s
    while True:
        found = records(settings, streams)
        counts = {stream: len(kept) for stream, kept in found.items()}
        if all(count >= frames for count in counts.values()):
            return found
        assert time.monotonic() < until, f"after {limit_s:.0f} s only {counts} frames came out"
        time.sleep(0.3)


def states(settings: KafkaSettings, streams: Sequence[str]) -> dict[str, list[bytes]]:
    """Every state of these streams that counted, in order."""
    found: dict[str, list[bytes]] = {stream: [] for stream in streams}
    for message in read_to_end(settings, settings.topic("state")):
        if message.stream in found:
            found[message.stream].append(message.value or b"")
    return found


@pytest.fixture(scope="module")
def plan(kafka: str, redis_url: str, people: Cast) -> Plan:
    settings = KafkaSettings(servers=kafka, prefix=f"serving{os.getpid()}.")
    return Plan(load(GRAPH, {"gallery": str(people.gallery)}), settings, SecretStr(redis_url))


@pytest.fixture(scope="module")
def system(plan: Plan) -> Iterator[System]:
    scale = load_scale(SCALE).model_copy(update={"cameras": 2})
    with cluster(cpus=4), running(plan, scale, ApiSettings(port=free_ports(1)[0]), partitions=PARTITIONS) as started:
        yield started


def undisturbed(plan: Plan, messages: Sequence[VideoMessage]) -> tuple[Records, dict[str, list[bytes]]]:
    """What one worker alone makes of the same messages, with nobody killed."""
    calm = replace(plan, kafka=plan.kafka.model_copy(update={"prefix": f"calm{time.monotonic_ns()}."}))
    create_topics(calm.kafka, 1)
    publish(calm.kafka, messages)
    streams = sorted({m.stream for m in messages})
    work = PartitionWork(calm, 0)

    def watch() -> None:
        while not all(view.state == "offline" for view in work.views()) or len(work.views()) < len(streams):
            time.sleep(0.1)
        work.stop()

    import threading

    threading.Thread(target=watch, daemon=True).start()
    work.run()
    return records(calm.kafka, streams), states(calm.kafka, streams)


def process_of(name: str, system: System) -> int:
    """Process id of a worker, once it runs."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        pid = next((view.pid for view in system.workers() if view.name == name and view.state == "running"), 0)
        if pid:
            return pid
        time.sleep(0.1)
    pytest.fail(f"worker {name} does not run: {system.workers()}")


def test_eight_streams_at_once_and_no_record_carries_the_face_of_another(
    system: System, plan: Plan, people: Cast
) -> None:
    films = [film(people, person, f"of-{person}") for person in PEOPLE]
    publish(plan.kafka, [message for group in zip(*films, strict=True) for message in group])
    found = analysed(plan.kafka, [f"of-{person}" for person in PEOPLE])
    for number, person in enumerate(PEOPLE):
        mine = found[f"of-{person}"]
        assert [record["frame"]["seq"] for record in mine] == list(range(FRAMES))
        faces = [face for record in mine for face in record["faces"]]
        assert len(faces) > FRAMES // 2
        assert {face["identity"]["subject_id"] for face in faces} <= {person, None}
        for face in faces:
            x, y, width, height = face["det"]["bbox_px"]
            assert (int((y + height / 2) // 180), int((x + width / 2) // CELL)) == divmod(number, 4)
    known = {face["identity"]["subject_id"] for mine in found.values() for r in mine for face in r["faces"]} - {None}
    assert len(known) >= 6


@pytest.mark.parametrize("victim", ["worker", "replica", "supervisor", "broker"])
def test_whatever_is_killed_every_frame_comes_out_once_in_order_and_the_states_are_the_same(
    victim: str, system: System, plan: Plan, people: Cast, own_kafka: KafkaServer
) -> None:
    films = [film(people, person, f"{victim}-{person}", 2 * FRAMES) for person in PEOPLE[:3]]
    messages = [message for group in zip(*films, strict=True) for message in group]
    streams = [kept[0].stream for kept in films]
    publish(plan.kafka, messages[: len(messages) // 2])
    wait_for_some(plan.kafka, streams)
    kill(victim, system, own_kafka)
    publish(plan.kafka, messages[len(messages) // 2 :])
    found = analysed(plan.kafka, streams, 2 * FRAMES)
    calm, remembered = undisturbed(plan, messages)
    assert found == calm
    assert states(plan.kafka, streams) == remembered


def wait_for_some(settings: KafkaSettings, streams: Sequence[str]) -> None:
    while not any(records(settings, streams).values()):
        time.sleep(0.2)


def kill(victim: str, system: System, broker: KafkaServer) -> None:
    if victim == "broker":
        broker.kill()
        time.sleep(1)
        broker.start()
    elif victim == "worker":
        for number in range(PARTITIONS):
            os.kill(process_of(f"partition-{number}", system), signal.SIGKILL)
    elif victim == "replica":
        handle = system.deployments.replicas.handle("detect")
        os.kill(handle.pid.remote().result(timeout_s=20), signal.SIGKILL)
    else:
        os.kill(ray.get(ray.get_actor("omote-supervisor", NAMESPACE).pid.remote()), signal.SIGKILL)
        time.sleep(1)
        assert len(system_workers(system)) == PARTITIONS


def system_workers(system: System) -> list[Any]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if len(found := [view for view in system.workers() if view.state == "running"]) == PARTITIONS:
                return found
        except Exception:
            time.sleep(0.3)
    return []


@pytest.fixture
def api(system: System) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=system.url, timeout=15) as client:
        yield client
        for view in client.get("/v1/streams").json()["streams"]:
            if view["source"] == "rtsp":
                client.delete(f"/v1/streams/{view['id']}")


def until(state: str, stream: str, api: httpx.Client, limit_s: float = 40, epoch: int = 0) -> dict[str, Any]:
    """The view of a stream, once it is in this state and in a later epoch than ``epoch``."""
    deadline, view = time.monotonic() + limit_s, {}
    while time.monotonic() < deadline:
        answer = api.get(f"/v1/streams/{stream}")
        view = answer.json()
        if answer.status_code == 200 and view["state"] == state and view["epoch"] >= epoch:
            return view
        time.sleep(0.2)
    pytest.fail(f"stream {stream} did not become {state}: {view}")


def recorded(settings: KafkaSettings, view: dict[str, Any], limit_s: float = 40) -> int:
    """The epoch of a stream, once a record of it is there."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if view["epoch"] in {r["stream"]["epoch"] for r in records(settings, [view["id"]])[view["id"]]}:
            return int(view["epoch"])
        time.sleep(0.2)
    pytest.fail(f"nothing was recorded of {view}")


def test_a_camera_is_added_comes_back_after_its_server_was_killed_and_is_removed(
    system: System, plan: Plan, rtsp: Studio, api: httpx.Client
) -> None:
    assert api.post("/v1/streams", json={"id": "cam", "url": rtsp.url()}).status_code == 201
    assert api.post("/v1/streams", json={"id": "cam", "url": rtsp.url()}).status_code == 409
    first = recorded(plan.kafka, until("online", "cam", api))
    os.kill(process_of("camera-cam", system), signal.SIGKILL)
    second = recorded(plan.kafka, until("online", "cam", api, epoch=first + 1))
    rtsp.kill()
    until("reconnecting", "cam", api)
    rtsp.start()
    third = recorded(plan.kafka, until("online", "cam", api, epoch=second + 1))
    assert third == first + 2
    assert api.delete("/v1/streams/cam").status_code == 204
    assert api.get("/v1/streams/cam").status_code == 404
    found = records(plan.kafka, ["cam"])["cam"]
    stands = [(record["stream"]["epoch"], record["frame"]["seq"]) for record in found]
    assert stands == sorted(set(stands)), "a frame came twice, or out of order"
    assert {epoch for epoch, _ in stands} == {first, second, third}
    assert {record["stream"]["source"] for record in found} == {"rtsp"}


def test_one_camera_too_many_is_rejected_with_a_reason_and_nobody_else_notices(
    system: System, plan: Plan, rtsp: Studio, api: httpx.Client
) -> None:
    for name in ("one", "two"):
        assert api.post("/v1/streams", json={"id": name, "url": rtsp.url()}).status_code == 201
    seen = {name: until("online", name, api)["epoch"] for name in ("one", "two")}
    refused = api.post("/v1/streams", json={"id": "three", "url": rtsp.url()})
    assert refused.status_code == 503
    assert "2 cameras are watched" in refused.json()["detail"]
    assert api.get("/v1/streams/three").json()["state"] == "rejected"
    time.sleep(2)
    assert {name: until("online", name, api)["epoch"] for name in seen} == seen
    told = last_statuses(plan.kafka)
    assert (told["three"].state, told["one"].state) == ("rejected", "online")
