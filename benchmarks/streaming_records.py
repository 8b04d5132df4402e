"""Publishes films in real time, sees what comes of them, and in the end tells what is lost, doubled or out of order."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import repeat
from threading import Event, Thread
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition
from streaming_people import looped, strangers

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.playing import recorded
from pipeline.edges.video_messages import Message, VideoMessage
from pipeline.errors import SourceError

PATIENCE_MS = 120_000  # a broker that is away comes back
Seen = Callable[[str, int, float, float], None]


class Publication:
    """Films to the video topic, over and over, each picture when it would have been taken.

    Attributes:
        sent: Pictures by stream that the broker has confirmed.
        failed: What it did not take.
    """

    def __init__(
        self, settings: KafkaSettings, films: Sequence[Sequence[VideoMessage]], fps: int, partitions: Sequence[int] = ()
    ) -> None:
        """Each film goes to the partition given, or to that of its stream's name where none is."""
        self.sent: Counter[str] = Counter()
        self.failed: list[str] = []
        self._topic, self._stopped, self._epoch = settings.topic("video"), Event(), int(time.time())
        self._producer = settings.producer(delivery_timeout_ms=PATIENCE_MS, max_block_ms=PATIENCE_MS)
        self._threads = [
            Thread(target=self._publish, args=(film, fps, partition), daemon=True)
            for film, partition in zip(films, partitions or repeat(None, len(films)), strict=True)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop, and wait until everything is confirmed."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._producer.flush(timeout=PATIENCE_MS / 1000)
        self._producer.close(timeout=1)

    def _publish(self, film: Sequence[VideoMessage], fps: int, partition: int | None) -> None:
        for message in recorded(looped(film, fps, self._stopped), realtime=True):
            self._send(message, partition)

    def _send(self, message: VideoMessage, partition: int | None) -> None:
        headers = [(name, value) for name, value in message.headers if name != "epoch"]
        headers.append(("epoch", str(self._epoch).encode()))
        taken_ms = message.capture_ns // 1_000_000
        sent = self._producer.send(self._topic, message.data, message.stream.encode(), headers, partition, taken_ms)
        sent.add_callback(self._confirmed, message.stream, message.frames)
        sent.add_errback(lambda error: self.failed.append(f"{message.stream} {message.seq}: {error}"))

    def _confirmed(self, stream: str, frames: int, place: object) -> None:
        del place
        self.sent[stream] += frames


class Arrivals:
    """A consumer of committed records, from the first on, that goes on whatever happens to the broker.

    Attributes:
        counts: Records of frames by stream.
    """

    def __init__(self, settings: KafkaSettings, partitions: int, seen: Seen = lambda *record: None) -> None:
        """``seen`` is told of each: stream, number, when its picture was taken and when it came, in Unix time."""
        self.counts: Counter[str] = Counter()
        self._settings, self._seen, self._stopped = settings, seen, Event()
        self._assigned = [TopicPartition(settings.topic("annotations"), number) for number in range(partitions)]
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def until(self, wanted: Mapping[str, int], patience_s: float = 60.0) -> bool:
        """Wait until there are as many as ``wanted``, and for not longer than ``patience_s`` without any more."""
        last, since = -1, time.monotonic()
        while any(self.counts[stream] < count for stream, count in wanted.items()):
            if self.counts.total() != last:
                last, since = self.counts.total(), time.monotonic()
            if time.monotonic() - since > patience_s:
                return False
            time.sleep(0.1)
        return True

    def _follow(self) -> None:
        consumer: KafkaConsumer = self._settings.consumer()
        consumer.assign(self._assigned)
        consumer.seek_to_beginning(*self._assigned)
        while not self._stopped.is_set():
            with suppress(SourceError), self._settings.errors(SourceError):
                for records in consumer.poll(timeout_ms=100).values():
                    self._note(records, time.time())
        consumer.close(autocommit=False, timeout_ms=1_000)

    def _note(self, records: Sequence[Any], now_s: float) -> None:
        for record in records:
            said = dict(record.headers)
            stream, seq = said["stream-id"].decode(), int(said["frame-seq"])
            self.counts[stream] += 1
            self._seen(stream, seq, datetime.fromisoformat(said["ce_time"].decode()).timestamp(), now_s)


class Ledger:
    """What a reader of committed records finds in the end, held against what was published.

    Attributes:
        counts: Different records of frames by stream.
        duplicated: Records that were there before, by ``ce_id`` or by stream, epoch and number.
        out_of_order: Records that came after a later one of their stream.
        strangers: Faces that belong to another stream.
        epochs: Connections by stream.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.duplicated: Counter[str] = Counter()
        self.out_of_order: Counter[str] = Counter()
        self.strangers = 0
        self.epochs: Counter[str] = Counter()
        self._last: dict[str, tuple[int, int]] = {}
        self._next: dict[tuple[str, int], int] = {}
        self._skipped: set[tuple[str, int, int]] = set()
        self._ids: set[bytes] = set()  # of some hundred bytes each: a few MB for half an hour

    def read(self, settings: KafkaSettings, partitions: int, persons: Mapping[str, int]) -> None:
        """Read all records that came with the frames; ``persons`` says who is in which stream."""
        for message in _messages(settings, "annotations", partitions):
            self._frame(message, persons)
        for topic in ("tracks", "matches"):
            for message in _messages(settings, topic, partitions):
                self._id(message)

    def _frame(self, message: Message, persons: Mapping[str, int]) -> None:
        record = json.loads(message.value or b"")
        stream, epoch, seq = message.stream, record["stream"]["epoch"], record["frame"]["seq"]
        fresh = self._id(message)
        self.epochs[stream] += (stream, epoch) not in self._next
        following = self._next.get((stream, epoch), 0)
        self._skipped.update((stream, epoch, number) for number in range(following, seq))
        if seq >= following or (stream, epoch, seq) in self._skipped:
            self.counts[stream] += 1
        elif fresh:
            self.duplicated[stream] += 1
        self.out_of_order[stream] += (epoch, seq) < self._last.get(stream, (0, 0))
        self._skipped.discard((stream, epoch, seq))
        self._next[stream, epoch] = max(following, seq + 1)
        self._last[stream] = max((epoch, seq), self._last.get(stream, (0, 0)))
        self.strangers += strangers(persons[stream], record)

    def _id(self, message: Message) -> bool:
        """Note the id; whether it was new."""
        key = bytes.fromhex(message.said["ce_id"])
        if key in self._ids:
            self.duplicated[message.stream] += 1
            return False
        self._ids.add(key)
        return True


def _messages(settings: KafkaSettings, topic: str, partitions: int) -> Iterator[Message]:
    for number in range(partitions):
        yield from read_to_end(settings, settings.topic(topic), [number])
