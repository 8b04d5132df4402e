"""What one worker does: analyse a partition of the video topic, or one camera, and deliver what comes of it."""

from __future__ import annotations

import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any, Literal

from pydantic import SecretStr

from pipeline.edges import Source
from pipeline.edges.delivery import GROUP, AtLeastOnce, Delivery, Restored, Transactions
from pipeline.edges.from_kafka import KafkaSource
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.redis_registry import Registry
from pipeline.edges.rtsp import RtspSource
from pipeline.edges.watchdog import end_process, limited
from pipeline.errors import SourceError
from pipeline.graph import Graph
from pipeline.packets import Frame
from pipeline.runners.local import CallStage, run_local
from pipeline.serving.courier import Courier, SetBackError, hot
from pipeline.serving.streams import StreamSpec, StreamView, expanded
from pipeline.state_codec import decode
from pipeline.walk import Journey

CA_FILE = "OMOTE_CAMERA_CA_FILE"  # names the file of certificates that cameras behind rtsps must show one of
TAKE_OVER_S = 25.0  # it takes about a second; Kafka's client may never return
MOST_TOLD = 1_000  # streams that a worker tells of; the one that came last longest ago gives way
SILENT_S = 10.0  # a stream of the video topic of which nothing came for so long is offline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What all workers of one running graph share.

    Attributes:
        graph: What to run; it needs no source.
        kafka: How to reach Kafka.
        redis: URL of Redis.
        delivery: ``exactly-once`` for readers of committed messages; or, for brokers without transactions,
            ``at-least-once``: what comes twice has the same ``ce_id``.
        window: Micro-batches of a worker on their way at once.
        threads: Threads of a worker that call stages.
    """

    graph: Graph
    kafka: KafkaSettings
    redis: SecretStr
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    window: int = 3
    threads: int = 2

    def delivered(self, **what: Any) -> Delivery:
        """A delivery of this plan; see ``Delivery``."""
        kind = Transactions if self.delivery == "exactly-once" else AtLeastOnce
        return kind(self.kafka, **what)

    def registry(self) -> Registry:
        """The cameras and counters of this system."""
        return Registry(self.redis, f"{self.kafka.prefix}{GROUP}.")


class Work(ABC):
    """Analyses for ever: takes over where the last worker left off, and goes on behind what was made safe.

    Attributes:
        name: Unique among the work of a plan.
        began: Whether the last `run` got as far as to read.
        delivered: How many micro-batches it has made safe.
    """

    name: str

    def __init__(self, plan: Plan, elsewhere: Mapping[str, CallStage] | None = None) -> None:
        """Nothing is opened before `run`.

        Args:
            plan: What to run, and where from and to.
            elsewhere: How to call the stages that do not run in this process; see ``run_local``.
        """
        self._plan, self._elsewhere = plan, elsewhere
        self._stopped = Event()
        self._source: Source | None = None
        self._courier: Courier | None = None
        self._told: dict[str, Told] = {}
        self._suspects: set[int] = set()
        self._delivered_s = time.monotonic()
        self.began, self.delivered = False, 0

    def run(self) -> None:
        """Work until `stop`.

        Raises:
            FencedError: Another worker has taken over.
            PipelineError: Something that is needed is away, or does not take what came out. Run again later.
        """
        self.began, self.delivered = False, 0
        while not self._stopped.is_set():
            with closing(self._delivery()) as delivery:
                try:
                    self._analyse(delivery)
                except SetBackError as error:
                    self._suspects |= set(error.suspects)
                    log.warning("%s: %s", self.name, error)

    def stop(self) -> None:
        """Let `run` return once what is on its way is delivered; may be called from any thread."""
        self._stopped.set()
        if self._source is not None:
            self._source.stop()

    @abstractmethod
    def views(self) -> list[StreamView]:
        """How its streams do."""

    @abstractmethod
    def idle_s(self) -> float:
        """Seconds without progress; a wait for video that is not there is progress."""

    @abstractmethod
    def _delivery(self) -> Delivery:
        """What makes its results safe; taking it over fences off the worker before."""

    @abstractmethod
    def _opened(self, delivery: Delivery, restored: Mapping[str, Restored]) -> Source:
        """Its source, where the worker before left off."""

    def _analyse(self, delivery: Delivery) -> None:
        plan = self._plan
        with limited("reading what was remembered", TAKE_OVER_S, end_process):
            restored = delivery.restore()
        states = self._remembered(restored)
        with closing(Courier(plan.graph, delivery, states, self._delivered)) as courier:
            with limited("opening the source", TAKE_OVER_S, end_process):
                self._courier, self._source = courier, self._opened(delivery, restored)
            self.began = True
            if self._stopped.is_set():  # it was asked before there was a source to tell
                self._source.stop()
            alone = plan.graph.only_sinks(name for name in plan.graph.sinks if name not in hot(plan.graph))
            run_local(
                alone, self._source, window=plan.window, threads=plan.threads, elsewhere=self._elsewhere,
                deliver=courier, states=states, shared={"settings": plan.kafka},
            )  # fmt: skip

    def _remembered(self, restored: Mapping[str, Restored]) -> dict[str, dict[str, Any]]:
        """What the stages of this graph know of each stream; one whose state cannot be read begins anew."""
        states: dict[str, dict[str, Any]] = {}
        for stream, data in ((stream, known.state) for stream, known in restored.items() if known.state):
            try:
                states[stream] = {n: state for n, state in decode(data).items() if self._plan.graph.keyed(n)}
            except SourceError as error:
                log.warning("%s: stream %r begins anew behind what was read of it: %s", self.name, stream, error)
        return states

    def _delivered(self, journey: Journey) -> None:
        self._delivered_s = time.monotonic()
        self.delivered += 1
        before = self._told.get(journey.chunk.stream)
        self._told[journey.chunk.stream] = Told.of(journey, before)
        if len(self._told) > MOST_TOLD:
            del self._told[min(self._told, key=lambda stream: self._told[stream].at_s)]


@dataclass(frozen=True, slots=True)
class Told:
    """What was delivered of a stream.

    Attributes:
        epoch: Its last epoch.
        pts_ns: Stream time of the last frame.
        frames: How many frames since this worker began.
        over: Whether the stream has ended.
        since: When it began, or ended.
        at_s: Monotonic time of the last delivery.
    """

    epoch: int
    pts_ns: int
    frames: int
    over: bool
    since: datetime
    at_s: float

    @classmethod
    def of(cls, journey: Journey, before: Told | None) -> Told:
        """What is known after ``journey``."""
        chunk = journey.chunk
        last = max((p.pts_ns for packets in journey.out.values() for p in packets if isinstance(p, Frame)), default=0)
        since = before.since if before and before.over == chunk.last else datetime.now(UTC)
        frames = journey.frames + (before.frames if before else 0)
        return cls(chunk.epoch, last or chunk.pts_ns, frames, chunk.last, since, time.monotonic())


class PartitionWork(Work):
    """Analyses one partition of the video topic, with all the streams in it."""

    def __init__(self, plan: Plan, number: int, elsewhere: Mapping[str, CallStage] | None = None) -> None:
        """See ``Work``; ``number`` is that of the partition."""
        super().__init__(plan, elsewhere)
        self.name, self._number = f"partition-{number}", number

    def views(self) -> list[StreamView]:
        return [self._view(stream, told) for stream, told in sorted(self._told.items())]

    def idle_s(self) -> float:
        read_s = self._source.last_progress_s() if isinstance(self._source, KafkaSource) else math.inf
        return min(read_s, time.monotonic() - self._delivered_s)

    def _delivery(self) -> Delivery:
        return self._plan.delivered(partition=self._number)

    def _opened(self, delivery: Delivery, restored: Mapping[str, Restored]) -> Source:
        watermark = delivery.committed()
        offsets = {} if watermark is None else {self._number: watermark}
        positions = {stream: known.position for stream, known in restored.items()}
        self._suspects = {offset for offset in self._suspects if offset >= (watermark or 0)}
        return KafkaSource(self._plan.kafka, [self._number], offsets=offsets, positions=positions, alone=self._suspects)

    def _view(self, stream: str, told: Told) -> StreamView:
        silent_s = time.monotonic() - told.at_s
        reason = "it has ended" if told.over else f"nothing came for {silent_s:.0f} s" if silent_s > SILENT_S else ""
        drops = self._source.drops if isinstance(self._source, KafkaSource) else {}
        return StreamView(
            id=stream,
            source="kafka",
            state="offline" if reason else "online",
            reason=reason,
            epoch=told.epoch,
            last_pts_ns=told.pts_ns,
            since=told.since,
            worker=self.name,
            frames=told.frames,
            dropped={why: count for (of, why), count in drops.items() if of == stream},
        )


class CameraWork(Work):
    """Analyses one camera. Its epochs are counted in Redis, so that no worker gives a number twice."""

    def __init__(self, plan: Plan, spec: StreamSpec, elsewhere: Mapping[str, CallStage] | None = None) -> None:
        """See ``Work``; ``spec`` says which camera."""
        super().__init__(plan, elsewhere)
        self.name, self._spec = f"camera-{spec.id}", spec
        self._registry, self._began = plan.registry(), datetime.now(UTC)

    def views(self) -> list[StreamView]:
        source = self._source if isinstance(self._source, RtspSource) else None
        told, status = self._told.get(self._spec.id), source.status if source else None
        return [
            StreamView(
                id=self._spec.id,
                source="rtsp",
                state=status.state if status else "reconnecting",
                reason=status.reason if status else "its worker begins",
                epoch=status.epoch if status else 0,
                last_pts_ns=told.pts_ns if told else 0,
                since=status.since if status else self._began,
                worker=self.name,
                frames=told.frames if told else 0,
                dropped={**(source.drops if source else {}), **(self._courier.failed if self._courier else {})},
            )
        ]

    def idle_s(self) -> float:
        if not isinstance(self._source, RtspSource) or (status := self._source.status).state != "online":
            return 0.0
        online_s = (datetime.now(UTC) - status.since).total_seconds()
        return min(online_s, time.monotonic() - self._delivered_s)

    def _delivery(self) -> Delivery:
        return self._plan.delivered(owner=self._spec.id)

    def _opened(self, delivery: Delivery, restored: Mapping[str, Restored]) -> Source:
        del delivery, restored  # a camera cannot be asked for what is past
        spec = self._spec
        ca_file = os.environ.get(CA_FILE, "")
        return RtspSource(expanded(spec.url), spec.id, spec.keep, ca_file=ca_file, epoch=self._registry.next_number)
