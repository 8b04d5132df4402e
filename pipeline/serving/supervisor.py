"""Keeps a worker for every partition of the video topic and for every camera, and says how all of them do."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from threading import Lock, Thread

import ray
from pydantic import ValidationError

from pipeline.edges.kafka_topics import video_partitions
from pipeline.edges.redis_registry import RegistryError
from pipeline.edges.status import StreamStatus
from pipeline.edges.status_topic import StatusTopic
from pipeline.errors import PipelineError
from pipeline.scale import Scale
from pipeline.serving.crew import Crew
from pipeline.serving.stream_worker import Task, name_of
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

LOOK_S = 0.5
REMOVE_S = 5.0
PARTITIONS_S = 30.0
SETTLE_S = 15.0  # between two moves of workers from node to node
REMEMBERED = 100

log = logging.getLogger(__name__)


class Supervisor:
    """Starts, watches, moves and ends workers. It can be killed at any time: the next one goes on.

    What is wanted stands in Redis (cameras) and in Kafka (partitions); what is there, in Ray. Nothing else needs to
    be remembered.
    """

    def __init__(self, plan: Plan, scale: Scale, application: str, namespace: str) -> None:
        """Begin at once; whatever is away is asked for again and again."""
        self._plan, self._scale = plan, scale
        self._registry, self._statuses = plan.registry(), StatusTopic(plan.kafka)
        self._crew = Crew(plan, scale, application, namespace)
        self._cameras: dict[str, StreamSpec] = {}
        self._registry_read = False
        self._partitions, self._counted_s = 0, -PARTITIONS_S
        self._rejected: dict[str, StreamView] = {}
        self._unread: dict[str, StreamView] = {}
        self._told: dict[str, StreamView] = {}
        self._moved_s = time.monotonic()
        self._changing, self._closed = Lock(), False
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
            self._crew.start(spec)
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
            self._crew.end(f"camera-{stream}", patience_s=REMOVE_S)

    def streams(self) -> list[StreamView]:
        """See ``Streams.streams``."""
        beginning = {spec.id: _beginning(spec) for spec in list(self._cameras.values())}
        found = {**self._rejected, **self._unread, **beginning}
        for name, report in list(self._crew.reports.items()):
            lost = self._crew.lost(name)
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
        return self._crew.views()

    def close(self) -> None:
        """End every worker, each once what it has on its way is delivered; the cameras stay wanted."""
        with self._changing:
            self._closed = True
            self._crew.end(*self._crew.names)
            self._statuses.close()

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
        self._crew.ask()
        with self._changing:
            if self._closed:
                return
            self._read_registry()
            self._even_out()
        self._tell()

    def _even_out(self) -> None:
        """Make what is there what is wanted."""
        tasks: Iterable[Task] = (*range(self._partitions), *self._cameras.values())
        wanted, there = {name_of(task): task for task in tasks}, self._crew.names
        for name, task in wanted.items():
            if name not in there:
                self._crew.start(task)
        if self._registry_read and self._partitions:  # else it is not known what is not wanted
            self._crew.end(*(name for name in there if name not in wanted))
        if time.monotonic() - self._moved_s > SETTLE_S and self._crew.move(wanted):
            self._moved_s = time.monotonic()

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
            texts = self._registry.values()
        except RegistryError as error:
            log.warning("cameras are not known: %s", error)
            return
        self._cameras, unread = understood(texts)
        for stream in unread.keys() - self._unread.keys():
            log.warning("camera %r is not watched: %s", stream, unread[stream].reason)
        self._unread = {stream: self._unread.get(stream, view) for stream, view in unread.items()}
        self._registry_read = True

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
        self._rejected[spec.id] = _beginning(spec).model_copy(
            update={"state": "rejected", "reason": reason, "worker": ""}
        )
        while len(self._rejected) > REMEMBERED:
            self._rejected.pop(next(iter(self._rejected)))
        message = f"stream {spec.id!r} is rejected: {reason}"
        raise TooManyStreamsError(message)

    def _tell(self) -> None:
        """Publish what has changed."""
        now = {view.id: view for view in self.streams()}
        for stream in self._told.keys() - now.keys():
            before = self._told.pop(stream)
            if before.source == "rtsp" and before.state != "rejected":  # others begin again with their worker
                update = {"state": "offline", "reason": "removed", "since": datetime.now(UTC)}
                self._publish(before.model_copy(update=update))
        for stream, view in now.items():
            if stream not in self._told or _said(view) != _said(self._told[stream]):
                self._publish(view)
            self._told[stream] = view

    def _publish(self, view: StreamView) -> None:
        status = StreamStatus(view.id, view.state, view.reason, view.epoch, view.last_pts_ns, view.since, view.source)
        self._statuses.tell(status)


def understood(texts: Mapping[str, str]) -> tuple[dict[str, StreamSpec], dict[str, StreamView]]:
    """The cameras that the registry holds, and what to say of entries that this omote cannot read."""
    cameras, unread = {}, {}
    for name, text in texts.items():
        try:
            cameras[name] = StreamSpec.model_validate_json(text)
        except ValidationError:
            reason = "this omote does not understand its entry in Redis; upgrade omote, or remove it and add it again"
            unread[name] = StreamView(id=name, source="rtsp", state="rejected", reason=reason, since=datetime.now(UTC))
    return cameras, unread


def _said(view: StreamView) -> tuple[str, str, int]:
    """What is worth telling when it changes; why a stream is offline says for how long, and so always does."""
    return view.state, view.reason if view.state != "offline" else "", view.epoch


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
