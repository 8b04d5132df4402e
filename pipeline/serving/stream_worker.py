"""The Ray actor of one worker: it does its work for ever, and says how it does."""

from __future__ import annotations

import logging
import os
import time
from threading import Event, Thread
from typing import Any, Literal, NamedTuple

import ray

from pipeline.edges.kafka_settings import FencedError
from pipeline.edges.watchdog import end_process
from pipeline.errors import PipelineError
from pipeline.redact import redact
from pipeline.runners.on_ray import Replicas
from pipeline.scale import Scale
from pipeline.serving.streams import StreamSpec, StreamView, WorkerView
from pipeline.serving.work import CameraWork, PartitionWork, Plan, Work

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 10.0
HEALTHY_S = 10.0  # who works for so long has overcome what it waited for
FENCED_S = 30.0
ORPHAN_S = 1.0
FINISH_S = 10.0

log = logging.getLogger(__name__)

Task = int | StreamSpec  # a partition of the video topic, or a camera


class Report(NamedTuple):
    """How a worker and its streams do."""

    worker: WorkerView
    streams: list[StreamView]


def name_of(task: Task) -> str:
    """Name of the worker that does ``task``."""
    return f"partition-{task}" if isinstance(task, int) else f"camera-{task.id}"


def work_of(task: Task, plan: Plan, scale: Scale, application: str) -> Work:
    """The work, its stages without state called where they are deployed."""
    stages = Replicas(plan.graph, scale, application).stages
    return PartitionWork(plan, task, stages) if isinstance(task, int) else CameraWork(plan, task, stages)


class StreamWorker:
    """Begins with its work at once, so that Ray needs nobody's help to put it back after it died.

    What can be mended by waiting is tried again here, after pauses that grow. What cannot ends the process, and
    Ray starts another.
    """

    def __init__(self, task: Task, plan: Plan, scale: Scale, application: str) -> None:
        self._work = work_of(task, plan, scale, application)
        self._stopped = Event()
        self._state: Literal["starting", "running", "waiting"] = "starting"
        self._reason, self._began_s = "", time.monotonic()
        self._thread = Thread(target=self._run, name=self._work.name, daemon=True)
        self._thread.start()
        Thread(target=_end_with, args=(os.getppid(),), name="orphan", daemon=True).start()

    def look(self) -> Report:
        """How it does."""
        state: Any = "running" if self._state == "starting" and self._work.began else self._state
        node = ray.get_runtime_context().get_node_id()
        view = WorkerView(
            name=self._work.name,
            state=state,
            reason="" if state == "running" and self._healthy() else self._reason,
            pid=os.getpid(),
            node=node,
            idle_s=round(self._work.idle_s(), 1),
        )
        held_up = self._reason if state != "running" else ""
        return Report(view, [_waiting(each, held_up) if held_up else each for each in self._work.views()])

    def stop(self) -> bool:
        """Deliver what is on its way, and end; whether that was done in time."""
        self._stopped.set()
        self._work.stop()
        self._thread.join(FINISH_S)
        return not self._thread.is_alive()

    def leave(self) -> None:
        """End this process for good."""
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _healthy(self) -> bool:
        """Whether it has overcome what it waited for last, if anything."""
        return self._work.began and (self._work.delivered > 0 or time.monotonic() - self._began_s > HEALTHY_S)

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopped.is_set():
            try:
                self._state, self._began_s = "starting", time.monotonic()
                self._work.run()
            except FencedError as error:
                # Whoever fenced it off is to live: to begin again at once would fence that one off. Ray starts a
                # process that ends again only where it knows of no other.
                self._state, self._reason = "waiting", f"{error}; this one does nothing more"
                if not self._stopped.wait(FENCED_S):
                    end_process(f"{self._work.name} is fenced off")
            except PipelineError as error:
                pause_s = FIRST_PAUSE_S if self._healthy() else min(2 * pause_s, MAX_PAUSE_S)
                self._state, self._reason = "waiting", redact(str(error))
                log.warning("%s waits: %s", self._work.name, self._reason)
                self._stopped.wait(pause_s)
            except Exception as error:  # whatever it is, another process does not have it
                log.exception("%s ends", self._work.name)
                end_process(f"{self._work.name}: {type(error).__name__}")


def _waiting(view: StreamView, reason: str) -> StreamView:
    """A stream whose worker waits: it stands still for the same ``reason``, unless nothing came of it anyway."""
    if view.source == "kafka" and view.state != "online":
        return view
    return view.model_copy(update={"state": "reconnecting", "reason": reason})


def _end_with(parent: int) -> None:
    """End this process once its raylet is gone: Python itself would wait for threads that read for ever."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    os._exit(0)
