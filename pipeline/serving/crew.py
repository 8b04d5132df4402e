"""The workers as Ray actors: starting them, hearing from them, moving and ending them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.scale import Scale
from pipeline.serving.stream_worker import FINISH_S, Report, StreamWorker, Task, name_of
from pipeline.serving.streams import WorkerView
from pipeline.serving.work import Plan

ANSWER_S = 3.0
SILENT_S = 60.0  # a worker that does not answer for so long is killed, and Ray starts another

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Member:
    """A worker as long as it is wanted; what one that is not says late goes with it.

    Attributes:
        worker: Its actor.
        answered_s: When it answered last, or was started.
        report: What it said then.
    """

    worker: Any
    answered_s: float = field(default_factory=time.monotonic)
    report: Report | None = None


class Crew:
    """The workers of one application. They outlive whoever started them, and are found again by their names."""

    def __init__(self, plan: Plan, scale: Scale, application: str, namespace: str) -> None:
        """Find the workers that are there already."""
        self._plan, self._scale, self._application, self._namespace = plan, scale, application, namespace
        self._members: dict[str, Member] = {}
        for found in list_named_actors(all_namespaces=True):
            name = found["name"].removeprefix(f"{application}-")
            if found["namespace"] == namespace and name.startswith(("partition-", "camera-")):
                self._members[name] = Member(ray.get_actor(found["name"], namespace))

    @property
    def names(self) -> list[str]:
        """Names of all workers, also of those that have not reported yet."""
        return list(self._members)

    @property
    def reports(self) -> dict[str, Report]:
        """The last report of each worker that has reported, by name."""
        return {name: member.report for name, member in list(self._members.items()) if member.report}

    def start(self, task: Task, node: str = "") -> None:
        """Start a worker, on ``node`` if it can be there."""
        name = name_of(task)
        there = partial(NodeAffinitySchedulingStrategy, soft=True, _spill_on_unavailable=True)  # else it would wait
        strategy: Any = there(node) if node else "SPREAD"
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
        self._members[name] = Member(actor.remote(task, self._plan, self._scale, self._application))

    def ask(self) -> None:
        """Hear from every worker; restart those that say nothing, or that say that they stand still."""
        members = list(self._members.items())
        asked = {member.worker.look.remote(): (name, member) for name, member in members}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
        for reference in ready:
            self._hear(*asked[reference], reference)
        for name, member in members:
            self._restart_if_stuck(name, member)

    def lost(self, name: str) -> bool:
        """Whether a worker that has reported no longer answers."""
        member = self._members.get(name)
        return member is None or time.monotonic() - member.answered_s > ANSWER_S

    def views(self) -> list[WorkerView]:
        """How every worker does, by name."""
        started = {name: WorkerView(name=name, state="starting") for name in self.names}
        reported = {name: report.worker for name, report in self.reports.items()}
        return [view for _, view in sorted({**started, **reported}.items())]

    def end(self, *names: str, patience_s: float = FINISH_S) -> None:
        """Let workers finish, all at once, and take them away; what is not delivered by then never counts."""
        workers = {name: self._members[name].worker for name in names if name in self._members}
        for last_words, limit_s in (("stop", patience_s), ("leave", ANSWER_S)):
            said = [getattr(worker, last_words).remote() for worker in workers.values()]
            if said:
                ray.wait(said, num_returns=len(said), timeout=limit_s)
        for name, worker in workers.items():
            with suppress(ray.exceptions.RayError, ValueError):
                ray.kill(worker, no_restart=True)
            self._members.pop(name, None)

    def move(self, wanted: Mapping[str, Task]) -> bool:
        """Move one worker where a node has joined and the others are fuller; whether one was moved.

        Nobody moves before all have reported: it is not known where the others are, such as one that moved just now.
        """
        placed = {name: report.worker.node for name, report in self.reports.items() if name in wanted}
        if len(placed) < len(wanted):
            return False
        known = available_resources_per_node()  # type: ignore[no-untyped-call]
        left = {node: resources.get("CPU", 0.0) for node, resources in known.items()}
        full = {node for node, cpus in left.items() if not cpus or cpus < self._scale.worker_cpus}
        chosen = move_of(placed, left, full)
        if chosen is None:
            return False
        name, node = chosen
        log.warning("%s moves to node %s", name, node)
        self.end(name)
        self.start(wanted[name], node)
        return True

    def _hear(self, name: str, member: Member, reference: Any) -> None:
        try:
            member.report = ray.get(reference)
            member.answered_s = time.monotonic()
        except ray.exceptions.ActorUnavailableError:
            pass  # Ray is starting it again
        except ray.exceptions.ActorDiedError:
            if self._members.get(name) is member:
                del self._members[name]
        except ray.exceptions.RayError as error:
            log.warning("%s does not answer: %s", name, error)

    def _restart_if_stuck(self, name: str, member: Member) -> None:
        silent_s = time.monotonic() - member.answered_s
        idle_s = member.report.worker.idle_s if member.report else 0.0
        if silent_s > SILENT_S or idle_s > self._scale.stuck_s:
            log.warning("%s stands still (silent %.0f s, idle %.0f s); it begins again", name, silent_s, idle_s)
            member.answered_s, member.report = time.monotonic(), None
            ray.kill(member.worker, no_restart=False)


def move_of(placed: Mapping[str, str], nodes: Collection[str], full: Collection[str] = ()) -> tuple[str, str] | None:
    """Which worker should move to which node: from the fullest to the emptiest, where that makes a difference.

    Args:
        placed: Node of each worker, by name.
        nodes: The nodes that can hold workers.
        full: Those of them that have no room for one more.
    """
    load = Counter(dict.fromkeys(nodes, 0))
    load.update(node for node in placed.values() if node in load)
    order = sorted(load.items(), key=lambda item: (-item[1], item[0]))
    roomy = [item for item in order if item[0] not in full]
    if not roomy:
        return None
    (fullest, most), (emptiest, least) = order[0], roomy[-1]
    if most - least < 2:
        return None
    return min(name for name, node in placed.items() if node == fullest), emptiest
