"""Figures of matchers that follow Redis: how soon one is ready, and sees a change."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from uuid import uuid4

import numpy as np
import typer
from pydantic import SecretStr

from pipeline.edges.redis_gallery import RedisFeed
from pipeline.edges.redis_store import GalleryStore
from pipeline.gallery.keys import Keys
from pipeline.gallery.matcher import Matcher
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Subject
from pipeline.packets import Floats
from pipeline.servers.redis_server import RedisServer

STEP = 500  # templates of one step


def vectors(count: int, seed: int) -> Floats:
    """Unit vectors, (count, 512) float32."""
    drawn = np.random.default_rng(seed).normal(size=(count, 512)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def measure(*, quick: bool = False) -> dict[str, float]:
    """``cold_start_s_100k``, ``propagation_p50_ms``, ``propagation_p99_ms``; a tenth of it all if quick."""
    templates, changes = (10_000, 50) if quick else (100_000, 500)
    keys = Keys.new()
    with TemporaryDirectory() as folder, RedisServer(Path(folder), "always") as server:
        url = SecretStr(server.url)
        with closing(GalleryStore(url, keys)) as store:
            _fill(store, templates)
            began = time.perf_counter()
            with closing(Matcher(RedisFeed(GalleryStore(url, keys)))) as matcher:
                cold_s = time.perf_counter() - began
                assert len(matcher) == templates
                waits = sorted(_propagation(store, matcher, n) for n in range(changes))
    return {
        "cold_start_s_100k": cold_s * 100_000 / templates,
        "propagation_p50_ms": waits[len(waits) // 2],
        "propagation_p99_ms": waits[int(len(waits) * 0.99)],
    }


def _fill(store: GalleryStore, count: int) -> None:
    for at in range(0, count, STEP):
        name = f"person {at // STEP}"
        store.enrol(Subject(id=name), [Template(name, v, 1.0, id=str(uuid4())) for v in vectors(STEP, at)])


def _propagation(store: GalleryStore, matcher: Matcher, number: int) -> float:
    """Milliseconds from the call that enrols to the first match."""
    vector = vectors(1, 10**6 + number)[0]
    name = f"new {number}"
    began = time.perf_counter()
    store.enrol(Subject(id=name), [Template(name, vector, 1.0, id=str(uuid4()))])
    while not (found := matcher.match(vector[None], [False], 1)[0].best) or found[0].subject_id != name:
        assert time.perf_counter() - began < 10, "the matcher never saw it"
        time.sleep(0.0005)
    return (time.perf_counter() - began) * 1e3


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    quick: Annotated[bool, typer.Option(help="Less of everything.")] = False,
) -> None:
    """Measure and print the figures."""
    figures = measure(quick=quick)
    for name, value in figures.items():
        print(f"{name:28} {value:12.3f}")
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(main)
