"""Cameras of the whole system: they come and go, break and come back, and nobody else notices."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import follow
from pipeline.edges.status_topic import last_statuses
from pipeline.edges.video_messages import VideoMessage
from pipeline.servers.redis_server import RedisServer
from pipeline.serving.work import Plan
from tests.support.cameras import Studio
from tests.support.serving import (
    CAMERAS,
    FRAMES,
    PEOPLE,
    ROOT,
    Cast,
    analysed,
    eventually,
    film,
    process_of,
    publish,
    records,
)

pytest.importorskip("ray")

if TYPE_CHECKING:
    from pipeline.serving.application import System

pytestmark = [pytest.mark.ray, pytest.mark.broker, pytest.mark.filterwarnings("ignore")]


def until(state: str, stream: str, api: httpx.Client, epoch: int = 0) -> dict[str, Any]:
    """The view of a stream, once it is in this state and in a later epoch than ``epoch``."""

    def found() -> dict[str, Any]:
        view = (answer := api.get(f"/v1/streams/{stream}")).json()
        fits = answer.status_code == 200 and view["state"] == state and view["epoch"] > epoch
        return dict(view) if fits else {}

    return dict(eventually(found, f"stream {stream} did not become {state}", 40))


def recorded(settings: KafkaSettings, view: dict[str, Any]) -> int:
    """The epoch of a stream, once a record of it is there."""
    stream, epoch = view["id"], int(view["epoch"])
    eventually(lambda: epoch in epochs(settings, stream), f"nothing was recorded of {view}", 40)
    return epoch


def epochs(settings: KafkaSettings, stream: str) -> list[int]:
    """The epochs of a stream, one after the other; every frame is there once, and in order."""
    stands = [(r["stream"]["epoch"], r["frame"]["seq"]) for r in records(settings, [stream])[stream]]
    assert stands == sorted(set(stands)), f"a frame of {stream} came twice, or out of order"
    return sorted({epoch for epoch, _ in stands})


def added(api: httpx.Client, stream: str, server: Studio) -> int:
    return api.post("/v1/streams", json={"id": stream, "url": server.url()}).status_code


def test_a_camera_is_added_comes_back_after_its_worker_and_its_server_were_killed_and_is_removed(
    system: System, plan: Plan, rtsp: Studio, api: httpx.Client
) -> None:
    assert added(api, "cam", rtsp) == 201
    assert added(api, "cam", rtsp) == 409
    first = recorded(plan.kafka, until("online", "cam", api))
    os.kill(process_of("camera-cam", system), signal.SIGKILL)
    second = recorded(plan.kafka, until("online", "cam", api, first))
    rtsp.kill()
    until("reconnecting", "cam", api)
    rtsp.start()
    third = recorded(plan.kafka, until("online", "cam", api, second))
    assert api.delete("/v1/streams/cam").status_code == 204
    assert api.get("/v1/streams/cam").status_code == 404
    assert set(epochs(plan.kafka, "cam")) >= {first, second, third}  # a server that starts may break off once more
    assert {record["stream"]["source"] for record in records(plan.kafka, ["cam"])["cam"]} == {"rtsp"}


def test_a_server_that_freezes_and_a_camera_of_another_size_begin_new_epochs_and_no_other_stream_notices(
    plan: Plan, people: Cast, rtsp: Studio, steady: Studio, api: httpx.Client
) -> None:
    assert (added(api, "moody", rtsp), added(api, "calm", steady)) == (201, 201)
    first, steadily = (recorded(plan.kafka, until("online", name, api)) for name in ("moody", "calm"))
    rtsp.freeze()
    until("reconnecting", "moody", api)
    publish(plan.kafka, film(people, PEOPLE[0], "meanwhile"))
    rtsp.thaw()
    second = recorded(plan.kafka, until("online", "moody", api, first))
    rtsp.publish("cam", width=320, height=240)
    third = recorded(plan.kafka, until("online", "moody", api, second))
    sizes = {
        record["stream"]["epoch"]: (record["frame"]["w"], record["frame"]["h"])
        for record in records(plan.kafka, ["moody"])["moody"]
    }
    assert (sizes[first], sizes[second], sizes[third]) == ((160, 120), (160, 120), (320, 240))
    assert epochs(plan.kafka, "calm") == [steadily], "the other camera was disturbed"
    whole = analysed(plan.kafka, ["meanwhile"])["meanwhile"]
    assert [record["frame"]["seq"] for record in whole] == list(range(FRAMES))


def test_while_redis_is_away_running_streams_go_on_nothing_is_added_and_no_epoch_is_used_twice(
    plan: Plan, people: Cast, rtsp: Studio, steady: Studio, api: httpx.Client, mortal_redis: RedisServer
) -> None:
    assert (added(api, "waits", rtsp), added(api, "on", steady)) == (201, 201)
    first, steadily = (recorded(plan.kafka, until("online", name, api)) for name in ("waits", "on"))
    mortal_redis.kill()
    rtsp.kill()
    refused = api.post("/v1/streams", json={"id": "new", "url": steady.url()})
    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
    assert "Redis at redis://" in refused.json()["detail"]
    rtsp.start()
    rtsp.publish("cam")
    eventually(lambda: "Redis" in until("reconnecting", "waits", api)["reason"], "it does not say what it waits for")
    before = len(records(plan.kafka, ["on"])["on"])
    publish(plan.kafka, film(people, PEOPLE[1], "without"))
    analysed(plan.kafka, ["without"])
    assert len(records(plan.kafka, ["on"])["on"]) > before
    mortal_redis.start()
    second = recorded(plan.kafka, until("online", "waits", api, first))
    assert second > first
    assert epochs(plan.kafka, "on") == [steadily]
    assert api.get("/v1/streams/on").status_code == 200, "a registry that was away forgets no camera"


def test_one_camera_too_many_is_rejected_with_a_reason_and_nobody_else_notices(
    plan: Plan, steady: Studio, api: httpx.Client
) -> None:
    names = ("one", "two", "three")
    assert [added(api, name, steady) for name in names] == [201] * CAMERAS
    seen = {name: until("online", name, api)["epoch"] for name in names}
    refused = api.post("/v1/streams", json={"id": "four", "url": steady.url()})
    assert refused.status_code == 503
    assert "3 cameras are watched" in refused.json()["detail"]
    assert api.get("/v1/streams/four").json()["state"] == "rejected"
    time.sleep(2)
    assert {name: until("online", name, api)["epoch"] for name in seen} == seen
    told = last_statuses(plan.kafka)
    assert (told["four"].state, told["one"].state) == ("rejected", "online")


def latency_s(settings: KafkaSettings, messages: Sequence[VideoMessage]) -> float:
    """Seconds from sending a picture to reading its record, the median; the pictures come at 25 a second."""
    (stream,) = {message.stream for message in messages}
    sent: dict[str, float] = {}
    came: dict[str, float] = {}

    def read() -> None:
        for message in follow(settings, [settings.topic("annotations")], "beginning", 30):
            if message.stream == stream:
                came[message.said["pts-ns"]] = time.monotonic()
            if len(came) == len(messages):
                return

    reader = Thread(target=read)
    reader.start()
    with closing(settings.producer()) as producer:
        for message in messages:
            sent[str(message.pts_ns)] = time.monotonic()
            producer.send(settings.topic("video"), message.data, stream.encode(), message.headers, 0)
            producer.flush()
            time.sleep(0.04)
    reader.join()
    return statistics.median(came[moment] - sent[moment] for moment in sent)


@contextmanager
def slow(settings: KafkaSettings, people: Cast) -> Iterator[None]:
    """A camera on another partition that sends a picture now and then."""
    over = Event()

    def send() -> None:
        for message in film(people, PEOPLE[2], "slow"):
            publish(settings, [message], 1)
            if over.wait(1):
                return

    thread = Thread(target=send)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_slow_camera_does_not_slow_down_a_fast_one_on_another_partition(
    system: System, plan: Plan, people: Cast
) -> None:
    del system
    latency_s(plan.kafka, film(people, PEOPLE[5], "first", 16))  # whatever is done once is done
    by_itself = latency_s(plan.kafka, film(people, PEOPLE[5], "fast"))
    with slow(plan.kafka, people):
        beside = latency_s(plan.kafka, film(people, PEOPLE[5], "beside"))
    assert beside < 2 * by_itself + 0.5, f"{beside:.2f} s beside a slow camera, {by_itself:.2f} s alone"


READER = """
import sys, time
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import follow
settings = KafkaSettings(servers=sys.argv[1], prefix=sys.argv[2])
for message in follow(settings, [settings.topic("annotations")], "beginning", 3600):
    print(message.stream, message.said["frame-seq"], flush=True)
