"""Replicas follow the load, and nodes follow the replicas."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from pipeline.graph import Graph, Stage
from pipeline.scale import Scale, StageScale
from pipeline.testing import make_frame, raw_chunks
from pipeline.walk import Journey
from tests.support import growing_cluster
from tests.support.growing_cluster import until

pytest.importorskip("ray")

from pipeline.runners.on_ray import Deployments, Replicas

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
FRAME = make_frame(seq=7)


@pytest.fixture
def graph() -> Graph:
    """decode → pause: each call sleeps for nine tenths of 0.2 s."""
    pause = Stage(use="pipeline.testing:Pause", after="decode", args={"seconds": 0.2})
    return Graph({"decode": Stage(use="operators.decode:Decode"), "pause": pause})


@contextmanager
def load(replicas: Replicas, callers: int) -> Iterator[None]:
    """Calls without end, from so many threads, while the block lasts."""
    over = threading.Event()
    journey = Journey(raw_chunks([FRAME.image])[0], 0.0)

    def call() -> None:
        while not over.is_set():
            replicas.call("pause", journey, [FRAME])

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_replicas_follow_the_load_up_and_down(ray_cluster: None, graph: Graph) -> None:
    wanted = StageScale(min=1, max=3, target_ongoing_requests=1)
    scale = Scale(stages={"pause": wanted}, upscale_delay_s=0.5, downscale_delay_s=2)
    with closing(Deployments(graph, scale)) as deployments:
        assert deployments.running() == {"pause": 1}
        with load(deployments.replicas, callers=6):
            until(lambda: deployments.running()["pause"] > 1, seconds=10)
            until(lambda: deployments.running() == {"pause": 3}, seconds=20)
        until(lambda: deployments.running() == {"pause": 1}, seconds=20)


def test_a_gpu_node_comes_for_a_stage_that_wants_one_and_goes_and_what_can_never_be_is_refused() -> None:
    with growing_cluster.growing_cluster() as address:
        command = [sys.executable, growing_cluster.__file__, address]  # a process is connected to one cluster only
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["gpus_before"], seen["answer"], seen["gpus_during"]) == (0, 1, 1)
    assert seen["answer_s"] < 30
    assert seen["gone_s"] < 60
    for said, seconds in (seen["too_large"], seen["too_many"]):
        assert said.startswith("the graph needs")
        assert "of pause, and the cluster can add no node that gives it" in said
        assert seconds < 20
    assert "2 GPU" in seen["too_large"][0]
