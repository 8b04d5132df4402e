"""Figures of the running system, Kafka in and Kafka out: throughput of many streams, latency, recovery, neighbours.

``streaming.py`` puts them into its table; ``python benchmarks/streaming_kafka.py`` measures these alone.

``aggregate_8_over_1_streams``: frames a second of 8 streams over those of one, each published as fast as possible,
the same number of frames in all (640x360, one face, MPEG-TS chunks of 1 s), between the first record and the last.

``recovery_s``: a worker gets a SIGKILL while four streams come in real time; the worst time until one of its streams
gives a record again. What comes within half a second after the kill does not count.

``latency_*_ms``: from the moment at which a message with a picture is handed to the producer (the message's last
picture has just been taken) to the arrival of the picture's record at a consumer of committed records. One stream of
20 frames/s, 640x360. For JPEG every picture is a message, and up to 8 of them are analysed together.
``broker_*_ms`` is the broker's own share: a message of the same size from a producer to a consumer with nobody between.

``slow_beside_fast_ratio``: median latency of a small stream (320x180, 10 frames/s) while a stream of 1920x1080 at 20
frames/s, far more than its worker can analyse, comes on another partition, over its median latency alone.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import psutil
import typer
from kafka import TopicPartition
from rich.console import Console
from rich.table import Table
from streaming_people import film, in_turn, looped
from streaming_records import Arrivals, Publication
from streaming_system import Site, site

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.video_messages import CONTAINERS, JPEG, VideoMessage

PARTITIONS, STREAMS = 4, (1, 2, 4, 8)
CHUNK = "video/mp2t"
FPS, CHUNK_S = 20, 0.5
ON_ITS_WAY_S = 0.5
TARGETS = {
    "aggregate_8_over_1_streams": ">= 0.90",
    "recovery_s": "<= 5",
    "slow_beside_fast_ratio": "<= 2",
}


def figures(*, quick: bool = False) -> dict[str, Any]:
    """All of them, on a system of their own."""
    with tempfile.TemporaryDirectory() as kept, site(Path(kept), PARTITIONS) as place:
        _warm(place)
        seconds = 8 if quick else 30
        return {
            **aggregate(place, frames=400 if quick else 1600, rounds=1 if quick else 2),
            **recovery(place, kills=2 if quick else 8),
            **latency(place, seconds),
            **neighbours(place, seconds),
        }


def aggregate(place: Site, frames: int, rounds: int) -> dict[str, Any]:
    """Frames a second of 1, 2, 4 and 8 streams; each round goes through them the other way round."""
    found: dict[int, list[float]] = {count: [] for count in STREAMS}
    for turn in range(rounds):
        for count in STREAMS if turn % 2 == 0 else STREAMS[::-1]:
            found[count].append(_at_once(place, f"at-once-{turn}-{count}", count, frames))
    rates = {count: statistics.mean(each) for count, each in found.items()}
    return {
        **{f"frames_per_s_{count}_streams": round(rate, 2) for count, rate in rates.items()},
        "aggregate_8_over_1_streams": round(rates[8] / rates[1], 3),
    }


def recovery(place: Site, kills: int) -> dict[str, Any]:
    """How long a killed worker's streams give nothing, under load."""
    films = [_as(f"mortal-{n}", film(n, CHUNK, CHUNK_S, 10)) for n in range(PARTITIONS)]
    times = []
    with Watch(place) as watch, Publication(place.settings, films, 10, range(PARTITIONS)):
        watch.until({film[0].stream: 1 for film in films})
        for number in range(kills):
            name = f"partition-{number % PARTITIONS}"
            psutil.Process(next(view.pid for view in place.system.workers() if view.name == name)).kill()
            times.append(watch.back(f"mortal-{number % PARTITIONS}", time.time()))
            time.sleep(3)
    return {
        "recovery_s": round(max(times), 2),
        "recovery_median_s": round(statistics.median(times), 2),
        "recovery_kills": kills,
    }


def latency(place: Site, seconds: float) -> dict[str, Any]:
    """Kafka in to Kafka out, in milliseconds, for chunks and for single pictures; and the broker's part of it."""
    said: dict[str, Any] = {"latency_chunk_s": CHUNK_S}
    for kind, prefix in ((CHUNK, ""), (JPEG, "jpeg_")):
        once = film(0, kind, CHUNK_S, FPS, 2)
        taken = _latencies(place, f"timed-{prefix}stream", once, FPS, seconds)
        alone = _through_broker(place.settings, round(statistics.mean(len(m.data) for m in once)))
        for name, found in (("latency", taken), ("broker", alone)):
            said[f"{prefix}{name}_p50_ms"] = round(1000 * statistics.median(found), 1)
            said[f"{prefix}{name}_p99_ms"] = round(1000 * statistics.quantiles(found, n=100)[98], 1)
    return said


