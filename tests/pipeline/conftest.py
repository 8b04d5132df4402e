"""Every runner, for the promises that each of them must keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.graph import Graph
from pipeline.runners.local import run_local
from pipeline.scale import Scale


def run_on_ray(graph: Graph, *arguments: Any, **options: Any) -> None:
    """On Ray, all stages without state in one replica: it starts sooner than several."""
    from pipeline.runners import on_ray

    pure = tuple(name for name in graph.order if not graph.keyed(name))
    on_ray.run_on_ray(graph, Scale(chain=(pure,) if pure else ()), *arguments, window=4, **options)


# A runner and how many micro-batches it lets be on their way; the next runner is one more line.
RUNNERS = {
    "local, one after the other": (lambda *a, **k: run_local(*a, threads=0, window=1, **k), 1),
    "local, 2 threads": (lambda *a, **k: run_local(*a, threads=2, window=3, **k), 3),
    "local, 4 threads": (lambda *a, **k: run_local(*a, threads=4, window=5, **k), 5),
    "on Ray": (run_on_ray, 4),
}
# Ray warns of this and that, which is nothing that we could mend.
MARKS = {"on Ray": (pytest.mark.ray, pytest.mark.filterwarnings("ignore"))}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster for all tests."""
    on_ray = pytest.importorskip("pipeline.runners.on_ray", reason="Ray is not installed")
    with on_ray.cluster(cpus=4):
        yield


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in RUNNERS])
def runner(request: pytest.FixtureRequest) -> tuple[Callable[..., None], int]:
    if request.param == "on Ray":
        request.getfixturevalue("ray_cluster")
    return RUNNERS[request.param]


@pytest.fixture
def run(runner: tuple[Callable[..., None], int]) -> Callable[..., None]:
    return runner[0]


@pytest.fixture
def window(runner: tuple[Callable[..., None], int]) -> int:
    return runner[1]
