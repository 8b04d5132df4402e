"""The workers as Ray actors: starting them, hearing from them, moving and ending them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.scale import Scale
from pipeline.serving.stream_worker import FINISH_S, Report, StreamWorker, Task, name_of
from pipeline.serving.streams import WorkerView
from pipeline.serving.work import Plan

ANSWER_S = 3.0
SILENT_S = 60.0  # a worker that does not answer for so long is killed, and Ray starts another

log = logging.getLogger(__name__)


class Crew:
    """The workers of one application. They outlive whoever started them, and are found again by their names.

    Attributes:
        reports: The last report of each worker, by name.
    """

    def __init__(self, plan: Plan, scale: Scale, application: str, namespace: str) -> None:
        """Find the workers that are there already."""
        self._plan, self._scale, self._application, self._namespace = plan, scale, application, namespace
        self._workers: dict[str, Any] = {}
        self._answered_s: dict[str, float] = {}
        self.reports: dict[str, Report] = {}
        for found in list_named_actors(all_namespaces=True):
            name = found["name"].removeprefix(f"{application}-")
            if found["namespace"] == namespace and name.startswith(("partition-", "camera-")):
                self._workers[name] = ray.get_actor(found["name"], namespace)
                self._answered_s[name] = time.monotonic()

    @property
    def names(self) -> list[str]:
        """Names of all workers, also of those that have not reported yet."""
        return list(self._workers)

    def start(self, task: Task, node: str = "") -> None:
        """Start a worker, on ``node`` if it can be there."""
        name = name_of(task)
        strategy: Any = NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"
        options: dict[str, Any] = {
            "name": f"{self._application}-{name}",
            "namespace": self._namespace,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": -1,
            "max_task_retries": 0,  # a call that died with its actor must not be repeated
            "max_concurrency": 4,
            "num_cpus": self._scale.worker_cpus,
            "scheduling_strategy": strategy,
        }
        actor: Any = ray.remote(StreamWorker).options(**options)
        self._workers[name] = actor.remote(task, self._plan, self._scale, self._application)
        self._answered_s[name] = time.monotonic()

    def ask(self) -> None:
        """Hear from every worker; restart those that say nothing, or that say that they stand still."""
        asked = {worker.look.remote(): name for name, worker in list(self._workers.items())}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
        for reference in ready:
            self._hear(asked[reference], reference)
        for name in self.names:
            self._restart_if_stuck(name)

    def lost(self, name: str) -> bool:
        """Whether a worker that has reported no longer answers."""
        return time.monotonic() - self._answered_s.get(name, 0) > ANSWER_S

    def views(self) -> list[WorkerView]:
        """How every worker does, by name."""
        started = {name: WorkerView(name=name, state="starting") for name in self.names}
        reported = {name: report.worker for name, report in list(self.reports.items())}
        return [view for _, view in sorted({**started, **reported}.items())]

    def end(self, *names: str, patience_s: float = FINISH_S) -> None:
        """Let workers finish, all at once, and take them away; what is not delivered by then never counts."""
        workers = {name: self._workers[name] for name in names if name in self._workers}
        for last_words, limit_s in (("stop", patience_s), ("leave", ANSWER_S)):
            said = [getattr(worker, last_words).remote() for worker in workers.values()]
            if said:
                ray.wait(said, num_returns=len(said), timeout=limit_s)
        for name, worker in workers.items():
            with suppress(ray.exceptions.RayError, ValueError):
                ray.kill(worker, no_restart=True)
            self._forget(name)

    def move(self, wanted: Mapping[str, Task]) -> bool:
        """Move one worker where a node has joined and the others are fuller; whether one was moved."""
        alive: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node["NodeID"] for node in alive if node["Alive"] and node["Resources"].get("CPU", 0)]
        placed = {name: report.worker.node for name, report in self.reports.items() if name in wanted}
        chosen = move_of(placed, nodes)
        if chosen is None:
            return False
        name, node = chosen
        log.warning("%s moves to node %s", name, node)
        self.end(name)
        self.start(wanted[name], node)
        return True

    def _hear(self, name: str, reference: Any) -> None:
        try:
            self.reports[name] = ray.get(reference)
            self._answered_s[name] = time.monotonic()
        except ray.exceptions.ActorUnavailableError:
            pass  # Ray is starting it again
        except ray.exceptions.ActorDiedError:
            self._forget(name)
        except ray.exceptions.RayError as error:
            log.warning("%s does not answer: %s", name, error)

    def _restart_if_stuck(self, name: str) -> None:
        silent_s = time.monotonic() - self._answered_s.get(name, 0)
        idle_s = self.reports[name].worker.idle_s if name in self.reports else 0.0
        if silent_s > SILENT_S or idle_s > self._scale.stuck_s:
            log.warning("%s stands still (silent %.0f s, idle %.0f s); it begins again", name, silent_s, idle_s)
            self._answered_s[name] = time.monotonic()
            self.reports.pop(name, None)
            ray.kill(self._workers[name], no_restart=False)

    def _forget(self, name: str) -> None:
        for known in (self._workers, self.reports, self._answered_s):
            known.pop(name, None)


def move_of(placed: Mapping[str, str], nodes: Iterable[str]) -> tuple[str, str] | None:
    """Which worker should move to which node: from the fullest to the emptiest, where that makes a difference.

    Args:
        placed: Node of each worker, by name.
        nodes: The nodes that can hold workers.
    """
    load = Counter(dict.fromkeys(nodes, 0))
    load.update(node for node in placed.values() if node in load)
    if len(load) < 2:
        return None
    (fullest, most), *_, (emptiest, least) = sorted(load.items(), key=lambda item: (-item[1], item[0]))
    if most - least < 2:
        return None
    return min(name for name, node in placed.items() if node == fullest), emptiest
