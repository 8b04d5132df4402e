"""Keeps a worker for every partition of the video topic and for every camera, and says how all of them do."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from threading import Lock, Thread
from typing import Any

import ray
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.edges.kafka_topics import video_partitions
from pipeline.edges.redis_registry import RegistryError
from pipeline.edges.status import StreamStatus
from pipeline.edges.status_topic import StatusTopic
from pipeline.errors import PipelineError
from pipeline.scale import Scale
from pipeline.serving.stream_worker import FINISH_S, Report, StreamWorker, Task, name_of
from pipeline.serving.streams import (
    DuplicateStreamError,
    NotReadyError,
    StreamSpec,
    StreamView,
    TooManyStreamsError,
    UnknownStreamError,
    WorkerView,
    checked,
)
from pipeline.serving.work import Plan

LOOK_S, ANSWER_S = 0.5, 3.0
REMOVE_S = 5.0
SILENT_S = 60.0  # a worker that does not answer for so long is killed, and Ray starts another
PARTITIONS_S = 30.0
SETTLE_S = 15.0  # between two moves of workers from node to node
REMEMBERED = 100

log = logging.getLogger(__name__)


class Supervisor:
    """Starts, watches, moves and ends workers. It can be killed at any time: the next one finds them by their names.

    What is wanted stands in Redis (cameras) and in Kafka (partitions); what is there, in Ray. Nothing else needs to
    be remembered.
    """

    def __init__(self, plan: Plan, scale: Scale, application: str, namespace: str) -> None:
        """Begin at once; whatever is away is asked for again and again."""
        self._plan, self._scale, self._application, self._namespace = plan, scale, application, namespace
        self._registry, self._statuses = plan.registry(), StatusTopic(plan.kafka)
        self._cameras: dict[str, StreamSpec] = {}
        self._partitions, self._counted_s = 0, -PARTITIONS_S
        self._registry_read = False
        self._workers: dict[str, Any] = {}
        self._answered_s: dict[str, float] = {}
        self._reports: dict[str, Report] = {}
        self._rejected: dict[str, StreamView] = {}
        self._told: dict[str, tuple[str, str, int]] = {}
        self._moved_s = time.monotonic()
        self._changing, self._closed = Lock(), False
        self._adopt()
        Thread(target=self._look_after, name="supervisor", daemon=True).start()

    def does(self, plan: Plan, scale: Scale) -> bool:
        """Whether this is what it does."""
        return (plan, scale) == (self._plan, self._scale)

    def pid(self) -> int:
        """Its process, for whoever wants to kill it."""
        return os.getpid()

    def add(self, spec: StreamSpec) -> StreamView:
        """See ``Streams.add``."""
        with self._changing:
            try:
                self._admit(checked(spec))
                if not self._registry.add(spec.id, spec.model_dump_json()):
                    raise _duplicate(spec.id)
            except RegistryError as error:
                raise NotReadyError(str(error)) from error
            self._rejected.pop(spec.id, None)
            self._cameras[spec.id] = spec
            self._start(spec)
        return _beginning(spec)

    def remove(self, stream: str) -> None:
        """See ``Streams.remove``."""
        with self._changing:
            try:
                known = self._registry.remove(stream)
            except RegistryError as error:
                raise NotReadyError(str(error)) from error
            if not known:
                message = f"no camera {stream!r} was added; `omote streams list` shows those that were"
                raise UnknownStreamError(message)
            self._cameras.pop(stream, None)
            self._end(f"camera-{stream}", patience_s=REMOVE_S)

    def streams(self) -> list[StreamView]:
        """See ``Streams.streams``."""
        found = {**self._rejected, **{spec.id: _beginning(spec) for spec in list(self._cameras.values())}}
        for name, report in list(self._reports.items()):
            lost = time.monotonic() - self._answered_s.get(name, 0) > ANSWER_S
            found |= {view.id: _lost(view) if lost else view for view in report.streams}
        return [found[stream] for stream in sorted(found)]

    def stream(self, stream: str) -> StreamView:
        """See ``Streams.stream``."""
        view = next((view for view in self.streams() if view.id == stream), None)
        if view is None:
            message = f"there is no stream {stream!r}; `omote streams list` shows all"
            raise UnknownStreamError(message)
        return view

    def workers(self) -> list[WorkerView]:
        """See ``Streams.workers``."""
        started = {name: WorkerView(name=name, state="starting") for name in list(self._workers)}
        reported = {name: report.worker for name, report in list(self._reports.items())}
        return [view for _, view in sorted({**started, **reported}.items())]

    def close(self) -> None:
        """End every worker, each once what it has on its way is delivered; the cameras stay wanted."""
        with self._changing:
            self._closed = True
            self._end(*self._workers)
            self._statuses.close()

    def _adopt(self) -> None:
        """Find the workers that another supervisor left behind."""
        prefix = f"{self._application}-"
        for found in list_named_actors(all_namespaces=True):
            name = found["name"].removeprefix(prefix)
            if found["namespace"] == self._namespace and name.startswith(("partition-", "camera-")):
                self._workers[name] = ray.get_actor(found["name"], self._namespace)

    def _look_after(self) -> None:
        while not self._closed:
            began_s = time.monotonic()
            try:
                self._round()
            except Exception:  # the next round may go better, and nobody else would look after the workers
                log.exception("the supervisor's round failed")
            time.sleep(max(0.0, LOOK_S - (time.monotonic() - began_s)))

    def _round(self) -> None:
        self._count_partitions()
        self._ask()
        with self._changing:
            if self._closed:
                return
            self._read_registry()
            wanted = self._wanted()
            for name, task in wanted.items():
                if name not in self._workers:
                    self._start(task)
            if self._registry_read and self._partitions:
                self._end(*(name for name in self._workers if name not in wanted))
            self._balance(wanted)
        self._tell(self.streams())

    def _wanted(self) -> dict[str, Task]:
        tasks: Iterable[Task] = (*range(self._partitions), *self._cameras.values())
        return {name_of(task): task for task in tasks}

    def _count_partitions(self) -> None:
        """Kafka away is no reason to end workers: the last count holds."""
        if time.monotonic() - self._counted_s < (PARTITIONS_S if self._partitions else LOOK_S):
            return
        self._counted_s = time.monotonic()
        try:
            self._partitions = video_partitions(self._plan.kafka)
        except PipelineError as error:
            log.warning("partitions are not known: %s", error)

    def _read_registry(self) -> None:
        """Redis away is no reason to end cameras: the last list holds."""
        try:
            self._cameras = {
                name: StreamSpec.model_validate_json(text) for name, text in self._registry.values().items()
            }
            self._registry_read = True
        except RegistryError as error:
            log.warning("cameras are not known: %s", error)

    def _admit(self, spec: StreamSpec) -> None:
        """Refuse a second stream of one id, and the camera for which there is no room.

        Raises:
            DuplicateStreamError: There is a stream of this id.
            TooManyStreamsError: There is no room.
        """
        if any(view.id == spec.id and view.state != "rejected" for view in self.streams()):
            raise _duplicate(spec.id)
        free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
        if len(self._cameras) >= self._scale.cameras:
            reason = f"{len(self._cameras)} cameras are watched, and the scale's `cameras` allows no more"
        elif free < self._scale.worker_cpus:
            reason = f"the cluster has {free:g} CPU left, and a worker takes {self._scale.worker_cpus:g}; add a node"
        else:
            return
        view = _beginning(spec).model_copy(update={"state": "rejected", "reason": reason, "worker": ""})
        self._rejected[spec.id] = view
        while len(self._rejected) > REMEMBERED:
            self._rejected.pop(next(iter(self._rejected)))
        message = f"stream {spec.id!r} is rejected: {reason}"
        raise TooManyStreamsError(message)

    def _start(self, task: Task, node: str = "") -> None:
        name = name_of(task)
        strategy: Any = NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"
        options: dict[str, Any] = {
            "name": f"{self._application}-{name}",
            "namespace": self._namespace,
            "lifetime": "detached",  # it outlives this supervisor
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

    def _ask(self) -> None:
        """Hear from every worker; restart those that say nothing, or that say that they stand still."""
        asked = {worker.look.remote(): name for name, worker in list(self._workers.items())}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
        for reference in ready:
            name = asked[reference]
            try:
                self._reports[name] = ray.get(reference)
                self._answered_s[name] = time.monotonic()
            except ray.exceptions.ActorUnavailableError:
                continue  # Ray is starting it again
            except ray.exceptions.ActorDiedError:
                self._forget(name)
            except ray.exceptions.RayError as error:
                log.warning("%s does not answer: %s", name, error)
        for name in list(self._workers):
            self._restart_if_stuck(name)

    def _restart_if_stuck(self, name: str) -> None:
        silent_s = time.monotonic() - self._answered_s.get(name, 0)
        idle_s = self._reports[name].worker.idle_s if name in self._reports else 0.0
        if silent_s > SILENT_S or idle_s > self._scale.stuck_s:
            log.warning("%s stands still (silent %.0f s, idle %.0f s); it begins again", name, silent_s, idle_s)
            self._answered_s[name] = time.monotonic()
            self._reports.pop(name, None)
            ray.kill(self._workers[name], no_restart=False)

    def _end(self, *names: str, patience_s: float = FINISH_S) -> None:
        """Let workers finish, all at once, and take them away; what is not delivered by then never counts."""
        workers = {name: self._workers[name] for name in names if name in self._workers}
        stopping = [worker.stop.remote() for worker in workers.values()]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=patience_s)
        for name, worker in workers.items():
            with suppress(ray.exceptions.RayError, ValueError):
                ray.kill(worker, no_restart=True)
            self._forget(name)

    def _forget(self, name: str) -> None:
        for known in (self._workers, self._reports, self._answered_s):
            known.pop(name, None)

    def _balance(self, wanted: Mapping[str, Task]) -> None:
        """Move one worker where a node has joined and the others are fuller."""
        if time.monotonic() - self._moved_s < SETTLE_S:
            return
        alive: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node["NodeID"] for node in alive if node["Alive"] and node["Resources"].get("CPU", 0)]
        placed = {name: report.worker.node for name, report in self._reports.items() if name in wanted}
        if (move := move_of(placed, nodes)) is not None:
            name, node = move
            log.warning("%s moves to node %s", name, node)
            self._end(name)
            self._start(wanted[name], node)
            self._moved_s = time.monotonic()

    def _tell(self, views: Iterable[StreamView]) -> None:
        """Publish what has changed."""
        now = {view.id: view for view in views}
        for stream in self._told.keys() - now.keys():
            gone = StreamView(id=stream, source="rtsp", state="offline", reason="removed", since=datetime.now(UTC))
            self._publish(gone)
            del self._told[stream]
        for stream, view in now.items():
            said = (view.state, view.reason if view.state != "offline" else "", view.epoch)
            if self._told.get(stream) != said:
                self._told[stream] = said
                self._publish(view)

    def _publish(self, view: StreamView) -> None:
        status = StreamStatus(view.id, view.state, view.reason, view.epoch, view.last_pts_ns, view.since, view.source)
        self._statuses.tell(status)


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


def _beginning(spec: StreamSpec) -> StreamView:
    return StreamView(
        id=spec.id,
        source="rtsp",
        state="reconnecting",
        reason="its worker begins",
        since=datetime.now(UTC),
        worker=name_of(spec),
    )


def _duplicate(stream: str) -> DuplicateStreamError:
    return DuplicateStreamError(f"there is a stream {stream!r} already; remove it first, or choose another id")


def _lost(view: StreamView) -> StreamView:
    if view.state != "online":
        return view
    return view.model_copy(update={"state": "reconnecting", "reason": "its worker does not answer and begins again"})
