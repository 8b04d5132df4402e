"""The video topic of Kafka as a source."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from threading import Event
from typing import Any, Literal

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from pipeline.edges import Source
from pipeline.edges.assembly import Assembly, newest
from pipeline.edges.backlog import Keep
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.video_messages import BrokerChunk, Message
from pipeline.edges.watchdog import OnStuck, end_process, limited
from pipeline.errors import SourceError
from pipeline.packets import Chunk

# How much video, in milliseconds, may wait before the older part of it gives way.
PATIENCE_MS: dict[Keep, float] = {"lossless": math.inf, "latest": 0, "adaptive": 4_000}
POLL_MS = 250
LINGER_S = 0.6  # single pictures wait so long for companions
CATCH_UP_S = 2.0
LOOK_S = 5.0  # so long nothing came: look whether there is anything
STUCK_S = 30.0  # a poll answers within 4 s, also while there is no broker

log = logging.getLogger(__name__)


class KafkaSource(Source):
    """Reads partitions of the video topic, each stream in order.

    ``lossless`` gives every message. ``latest`` begins with the newest and, where messages pile up, keeps of each
    stream only what follows its newest key frame; ``adaptive`` does so only once more than 4 s of video wait.
    What is left out is counted in `drops` and in the next chunk.
    """

    expected_frames = 0

    def __init__(
        self,
        settings: KafkaSettings | None = None,
        partitions: Sequence[int] = (),
        start: Literal["earliest", "latest"] = "earliest",
        offsets: Mapping[int, int] | None = None,
        positions: Mapping[str, int] | None = None,
        keep: Keep = "lossless",
        units: int = 16,
        alone: Collection[int] = (),
        group: str = "",
        on_stuck: OnStuck = end_process,
    ) -> None:
        """Connect, and find where to begin.

        Args:
            settings: How to reach Kafka; from the environment if not given.
            partitions: Which to read; all of them if empty.
            start: Where to begin in partitions of which no offset is given or committed.
            offsets: Where to begin, by partition.
            positions: By stream, the offset before which everything was analysed already.
            keep: What to do when messages come faster than they are taken.
            units: Most encoded units in a chunk.
            alone: Offsets of single pictures that must not share a chunk; see `Assembly`.
            group: Consumer group that `commit` writes to, and whose offsets are the default of ``offsets``.
            on_stuck: Called when Kafka's client does not return; ends the process if not given.

        Raises:
            SourceError: No such broker, topic or partition.
        """
        if keep not in PATIENCE_MS:
            message = f"keep must be lossless, latest or adaptive, got {keep!r}"
            raise SourceError(message)
        self._settings = settings = settings or KafkaSettings.from_environment()
        self._topic, self._patience_ms = settings.topic("video"), PATIENCE_MS[keep]
        self._on_stuck, self._group = on_stuck, group
        self._stopped = Event()
        self._answered_s = time.monotonic()
        self._done: dict[TopicPartition, int] = {}
        self._looked_s, self._overdue = self._answered_s, dict[TopicPartition, int]()
        self._consumer: KafkaConsumer = settings.consumer(group_id=group or None, auto_offset_reset="none")
        try:
            assigned = self._assign(partitions)
            ends = self._seek(assigned, "latest" if keep == "latest" else start, offsets or {})
        except SourceError:
            self._consumer.close(autocommit=False)
            raise
        known = self._possible(positions or {}, max(ends.values()))
        self._assemblies = {tp.partition: Assembly(known, units, alone) for tp in assigned}

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks until `stop`; a message that cannot be read comes as `Poison`.

        Raises:
            SourceError: Kafka no longer lets us read, or no longer has what comes next.
        """
        while not self._stopped.is_set():
            for partition, messages in self._waiting():
                yield from self._chunks(self._assemblies[partition], messages)
            for assembly in self._assemblies.values():
                yield from assembly.settle(LINGER_S)

    @property
    def drops(self) -> dict[tuple[str, str], int]:
        """Pictures left out, by stream and reason."""
        return {key: count for assembly in self._assemblies.values() for key, count in assembly.drops.items()}

    def last_progress_s(self) -> float:
        """Seconds since Kafka's client last returned, with messages or without."""
        return time.monotonic() - self._answered_s

    def commit(self, chunk: Chunk) -> None:
        """Remember how far its partition is; the offset is written to the group before the next read."""
        if self._group and isinstance(chunk, BrokerChunk) and not chunk.partial and chunk.messages:
            self._done[TopicPartition(self._topic, chunk.messages[0].partition)] = chunk.watermark

    def stop(self) -> None:
        """Let the iteration end within a quarter of a second; may be called from any thread."""
        self._stopped.set()

    def close(self) -> None:
        self.stop()
        with limited("closing the consumer", STUCK_S, self._on_stuck), self._settings.errors(SourceError):
            self._write_offsets()
            self._consumer.close(autocommit=False, timeout_ms=POLL_MS)

    def _assign(self, wanted: Sequence[int]) -> list[TopicPartition]:
        with self._settings.errors(SourceError, f"read {self._topic}"):
            there = self._consumer.partitions_for_topic(self._topic) or set()
        if not there:
            message = f"there is no topic {self._topic} at {self._settings.servers}; `omote publish` makes it"
            raise SourceError(message)
        if unknown := sorted(set(wanted) - there):
            message = f"{self._topic} has no partition {unknown[0]}; it has {len(there)}, counted from 0"
            raise SourceError(message)
        assigned = [TopicPartition(self._topic, number) for number in wanted or sorted(there)]
        self._consumer.assign(assigned)
        return assigned

    def _seek(
        self, assigned: Sequence[TopicPartition], start: str, offsets: Mapping[int, int]
    ) -> dict[TopicPartition, int]:
        """Go to where reading begins; where the partitions end now."""
        if start not in {"earliest", "latest"}:
            message = f"a source begins at earliest or latest, not at {start!r}"
            raise SourceError(message)
        with self._settings.errors(SourceError, f"read {self._topic}"):
            ends: dict[TopicPartition, int] = self._consumer.end_offsets(assigned)
            firsts = self._consumer.beginning_offsets(assigned)
            for tp in assigned:
                default = firsts[tp] if start == "earliest" else ends[tp]
                given = offsets.get(tp.partition, self._committed(tp))
                if given is not None and given < firsts[tp]:
                    gone = firsts[tp] - given
                    log.warning("%d messages of %s were deleted before anybody had read them", gone, self._topic)
                self._consumer.seek(tp, default if given is None else min(max(given, firsts[tp]), ends[tp]))
        return ends

    def _possible(self, positions: Mapping[str, int], end: int) -> dict[str, int]:
        """The positions that are not beyond the end: those are of a topic that was deleted and made anew."""
        possible = {stream: position for stream, position in positions.items() if position <= end}
        if beyond := len(positions) - len(possible):
            log.warning("%s was made anew or has lost its end: %d streams begin again", self._topic, beyond)
        return possible

    def _committed(self, tp: TopicPartition) -> int | None:
        return self._consumer.committed(tp, timeout_ms=4_000) if self._group else None

    def _waiting(self) -> Iterator[tuple[int, list[Message]]]:
        """The messages that are there, by partition; whoever may leave out wants to see all of them."""
        found: dict[int, list[Message]] = {}
        patience = time.monotonic() + CATCH_UP_S
        while True:
            with limited("a poll of Kafka", STUCK_S, self._on_stuck), self._settings.errors(SourceError, "read"):
                self._write_offsets()
                for tp, records in self._poll(0 if found else POLL_MS).items():
                    found.setdefault(tp.partition, []).extend(map(message, records))
            self._answered_s = time.monotonic()
            self._look(came=bool(found))
            if self._patience_ms == math.inf or time.monotonic() > patience or not self._behind():
                yield from found.items()
                return

    def _poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        try:
            records: dict[TopicPartition, list[Any]] = self._consumer.poll(timeout_ms)
        except OffsetOutOfRangeError as error:  # to go on elsewhere would pass over video without a word
            text = (
                f"{self._topic} no longer has what comes next: it was deleted before anybody had read it; begin again"
            )
            raise SourceError(text) from error
        return records

    def _look(self, *, came: bool) -> None:
        """A client that fetches no more though messages wait would go unseen, for its polls return.

        Raises:
            SourceError: What was there at one look had not come by the next.
        """
        if came:
            self._looked_s, self._overdue = self._answered_s, {}
        if self._answered_s - self._looked_s < LOOK_S:
            return
        self._looked_s = self._answered_s
        try:
            with limited("a look at Kafka", STUCK_S, self._on_stuck):
                assigned = list(self._consumer.assignment())
                ends = self._consumer.end_offsets(assigned)
                at = {tp: self._consumer.position(tp, 1_000) or 0 for tp in assigned}
        except KafkaError:  # there is no broker now; once there is one the client goes on
            self._overdue = {}
            return
        if stuck := [tp for tp, end in self._overdue.items() if at.get(tp, end) < end]:
            message = f"messages wait in {self._topic} at {at[stuck[0]]}, and Kafka's client does not give them"
            raise SourceError(message)
        self._overdue = {tp: end for tp, end in ends.items() if at[tp] < end}

    def _behind(self) -> bool:
        assigned = self._consumer.assignment()
        return any((self._consumer.highwater(tp) or 0) > (self._consumer.position(tp, 1_000) or 0) for tp in assigned)

    def _chunks(self, assembly: Assembly, messages: Sequence[Message]) -> Iterator[BrokerChunk]:
        kept, left_out = newest(messages, self._patience_ms)
        if left_out:
            yield from assembly.settle()
            assembly.leave_out(left_out)
        for each in kept:
            if self._stopped.is_set():
                return
            yield from assembly.take(each)

    def _write_offsets(self) -> None:
        if self._done:
            done, self._done = self._done, {}
            self._consumer.commit({tp: OffsetAndMetadata(offset, "", -1) for tp, offset in done.items()}, 4_000)


def message(record: Any) -> Message:
    """What Kafka's client gives, as ours."""
    headers = tuple((name, content or b"") for name, content in record.headers or ())
    time_ms = max(record.timestamp or 0, 0)
    return Message(record.topic, record.partition, record.offset, record.key, record.value, headers, time_ms)
