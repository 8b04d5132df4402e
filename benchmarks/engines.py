"""Which inference engine is fastest on this CPU? Times every packaged net under each, and prints a table.

    python benchmarks/engines.py [--json FILE] [--quick]

Engines take turns within a round, so that what else the machine does meets all alike; figures are medians over the
rounds, in milliseconds per picture: of wall time, and under `cpu` of processor time, which a busy machine disturbs
less. `1t` and `2t` are one caller with so many threads inside a call, `2x1t` two callers at once with one thread
each, as overlapping micro-batches call.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import torch

from operators.engine import Engine, engine
from operators.nets import expression, mobilefacenet, retinaface
from pipeline.compute import Compute

ENGINES = ("torch", "onnx", "openvino")
BATCH = 4
NETS: dict[ModuleType, tuple[int, int]] = {retinaface: (384, 640), mobilefacenet: (112, 112), expression: (112, 112)}
FRAME = {"retinaface": 1, "mobilefacenet": 1, "expression": 4}
"""How often a frame with four faces calls each net: a face is embedded now and then, its emotion read always."""
WAYS = {"1t": (1, 1), "2t": (1, 2), "2x1t": (2, 1)}
"""Callers, and threads of each."""

Case = tuple[str, str, str]
Times = np.ndarray
"""(rounds, 2) milliseconds per picture: wall, processor."""


def measure(rounds: int, engines: tuple[str, ...]) -> dict[Case, Times]:
    """The times of each (net, engine, way)."""
    runs, random = dict(cases(engines)), Random(0)
    taken: dict[Case, list[tuple[float, float]]] = {case: [] for case in runs}
    for _ in range(rounds + 1):
        for case in sorted(runs, key=lambda case: (case[0], case[2], random.random())):
            taken[case].append(runs[case]())
    return {case: np.array(times[1:]) for case, times in taken.items()}  # the first round warms up


def cases(engines: tuple[str, ...]) -> Iterator[tuple[Case, Callable[[], tuple[float, float]]]]:
    """A timed run for every net, engine and way to call it."""
    for net, (height, width) in NETS.items():
        name, loaded = net.__name__.rpartition(".")[2], net.load()
        images = np.random.default_rng(0).integers(0, 256, (BATCH, height, width, 3), dtype=np.uint8)
        for kind in engines:
            for way, (callers, threads) in WAYS.items():
                run = engine(loaded, (images,), Compute(device="cpu", engine=kind, threads=threads), name)
                yield (name, kind, way), timed(run, images, callers, threads)


def timed(run: Engine, images: np.ndarray, callers: int, threads: int) -> Callable[[], tuple[float, float]]:
    """A function that gives the milliseconds of wall and processor time per picture of one call by each caller."""
    scale = 1e3 / (BATCH * callers)

    def once() -> tuple[float, float]:
        torch.set_num_threads(threads)  # one number for the process, so that it is set again for each case
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(lambda _: None, range(callers)))  # the threads are started before the clock
            wall, processor = time.perf_counter(), time.process_time()
            list(pool.map(run, [images] * callers))
            return (time.perf_counter() - wall) * scale, (time.process_time() - processor) * scale

    return once


def figures(taken: dict[Case, Times], engines: tuple[str, ...]) -> dict[str, object]:
    """The flat object of `--json`: medians, the cost of a whole frame, and how much faster OpenVINO is."""
    taken = taken | {
        ("frame", kind, way): sum(taken[net, kind, way] * times for net, times in FRAME.items())
        for kind in engines
        for way in WAYS
    }
    flat: dict[str, object] = {}
    for (net, kind, way), times in taken.items():
        flat[f"{net}_{kind}_{way}_ms"], flat[f"{net}_{kind}_{way}_cpu_ms"] = np.median(times, axis=0)
    for way in WAYS if "openvino" in engines else ():
        faster = np.median(taken["frame", "onnx", way] / taken["frame", "openvino", way], axis=0)
        flat[f"speedup_openvino_over_onnx_{way}"], flat[f"speedup_openvino_over_onnx_{way}_cpu"] = faster
    return flat


def table(flat: dict[str, object], engines: tuple[str, ...]) -> Iterator[str]:
    """The figures as lines of a Markdown table."""
    columns = [(kind, way) for way in WAYS for kind in engines]
    yield "| ms per picture, wall (processor) | " + " | ".join(f"{kind} {way}" for kind, way in columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for net in [*FRAME, "frame"]:
        names = [f"{net}_{kind}_{way}" for kind, way in columns]
        cells = (f"{flat[f'{name}_ms']:.1f} ({flat[f'{name}_cpu_ms']:.1f})" for name in names)
        yield f"| {net} | " + " | ".join(cells) + " |"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--json", type=Path, help="write the figures there")
    arguments.add_argument("--quick", action="store_true", help="fewer rounds")
    asked = arguments.parse_args()
    here = tuple(kind for kind in ENGINES if kind != "openvino" or importlib.util.find_spec(kind))
    flat = figures(measure(5 if asked.quick else 25, here), here)
    flat |= {"device": "cpu", "cores": os.cpu_count(), "left_out": sorted(set(ENGINES) - set(here))}
    print("\n".join(table(flat, here)))
    print(*(f"{key}: {value:.2f}" for key, value in flat.items() if key.startswith("speedup")), sep="\n")
    if asked.json:
        asked.json.write_text(json.dumps(flat, indent=1))


if __name__ == "__main__":
    main()