def neighbours(place: Site, seconds: float) -> dict[str, Any]:
    """Latency of a fast stream alone, and beside one that its worker cannot keep up with."""
    fast, slow = film(0, CHUNK, CHUNK_S, 10), _as("slow", film(1, CHUNK, CHUNK_S, FPS, 6))
    alone = statistics.median(_latencies(place, "fast-alone", fast, 10, seconds))
    with Publication(place.settings, [slow], FPS, [1]):
        time.sleep(3)
        beside = statistics.median(_latencies(place, "fast-beside", fast, 10, seconds))
    return {
        "fast_alone_p50_ms": round(1000 * alone, 1),
        "fast_beside_slow_p50_ms": round(1000 * beside, 1),
        "slow_beside_fast_ratio": round(beside / alone, 2),
    }


class Watch(Arrivals):
    """Remembers when the pictures of each stream were taken and when their records came."""

    def __init__(self, place: Site) -> None:
        super().__init__(place.settings, PARTITIONS, self._remember)
        self.came: dict[str, list[tuple[int, float, float]]] = {}

    def back(self, stream: str, since_s: float, patience_s: float = 60.0) -> float:
        """Seconds until the stream gives a record, for the first time half a second after ``since_s`` (Unix time)."""
        while time.time() - since_s < patience_s:
            _, _, last_s = self.came[stream][-1]
            if last_s > since_s + ON_ITS_WAY_S:
                return min(now_s for _, _, now_s in self.came[stream] if now_s > since_s + ON_ITS_WAY_S) - since_s
            time.sleep(0.02)
        return patience_s

    def _remember(self, stream: str, seq: int, taken_s: float, now_s: float) -> None:
        self.came.setdefault(stream, []).append((seq, taken_s, now_s))


def _warm(place: Site) -> None:
    """Let every worker and replica do its first work."""
    _at_once(place, "warm", 8, 320)


def _at_once(place: Site, stream: str, count: int, frames: int) -> float:
    """Frames a second when ``count`` streams are published as fast as can be, ``frames`` of them in all."""
    once = film(0, CHUNK, 1.0, FPS, 2)
    rounds = frames // count // sum(message.frames for message in once)
    films = [looped(_as(f"{stream}-{n}", once), FPS, rounds=rounds) for n in range(count)]
    with Watch(place) as watch:
        wanted = _send(place.settings, in_turn(films))
        watch.until(wanted)
    times = sorted(now_s for stream in wanted for _, _, now_s in watch.came[stream])
    return sum(now_s > times[0] for now_s in times) / (times[-1] - times[0])


def _send(settings: KafkaSettings, messages: Iterable[VideoMessage]) -> dict[str, int]:
    """Publish, the n-th stream to the n-th partition; how many pictures each stream has."""
    sent: dict[str, int] = {}
    with closing(settings.producer()) as producer:
        for m in messages:
            sent.setdefault(m.stream, 0)
            partition = list(sent).index(m.stream) % PARTITIONS
            taken_ms = round(time.time() * 1000)
            producer.send(settings.topic("video"), m.data, m.stream.encode(), m.headers, partition, taken_ms)
            sent[m.stream] += m.frames
        producer.flush()
    return sent


def _latencies(place: Site, stream: str, once: Sequence[VideoMessage], fps: int, seconds: float) -> list[float]:
    """Seconds from the hand-over of a message to the record of its last picture; the first two seconds are left out."""
    with Watch(place) as watch:
        with Publication(place.settings, [_as(stream, once)], fps, [0]) as publication:
            watch.until({stream: 1})
            time.sleep(2 + seconds)
        watch.until(publication.sent)
    container = once[0].content_type in CONTAINERS
    length, step_s = once[0].frames, 1 / fps if container else 0.0  # a chunk is sent once its last picture is over
    came = watch.came[stream]
    return [now_s - taken_s - step_s for seq, taken_s, now_s in came if seq % length == length - 1 and seq > 2 * fps]


def _through_broker(settings: KafkaSettings, size: int, times: int = 200) -> list[float]:
    """Seconds of a message from a producer to a consumer that waits for it."""
    topic, found = settings.topic("audit"), []
    with closing(settings.consumer()) as consumer, closing(settings.producer()) as producer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_end()
        consumer.position(TopicPartition(topic, 0))
        for number in range(times):
            sender = Thread(target=_soon, args=(producer, topic, os.urandom(size)))
            sender.start()
            while not (polled := consumer.poll(timeout_ms=1_000)):
                pass
            now_s = time.time()
            sender.join()
            found.append(now_s - float(next(iter(polled.values()))[0].key))
            del number
    return found


def _soon(producer: Any, topic: str, value: bytes) -> None:
    """Send when the consumer waits already, with the moment as the key."""
    time.sleep(0.03)
    producer.send(topic, value, str(time.time()).encode(), [], 0).get(5)


def _as(stream: str, messages: Iterable[VideoMessage]) -> list[VideoMessage]:
    return [replace(message, stream=stream) for message in messages]


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    quick: Annotated[bool, typer.Option(help="Less of everything, in two minutes.")] = False,
) -> None:
    """Measure and print the table."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: everything is taken down
    found = figures(quick=quick)
    table = Table("figure", "value", "target", box=None)
    for name, value in found.items():
        table.add_row(name, str(value), TARGETS.get(name, ""))
    Console().print(table)
    if json_file:
        json_file.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
