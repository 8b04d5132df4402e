"""The whole system: Kafka and cameras in, Kafka out, on a Ray cluster, whatever is killed on the way."""

from __future__ import annotations

import os
import re
import signal
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.edges.video_messages import VideoMessage
from pipeline.servers.kafka_server import KafkaServer
from pipeline.serving.work import Plan
from tests.support.serving import (
    CELL,
    FRAMES,
    PARTITIONS,
    PEOPLE,
    Cast,
    Records,
    States,
    analysed,
    eventually,
    film,
    process_of,
    publish,
    records,
    states,
    undisturbed,
)

ray = pytest.importorskip("ray")

if TYPE_CHECKING:
    from pipeline.serving.application import System

pytestmark = [pytest.mark.ray, pytest.mark.broker, pytest.mark.filterwarnings("ignore")]
LONG = 2 * FRAMES
HASH = re.compile(r"(?<=['\"])[0-9a-f]{12,32}(?=['\"])")


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


def three(people: Cast, name: str) -> list[VideoMessage]:
    """Three streams that differ in nothing but these four letters from those of another name."""
    films = [film(people, person, f"{name:.4}-{number}", LONG) for number, person in enumerate(PEOPLE[:3])]
    return [message for group in zip(*films, strict=True) for message in group]


@pytest.fixture(scope="module")
def calm(plan: Plan, people: Cast) -> tuple[Records, States]:
    """What comes of the three streams where nobody is killed."""
    return undisturbed(plan, three(people, "calm"))


def renamed(found: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Records or states as those of the streams that are called calm; ids of explanations are made of the name."""

    def text(one: Any, name: str) -> str:
        told = str(zlib.decompress(one.partition(b"\n")[2]) if isinstance(one, bytes) and one else one)
        return HASH.sub("id", told).replace(name, f"calm{name[4:]}")

    return {f"calm{name[4:]}": [text(one, name) for one in of] for name, of in found.items()}


@pytest.mark.parametrize("victim", ["worker", "replica", "frozen replica", "supervisor", "broker"])
def test_whatever_is_killed_every_frame_comes_out_once_in_order_and_the_states_are_the_same(
    victim: str, system: System, plan: Plan, people: Cast, own_kafka: KafkaServer, calm: tuple[Records, States]
) -> None:
    messages = three(people, victim)
    streams = sorted({message.stream for message in messages})
    publish(plan.kafka, messages[: len(messages) // 2])
    eventually(lambda: any(records(plan.kafka, streams).values()), "nothing came out")
    kill(victim, system, own_kafka)
    publish(plan.kafka, messages[len(messages) // 2 :])
    found = analysed(plan.kafka, streams, LONG)
    assert {stream: [r["frame"]["seq"] for r in of] for stream, of in found.items()} == {
        stream: list(range(LONG)) for stream in streams
    }
    assert renamed(found) == renamed(calm[0])
    assert renamed(states(plan.kafka, streams)) == renamed(calm[1])


def kill(victim: str, system: System, broker: KafkaServer) -> None:
    if victim == "broker":
        broker.kill()
        time.sleep(1)
        broker.start()
    elif victim == "worker":
        for number in range(PARTITIONS):
            os.kill(process_of(f"partition-{number}", system), signal.SIGKILL)
    elif victim == "replica":
        os.kill(replica(system), signal.SIGKILL)
    elif victim == "frozen replica":
        os.kill(frozen := replica(system), signal.SIGSTOP)
        time.sleep(4)
        os.kill(frozen, signal.SIGCONT)
    else:
        os.kill(ray.get(ray.get_actor("omote-supervisor", "omote").pid.remote()), signal.SIGKILL)
        time.sleep(1)
        eventually(lambda: running_workers(system) == PARTITIONS, "the workers are not known again", 30)


def replica(system: System) -> int:
    """The process that finds faces."""
    handle = system.deployments.replicas.handle("detect")
    return int(handle.pid.remote().result(timeout_s=20))


def running_workers(system: System) -> int:
    try:
        return sum(view.state == "running" for view in system.workers())
    except Exception:  # whatever Ray says while the supervisor is not there
        return 0
