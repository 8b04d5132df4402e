"""Every runner, for the promises that each of them must keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.runners.local import run_local

# A runner and how many micro-batches it lets be on their way; the next runner is one more line.
RUNNERS = {
    "local, one after the other": (lambda *a, **k: run_local(*a, threads=0, window=1, **k), 1),
    "local, 2 threads": (lambda *a, **k: run_local(*a, threads=2, window=3, **k), 3),
    "local, 4 threads": (lambda *a, **k: run_local(*a, threads=4, window=5, **k), 5),
}


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> tuple[Callable[..., None], int]:
    return RUNNERS[request.param]


@pytest.fixture
def run(runner: tuple[Callable[..., None], int]) -> Callable[..., None]:
    return runner[0]


@pytest.fixture
def window(runner: tuple[Callable[..., None], int]) -> int:
    return runner[1]
