"""How results, states and positions become safe together: in transactions, or one after the other."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from kafka import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError
from kafka.partitioner import murmur2

from pipeline.edges.kafka_producer import Producer
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import LETTER_BYTES, read_to_end
from pipeline.edges.video_messages import Message
from pipeline.edges.watchdog import OnStuck, end_process, limited
from pipeline.errors import SinkError, SourceError

DEADLINE_S = 5.0
# What a dead worker leaves open holds up readers until its successor comes, or for so long. It is more than a live
# one may take between two parts of a message, which is what its supervisor calls standing still.
TRANSACTION_MS = 180_000
SETTLED_S = 15.0  # patience with a transaction that hides newer states; whoever wants more of it asks again
MAX_TEXT = 4_000  # characters of an error that a dead letter keeps
MAX_DIGITS = 9  # of a header that counts
GROUP = "omote"  # the consumer group to which offsets are written
# The key of a state is the id of its stream; that of a camera begins with a byte that no text does, so that it never
# meets a stream of the video topic that has its name.
CAMERA = b"\xff"


class Restored(NamedTuple):
    """What the changelog knows of a stream: its ``state`` as it was committed, and the ``position`` after it."""

    state: bytes
    position: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be worked on.

    Attributes:
        message: The message.
        stage: Which stage failed; ``read`` where the message itself cannot be understood.
        error_class: Type of the error.
        error: Its text.
    """

    message: Message
    stage: str
    error_class: str
    error: str

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """The headers of the message, and why and where it died. A letter that died before counts its deaths."""
        attempts = self.message.said.get("dlq-attempts", "0")
        said = {
            "dlq-stage": self.stage,
            "dlq-error-class": self.error_class,
            "dlq-error": self.error[:MAX_TEXT],
            "dlq-attempts": int(attempts) + 1 if attempts.isdecimal() and len(attempts) <= MAX_DIGITS else 1,
            "dlq-origin-topic": self.message.topic,
            "dlq-origin-partition": self.message.partition,
            "dlq-origin-offset": self.message.offset,
            "dlq-origin-time": self.message.said.get("dlq-origin-time", self.message.time_ms),
            "dlq-time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        own = [(name, value) for name, value in self.message.headers if not name.startswith("dlq-")]
        return [*own, *((name, str(value).encode()) for name, value in said.items())]


class Delivery(ABC):
    """Sends what came of one message after the other, and makes it safe together with states and position.

    The caller begins, sends, and commits or aborts; what is sent in between counts as a whole. No call waits for
    longer than ``deadline_s``: past it ``on_stuck`` is called from another thread, for Kafka's client may never
    return once a broker died under it.

    Attributes:
        traces: Which W3C trace context what is sent now goes on with, and from which stream time on, earliest first.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        owner: str = "",
        partition: int | None = None,
        deadline_s: float = DEADLINE_S,
        on_stuck: OnStuck = end_process,
    ) -> None:
        """Connect, for the streams of one partition of the video topic or for one stream that comes from elsewhere.

        Args:
            settings: How to reach Kafka.
            owner: Id of the stream, where it comes from elsewhere.
            partition: Partition of the video topic that is read. Offsets are committed for it, and the changelog of
                its streams is the partition of the same number. None for a stream that comes from elsewhere.
            deadline_s: Longest time that a call may take.
            on_stuck: Called with a sentence when a call takes longer; ends the process if not given.

        Raises:
            SinkError: No broker answers.
        """
        self._settings, self._owner = settings, owner
        self._deadline_s, self._on_stuck = deadline_s, on_stuck
        self._source = None if partition is None else TopicPartition(settings.topic("video"), partition)
        self._states: dict[str, bytes] = {}
        self.traces: Sequence[tuple[int, str]] = ()
        self._sent: list[Any] = []
        with self._limited("take over"):
            self._producer: Producer = self._connect(max_request_size=settings.message_bytes + LETTER_BYTES + 1024)
            self._partition = self._home() if partition is None else partition

    def begin(self) -> None:
        """Begin with one message.

        Raises:
            FencedError: A newer worker has taken over.
        """
        self._sent = []
        with self._limited("begin"):
            self._begin()

    def send(
        self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]], time_ms: int, pts_ns: int = 0
    ) -> None:
        """Send one message to the topic with this short name, such as ``annotations``; it tells of ``pts_ns``.

        Raises:
            TooLargeError: The message is larger than ``message_bytes``.
            SinkError: Kafka does not take it.
        """
        begun = [trace for since, trace in self.traces if since <= pts_ns] or [trace for _, trace in self.traces[:1]]
        traced = [("traceparent", trace.encode()) for trace in begun[-1:] if trace]
        self._send(topic, key, value, [*headers, *traced], time_ms)

    def commit(self, states: Mapping[str, bytes], position: int = 0, watermark: int | None = None) -> None:
        """Make safe what was sent, together with the states of the streams and how far the source was read.

        Args:
            states: By stream, what its keyed stages remember; empty bytes once the stream is over.
            position: Offset after the last message of these streams.
            watermark: Offset from which the partition is to be read again; ``position`` if not given.

        Raises:
            FencedError: A newer worker has taken over; nothing was made safe.
            SinkError: Kafka does not take something; abort.
        """
        for stream, state in states.items():
            key = stream.encode() if self._source else CAMERA + stream.encode()
            self._send("state", key, state, [("position", str(position).encode())], 0, self._partition)
        with self._limited("commit"):
            self._commit(position if watermark is None else watermark)
        self._states |= states
        for stream in [stream for stream, state in states.items() if not state]:
            del self._states[stream]  # it is over

    def abort(self) -> None:
        """Take back what was sent since `begin`, as far as that can be done.

        Raises:
            SinkError: It cannot be taken back; end this worker, the next one will.
        """
        with self._limited("abort"):
            self._abort()

    def reject(self, letters: Sequence[DeadLetter], position: int, watermark: int | None = None) -> None:
        """Pass over messages: put them into the dead-letter topic, and go on behind them, states as they were.

        Call it between transactions: after `abort`, or before `begin`.

        Raises:
            SinkError: As `commit`.
        """
        self.begin()
        for letter in letters:
            message = letter.message
            value = message.value or b""  # what has neither key nor value is not sent
            self._send("dlq", message.key, value, letter.headers, 0)  # it is kept from now on
        streams = {letter.message.stream for letter in letters}
        self.commit({stream: self._states.get(stream, b"") for stream in streams}, position, watermark)

    def restore(self) -> dict[str, Restored]:
        """What the changelog knows of each stream of this partition, as last committed.

        Raises:
            SourceError: It cannot be read.
        """
        found: dict[str, Restored] = {}
        for message in read_to_end(self._settings, self._settings.topic("state"), [self._partition], SETTLED_S):
            key = message.key or b""
            if self._keeps(key):
                stream = key.removeprefix(CAMERA).decode(errors="replace")
                found[stream] = Restored(message.value or b"", int(message.said.get("position", "0")))
        self._states = {stream: restored.state for stream, restored in found.items() if restored.state}
        return found

    def committed(self) -> int | None:
        """The watermark last committed; None if there is none.

        Raises:
            SourceError: Kafka does not say.
        """
        if self._source is None:
            return None
        with self._settings.errors(SourceError, "read offsets"):
            consumer = self._settings.consumer(group_id=GROUP)
            try:
                offset: int | None = consumer.committed(self._source, timeout_ms=4_000)
            finally:
                consumer.close(autocommit=False, timeout_ms=1_000)
        return offset

    def flush(self) -> None:
        """Return once everything that was sent has arrived.

        Raises:
            SinkError: Something has not.
        """
        with self._limited("send"):
            self._arrived()

    def close(self) -> None:
        """End the connection; what was begun and not committed is lost."""
        with limited("closing the producer", self._deadline_s + 2, self._on_stuck):
            self._producer.close()

    @contextmanager
    def _limited(self, doing: str) -> Iterator[None]:
        with limited(f"to {doing}", self._deadline_s, self._on_stuck), self._errors(doing):
            yield

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Kafka's errors as ours. What failed first says why; what is refused after it only says that."""
        try:
            yield
        except KafkaError as error:
            first = next((sent.exception for sent in self._sent if sent.failed()), error)
            tried = doing if first is error else "write what was sent"
            raise self._settings.translated(first, SinkError, tried) from error

    def _send(
        self,
        topic: str,
        key: str | bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        time_ms: int,
        partition: int | None = None,
    ) -> None:
        name = self._settings.topic(topic)
        given = key.encode() if isinstance(key, str) else key
        # The client itself waits for 4 s at most; one that takes longer is not waited for, as in every other call.
        with limited(f"to write to {name}", self._deadline_s + 2, self._on_stuck), self._errors(f"write to {name}"):
            future = self._producer.send(name, value, given, list(headers), partition, time_ms or None)
        self._sent.append(future)

    def _arrived(self) -> None:
        sent, self._sent = self._sent, []
        for future in sent:
            future.get(self._deadline_s)

    def _keeps(self, key: bytes) -> bool:
        """Whether the state with this key is of a stream of its own."""
        return not key.startswith(CAMERA) if self._source else key == CAMERA + self._owner.encode()

    def _home(self) -> int:
        """The partition of the changelog where Kafka would put the stream."""
        numbers = sorted(self._producer.partitions_for(self._settings.topic("state")))
        home: int = numbers[(murmur2(self._owner.encode()) & 0x7FFFFFFF) % len(numbers)]
        return home

    @abstractmethod
    def _connect(self, **limits: Any) -> Producer: ...

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _commit(self, watermark: int) -> None: ...

    @abstractmethod
    def _abort(self) -> None: ...


class Transactions(Delivery):
    """Exactly once, for whoever reads committed messages only. A new one fences off the one before."""

    def _connect(self, **limits: Any) -> Producer:
        owner = f"partition-{self._source.partition}" if self._source else f"stream-{self._owner}"
        producer = self._settings.producer(
            transactional_id=f"{self._settings.prefix}{GROUP}.{owner}",
            transaction_timeout_ms=TRANSACTION_MS,
            **limits,
        )
        producer.init_transactions()
        return producer

    def _begin(self) -> None:
        self._producer.begin_transaction()

    def _commit(self, watermark: int) -> None:
        if self._source is not None:
            offsets = {self._source: OffsetAndMetadata(watermark, "", -1)}
            self._producer.send_offsets_to_transaction(offsets, ConsumerGroupMetadata(GROUP, -1, "", None))
        self._producer.commit_transaction()

    def _abort(self) -> None:
        self._producer.abort_transaction()


class AtLeastOnce(Delivery):
    """Everything arrives; after a failure some of it twice, with the same ``ce_id``. Needs no transactions."""

    def _connect(self, **limits: Any) -> Producer:
        if self._source is not None:
            self._offsets = self._settings.consumer(group_id=GROUP)
            self._offsets.assign([self._source])
        return self._settings.producer(**limits)

    def commit(self, states: Mapping[str, bytes], position: int = 0, watermark: int | None = None) -> None:
        self.flush()  # a state that arrives without its records would have them passed over
        super().commit(states, position, watermark)

    def _begin(self) -> None:
        """Nothing holds together."""

    def _commit(self, watermark: int) -> None:
        self._arrived()
        if self._source is not None:
            self._offsets.commit({self._source: OffsetAndMetadata(watermark, "", -1)}, timeout_ms=4_000)

    def _abort(self) -> None:
        """What was sent stays sent."""

    def close(self) -> None:
        super().close()
        if self._source is not None:
            self._offsets.close(autocommit=False, timeout_ms=1_000)
