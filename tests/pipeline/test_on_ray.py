"""The graph on a Ray cluster gives what it gives here, also when replicas die."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import GraphError
from pipeline.graph import Graph, load
from pipeline.records import FrameRecord
from pipeline.runners.local import run_local
from pipeline.scale import Scale, StageScale, load_scale
from pipeline.walk import Journey, Walk

ray = pytest.importorskip("ray")

from pipeline.runners.on_ray import Deployments, cluster, run_on_ray  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
SCALE = load_scale(ROOT / "deploy" / "scale" / "laptop.yaml")


@pytest.fixture(scope="module")
def on_a_cluster() -> Iterator[None]:
    with cluster(cpus=4):
        yield


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


def test_records_are_those_of_the_local_runner(on_a_cluster: None, graph: Graph) -> None:
    here, there = Kept(), Kept()
    run_local(graph, on_journey=here)
    run_on_ray(graph, Scale(**{**SCALE.model_dump(), "stages": {}}), on_journey=there)
    assert len(here.records) == 72
    assert there.records == here.records


def test_a_replica_killed_on_the_way_costs_nothing(
    on_a_cluster: None, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, killed = Kept(), Kept(), []
    run_local(graph, on_journey=here)

    class Watched(Deployments):
        def __init__(self, graph: Graph, scale: Scale) -> None:
            super().__init__(graph, scale)
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
    on_a_cluster: None, graph: Graph
) -> None:
    with pytest.raises(GraphError, match=r"needs 2 GPU .* the cluster has 0"):
        run_on_ray(graph, Scale(stages={"detect": StageScale(num_gpus=2)}))


def test_a_scale_may_name_only_stages_without_state(graph: Graph) -> None:
    with pytest.raises(GraphError, match=r"the scale names \['track'\]"):
        Scale(stages={"track": StageScale()}).groups(graph)


@pytest.mark.parametrize("file", sorted((ROOT / "deploy" / "scale").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_scale_file_fits_the_file_graph(file: Path, graph: Graph) -> None:
    known = load_scale(file)
    whole = load(ROOT / "deploy" / "graphs" / "file.yaml", {"input": "x"})
    assert {stage for group in known.groups(whole).values() for stage in group}