"""


def test_a_reader_that_stops_reading_changes_nothing_for_anybody_and_then_gets_every_record_once(
    system: System, plan: Plan, people: Cast, tmp_path: Any
) -> None:
    del system
    publish(plan.kafka, film(people, PEOPLE[3], "early"))
    with (tmp_path / "read").open("w+") as told:
        command = [sys.executable, "-c", READER, plan.kafka.servers, plan.kafka.prefix]
        reader = subprocess.Popen(command, cwd=ROOT, stdout=told)
        try:
            read = (tmp_path / "read").read_text
            eventually(lambda: "early 0\n" in read(), "the reader reads nothing")
            reader.send_signal(signal.SIGSTOP)
            publish(plan.kafka, film(people, PEOPLE[4], "unseen", 2 * FRAMES))
            analysed(plan.kafka, ["early"])
            analysed(plan.kafka, ["unseen"], 2 * FRAMES)
            assert "unseen" not in read()
            reader.send_signal(signal.SIGCONT)
            eventually(lambda: f"unseen {2 * FRAMES - 1}\n" in read(), "the reader does not catch up")
        finally:
            with suppress(ProcessLookupError):
                reader.kill()
            reader.wait()
        for stream, frames in (("early", FRAMES), ("unseen", 2 * FRAMES)):
            assert [line for line in read().splitlines() if line.startswith(f"{stream} ")] == [
                f"{stream} {number}" for number in range(frames)
            ]
