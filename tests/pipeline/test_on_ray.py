"""The graph on a Ray cluster gives what it gives here, also when replicas die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.errors import GraphError
from pipeline.graph import Graph, Stage, load
from pipeline.records import FrameRecord
from pipeline.runners.local import run_local
from pipeline.scale import Scale, StageScale, load_scale
from pipeline.testing import MemorySource, make_frame, noise, raw_chunks
from pipeline.walk import Journey, Walk
from tests.support.growing_cluster import until

ray = pytest.importorskip("ray")

from pipeline.runners.on_ray import RUN, Deployments, claimed, run_on_ray  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
LAPTOP = load_scale(ROOT / "deploy" / "scale" / "laptop.yaml")
SCALE = LAPTOP.model_copy(update={"here": ()})  # it names a stage that these graphs end before


@pytest.fixture
def graph(weights_ready: None, clip: Callable[[str], Path]) -> Graph:
    del weights_ready
    declared = load(ROOT / "deploy" / "graphs" / "file.yaml", {"input": str(clip("single_face"))})
    return declared.up_to("annotate")


class Kept:
    """Takes the records of a run, without what differs from run to run."""

    def __init__(self) -> None:
        self.records: list[dict[str, object]] = []

    def __call__(self, journey: Journey, walk: Walk) -> None:
        del walk
        found = [packet for packet in journey.out["annotate"] if isinstance(packet, FrameRecord)]
        self.records += [record.model_dump(exclude={"timings_ms"}) for record in found]


def test_records_are_those_of_the_local_runner(ray_cluster: None, graph: Graph) -> None:
    here, there = Kept(), Kept()
    run_local(graph, on_journey=here)
    run_on_ray(graph, SCALE.model_copy(update={"stages": {}}), on_journey=there)
    assert len(here.records) == 72
    assert there.records == here.records


def test_a_replica_killed_on_the_way_costs_nothing(
    ray_cluster: None, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, killed = Kept(), Kept(), []
    run_local(graph, on_journey=here)

    class Watched(Deployments):
        def __init__(self, graph: Graph, scale: Scale, application: str) -> None:
            super().__init__(graph, scale, application)
            threading.Thread(target=self.kill, daemon=True).start()

        def kill(self) -> None:
            time.sleep(0.3)
            pid = self.replicas.handle("detect").pid.remote().result(timeout_s=20)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    monkeypatch.setattr("pipeline.runners.on_ray.Deployments", Watched)
    run_on_ray(graph, SCALE, on_journey=there)
    assert killed
    assert there.records == here.records


def test_a_graph_that_the_cluster_can_never_hold_is_refused_with_what_is_missing(
    ray_cluster: None, graph: Graph
) -> None:
    with pytest.raises(GraphError, match=r"needs 2 GPU .* the cluster has 0"):
        run_on_ray(graph, Scale(stages={"detect": StageScale(num_gpus=2)}))


def calm(seconds: float = 0.0) -> Graph:
    """decode → pause, where a call takes up to so long."""
    pause = Stage(use="pipeline.testing:Pause", after="decode", args={"seconds": seconds})
    return Graph({"decode": Stage(use="operators.decode:Decode"), "pause": pause})


def test_a_run_leaves_the_deployments_of_others_alone(ray_cluster: None) -> None:
    with closing(Deployments(calm(), Scale())) as others:
        before = others.replicas.handle("pause").pid.remote().result(timeout_s=20)
        run_on_ray(calm(), Scale(), MemorySource(raw_chunks(noise(4, 8, 8))))
        assert others.replicas.handle("pause").pid.remote().result(timeout_s=20) == before


def test_what_a_killed_run_left_is_ended_by_the_next_one(ray_cluster: None) -> None:
    Deployments(calm(), Scale(), f"{RUN}killed")
    with claimed(f"{RUN}alive"), closing(Deployments(calm(), Scale(), f"{RUN}alive")):
        run_on_ray(calm(), Scale(), MemorySource(raw_chunks(noise(4, 8, 8))))
        assert set(ray.serve.status().applications) == {f"{RUN}alive"}


def test_a_replica_that_hangs_is_waited_for_no_longer_than_a_call_may_take_and_is_replaced(ray_cluster: None) -> None:
    given, arrived = raw_chunks(noise(200, 8, 8), units=2), []
    declared, scale = calm(0.02), Scale(call_timeout_s=2, attempts=20)
    with closing(Deployments(declared, scale)) as deployments:
        pid = deployments.replicas.handle("pause").pid.remote().result(timeout_s=20)

        def note(journey: Journey, walk: Walk) -> None:
            arrived.append((journey.chunk.seq, time.monotonic()))
            if len(arrived) == 20:
                os.kill(pid, signal.SIGSTOP)

        elsewhere = deployments.replicas.stages
        run_local(declared, MemorySource(given), window=4, threads=6, on_journey=note, elsewhere=elsewhere)
        assert deployments.replicas.handle("pause").pid.remote().result(timeout_s=20) != pid
    assert [number for number, _ in arrived] == list(range(100))
    assert 2 < max(later - earlier for (_, earlier), (_, later) in pairwise(arrived)) < 30


def test_what_calls_leave_in_the_object_store_is_freed(ray_cluster: None) -> None:
    frames = [make_frame(n, height=360, width=640) for n in range(4)]
    journey = Journey(raw_chunks([frames[0].image])[0], 0.0)

    def used() -> float:
        return ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]

    before = used()  # what tests before this one left, and Serve's own
    with closing(Deployments(calm(), Scale())) as deployments:
        for _ in range(300):
            given = deployments.replicas.call("pause", journey, frames)
        assert len(given) == 4
        one_call = 2 * sum(frame.image.nbytes for frame in frames)
        until(lambda: used() <= before + one_call, seconds=30)  # the cluster counts once in a while
        del given
        until(lambda: used() < before + frames[0].image.nbytes, seconds=30)


def test_pixels_reach_the_replica_without_a_copy_and_nobody_can_write_on_them(ray_cluster: None) -> None:
    with closing(Deployments(calm(), Scale())) as deployments:
        frame = make_frame(3, height=720, width=1280)
        (given,) = deployments.replicas.call("pause", Journey(raw_chunks([frame.image])[0], 0.0), [frame])
    assert not given.image.flags.writeable
    assert not given.image.flags.owndata
    assert (given.image == frame.image).all()


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        began = time.monotonic()
        # In a process of its own: this one may be connected to the cluster of the other tests.
        script = f"from pipeline.runners.on_ray import cluster\nwith cluster({address!r}): pass"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert f"no Ray cluster answers at '{address}'" in done.stderr
    assert time.monotonic() - began < 20


def test_a_stage_that_cannot_start_is_named_with_its_reason(ray_cluster: None) -> None:
    logged = Stage(use="pipeline.testing:Logged", after="decode", args={"name": "a", "log": "/nowhere/log"})
    declared = Graph({"decode": Stage(use="operators.decode:Decode"), "logged": logged})
    with pytest.raises(GraphError, match=r"deployment of logged cannot start: FileNotFoundError: .*'/nowhere/log'"):
        run_on_ray(declared, Scale(), MemorySource())


def test_a_scale_may_keep_a_stage_with_the_stream(graph: Graph) -> None:
    assert set(Scale(here=("unmask",)).groups(graph)) == {"detect", "embed", "encode"}
    with pytest.raises(GraphError, match=r"the scale names \['unmask'\] twice"):
        Scale(here=("unmask",), chain=(("unmask", "embed"),)).groups(graph)


def test_a_scale_may_name_only_stages_without_state(graph: Graph) -> None:
    with pytest.raises(GraphError, match=r"the scale names \['track'\]"):
        Scale(stages={"track": StageScale()}).groups(graph)


@pytest.mark.parametrize("file", sorted((ROOT / "deploy" / "scale").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_scale_file_fits_the_file_graph(file: Path, graph: Graph) -> None:
    known = load_scale(file)
    whole = load(ROOT / "deploy" / "graphs" / "file.yaml", {"input": "x"})
    assert {stage for group in known.groups(whole).values() for stage in group}
