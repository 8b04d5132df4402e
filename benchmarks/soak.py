"""Four streams through Kafka for half an hour while something is killed every minute: is anything lost or doubled?

``python benchmarks/soak.py --minutes 30`` starts a Kafka, a Redis, an RTSP server with a camera (where go2rtc is at
hand) and the running system on a Ray cluster of its own, on two cores. Looped video of known people is published in
real time. Every ``--every`` seconds, the first time after half of that, one thing gets a SIGKILL: a worker, a Serve
replica, the supervisor, the broker, Redis, the RTSP server or the camera; all kinds come up, in random order, before
one comes up again. Servers are started again after a second; for everything else the system has to care itself.
In the end a reader of committed messages reads all topics and holds them against what the broker had confirmed.

``lost``, ``duplicated``, ``out_of_order`` and ``strangers`` (faces of another stream) are about the streams of the
video topic; the exit code is 1 unless all of them are 0. The camera may lose pictures, so it is counted apart; it must
not double them.

``recovery``: seconds from the kill until a stream that it concerns (the killed worker's own; the camera; else all)
gives a record again. What comes within half a second after the kill does not count: it was on its way already.
``caught_up``: seconds until the record of a picture that was taken after the kill, with all that waited before it.

``rss_growth``: sum of the resident sets of all our processes (this script, Ray, the workers and replicas, the camera;
not Kafka, Redis and go2rtc, which are given apart), median of the last tenth of the time over the median of the tenth
that follows a fifth of it. Processes that were killed are there again with little memory, so
``rss_growth_survivors`` tells the same of only those processes that lived from that fifth to the end.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from streaming_memory import Memory
from streaming_people import PEOPLE, clip, film, name
from streaming_records import Arrivals, Ledger, Publication
from streaming_system import Site, broker, site

from pipeline.errors import PipelineError
from pipeline.servers.camera import FileCamera
from pipeline.servers.process import LocalProcess
from pipeline.servers.rtsp_server import RtspServer

FPS, CHUNK_S, PARTITIONS = 8, 0.5, 4
TYPES = ("video/mp2t", "image/jpeg", "video/mp4", "video/h264;unit=au")  # one stream after the other
CAMERA, SEEN_BY_CAMERA = "camera", PEOPLE - 1  # id of its stream, and who is in it
QUIET_S = 12.0  # no kill so shortly before the end
RESTART_S = 1.0
ON_ITS_WAY_S = 0.5
MUST_BE_ZERO = ("lost", "duplicated", "out_of_order", "strangers", "camera_duplicated", "camera_out_of_order")


@dataclass
class Kill:
    """What was killed when, whom it concerns, and how many seconds later each of those was back, and caught up."""

    kind: str
    at_s: float
    concerned: frozenset[str]
    back: dict[str, float] = field(default_factory=dict)
    caught_up: dict[str, float] = field(default_factory=dict)


class Studio:
    """An RTSP server and its camera; both None where there is no go2rtc."""

    def __init__(self, folder: Path, parts: ExitStack) -> None:
        self.server: RtspServer | None = None
        with suppress(PipelineError):
            self.server = parts.enter_context(RtspServer(folder / "rtsp"))
            shown = clip(SEEN_BY_CAMERA, folder / "camera.mp4", FPS)
            self.camera = parts.enter_context(FileCamera(shown, self.server.url(), folder / "camera.log"))

    def watched_by(self, place: Site) -> None:
        """Let the system watch the camera."""
        if self.server is not None:
            spec = {"id": CAMERA, "url": self.server.url()}
            httpx.post(f"{place.system.url}/v1/streams", json=spec, timeout=30).raise_for_status()

    def unwatched_by(self, place: Site) -> None:
        """Let what the camera showed be delivered, and no more come."""
        if self.server is not None:
            httpx.delete(f"{place.system.url}/v1/streams/{CAMERA}", timeout=30)


class Assassin:
    """Kills one kind of thing after the other, in random order."""

    def __init__(self, place: Site, studio: Studio, streams: list[str], seed: int) -> None:
        self.kills: list[Kill] = []
        self._system, self._streams, self._random = place.system, frozenset(streams), random.Random(seed)
        self._servers: dict[str, LocalProcess] = {"broker": place.kafka, "redis": place.redis}
        if studio.server is not None:
            self._servers |= {"rtsp server": studio.server, "camera": studio.camera}
            self._streams |= {CAMERA}
        self._bag: list[str] = []

    def strike(self) -> None:
        """Kill something."""
        if not self._bag:
            self._bag = ["worker", "replica", "supervisor", *self._servers]
            self._random.shuffle(self._bag)
        kind = self._bag.pop()
        if kind in self._servers:
            only_camera = kind in {"rtsp server", "camera"}
            self._servers[kind].kill()
            self._note(kind, frozenset({CAMERA}) if only_camera else self._streams)
            time.sleep(RESTART_S)
            self._servers[kind].start()
        elif kind == "worker":
            self._strike_worker()
        else:
            names = {"replica": "ray::ServeReplica:omote", "supervisor": "ray::Supervisor"}
            found = [each for each in psutil.Process().children(recursive=True) if _title(each).startswith(names[kind])]
            self._random.choice(found).kill()
            self._note(kind, self._streams)

    def seen(self, stream: str, seq: int, taken_s: float, now_s: float) -> None:
        """A record has come: its stream is back, and has caught up if the picture was taken after the kill."""
        del seq
        for kill in (kill for kill in self.kills if stream in kill.concerned):
            since_s = now_s - kill.at_s
            if since_s > ON_ITS_WAY_S:
                kill.back.setdefault(stream, since_s)
            if taken_s > kill.at_s:
                kill.caught_up.setdefault(stream, since_s)

    def _strike_worker(self) -> None:
        views = [view for view in self._system.streams() if view.state == "online"]
        pids = {view.name: view.pid for view in self._system.workers() if view.state == "running" and view.pid}
        chosen = self._random.choice(sorted({view.worker for view in views} & pids.keys()))
        psutil.Process(pids[chosen]).kill()
        self._note("worker", frozenset(view.id for view in views if view.worker == chosen))

    def _note(self, kind: str, concerned: frozenset[str]) -> None:
        self.kills.append(Kill(kind, time.time(), concerned))


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


class Soak:
    """One run."""

    def __init__(self, minutes: float, streams: int, every_s: float, seed: int) -> None:
        self._wanted_s, self._every_s, self._seed = minutes * 60, every_s, seed
        self._persons = {name(person): person for person in range(streams)} | {CAMERA: SEEN_BY_CAMERA}
        self._films = [film(person, TYPES[person % len(TYPES)], CHUNK_S, FPS) for person in range(streams)]
        self._memory, self._console = Memory(), Console(stderr=True, highlight=False)

    def run(self) -> dict[str, Any]:
        """The figures, once everything is down again."""
        with self._memory, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # Ray tells of each kill
            with tempfile.TemporaryDirectory() as kept, ExitStack() as parts:
                self._console.print("starting Kafka, Redis, Ray and the system")
                studio = Studio(Path(kept), parts)
                place = parts.enter_context(site(Path(kept), PARTITIONS))
                figures = self._measured(place, studio)
                self._console.print("taking everything down")
            figures["left_running"] = self._memory.left()
        return figures

    def _measured(self, place: Site, studio: Studio) -> dict[str, Any]:
        streams = [name for name in self._persons if name != CAMERA]
        assassin = Assassin(place, studio, streams, self._seed)
        figures: dict[str, Any] = {"broker": broker(place.kafka), "seed": self._seed, "streams": len(streams)}
        with Arrivals(place.settings, PARTITIONS, assassin.seen) as arrivals:
            with Publication(place.settings, self._films, FPS) as publication:
                studio.watched_by(place)
                arrivals.until(dict.fromkeys(streams, 1))
                self._console.print(f"running for {self._wanted_s / 60:g} minutes; Ctrl-C ends it earlier, in order")
                figures |= self._survived(assassin, arrivals)
            self._console.print("waiting for what is on its way")
            arrivals.until(publication.sent)
        studio.unwatched_by(place)
        self._console.print("reading everything back")
        ledger = Ledger()
        ledger.read(place.settings, PARTITIONS, self._persons)
        return {**figures, **counted(ledger, publication), **survived(assassin.kills)}

    def _survived(self, assassin: Assassin, arrivals: Arrivals) -> dict[str, Any]:
        """Kill until the time is over, or until Ctrl-C."""
        begun_s, before = time.monotonic(), arrivals.counts.total()
        psutil.cpu_percent()
        with suppress(KeyboardInterrupt), self._progress() as progress:
            task = progress.add_task("", total=self._wanted_s, said="")
            next_s, warm_s = self._every_s / 2, self._wanted_s / 5
            while (now_s := time.monotonic() - begun_s) < self._wanted_s:
                if now_s >= warm_s:
                    self._memory.warm()
                    warm_s = math.inf
                if now_s >= next_s:
                    next_s += self._every_s
                    if self._wanted_s - now_s > QUIET_S:
                        assassin.strike()
                last = assassin.kills[-1].kind if assassin.kills else "nothing yet"
                said = f"{arrivals.counts.total()} records, {len(assassin.kills)} kills, last: {last}"
                progress.update(task, completed=now_s, said=said)
                time.sleep(0.25)
        took_s = time.monotonic() - begun_s
        return {
            "minutes": round(took_s / 60, 2),
            "frames_per_s": round((arrivals.counts.total() - before) / took_s, 1),
            "machine_busy_percent": psutil.cpu_percent(),
            **self._memory.growth(begun_s, took_s),
        }

    def _progress(self) -> Progress:
        columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[said]}"))
        return Progress(*columns, console=self._console, transient=True, redirect_stdout=False)


def counted(ledger: Ledger, publication: Publication) -> dict[str, Any]:
    """What was lost and doubled, of the video topic and of the camera."""

    def in_topic(of: Counter[str]) -> int:
        return sum(count for stream, count in of.items() if stream != CAMERA)

    return {
        "published": publication.sent.total(),
        "unconfirmed": publication.failed,
        "records": in_topic(ledger.counts),
        "lost": sum(max(0, sent - ledger.counts[stream]) for stream, sent in publication.sent.items()),
        "duplicated": in_topic(ledger.duplicated),
        "out_of_order": in_topic(ledger.out_of_order),
        "strangers": ledger.strangers,
        "camera_records": ledger.counts[CAMERA],
        "camera_connections": ledger.epochs[CAMERA],
        "camera_duplicated": ledger.duplicated[CAMERA],
        "camera_out_of_order": ledger.out_of_order[CAMERA],
    }


def survived(kills: list[Kill]) -> dict[str, Any]:
    """How many kills, and how many seconds later the streams were back and had caught up: median and worst."""
    by_kind = {kind: [kill for kill in kills if kill.kind == kind] for kind in sorted({kill.kind for kill in kills})}
    return {
        "kills": len(kills),
        "kills_by_kind": {kind: len(of) for kind, of in by_kind.items()},
        "recovery_s": _times(kill.back for kill in kills),
        "caught_up_s": _times(kill.caught_up for kill in kills),
        "recovery_by_kind_s": {kind: _times(kill.back for kill in of) for kind, of in by_kind.items()},
        "caught_up_by_kind_s": {kind: _times(kill.caught_up for kill in of) for kind, of in by_kind.items()},
        "never_back": sum(len(kill.concerned - kill.caught_up.keys()) for kill in kills),
    }


def _times(of: Iterable[Mapping[str, float]]) -> list[float]:
    """Median and worst; nothing if there are none."""
    every = [seconds for streams in of for seconds in streams.values()]
    return [round(statistics.median(every), 2), round(max(every), 2)] if every else []


def as_tables(figures: dict[str, Any]) -> list[Table]:
    """The figures; the kills; the memory."""
    plain = Table("figure", "value", box=None)
    for key, value in figures.items():
        if not isinstance(value, dict):
            plain.add_row(key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    kills = Table("killed", "times", "back after s: median, worst", "caught up after s", box=None)
    for kind, times in figures["kills_by_kind"].items():
        found = (figures[key][kind] for key in ("recovery_by_kind_s", "caught_up_by_kind_s"))
        kills.add_row(kind, str(times), *(", ".join(map(str, seconds)) for seconds in found))
    memory = Table("resident set, MB", "early", "late", box=None)
    for role, (early, late) in figures["rss_mb"].items():
        memory.add_row(role, str(early), str(late))
    return [plain, kills, memory]


def main(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 30,
    streams: Annotated[int, typer.Option(min=1, max=PEOPLE - 1, help="Streams in the video topic.")] = 4,
    every: Annotated[float, typer.Option(min=10, help="Seconds between two kills.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the order of kills; chosen and told if not given.")] = -1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Run, print the tables, and fail if anything was lost, doubled or out of order."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    figures = Soak(minutes, streams, every, seed if seed >= 0 else random.randrange(10_000)).run()
    for table in as_tables(figures):
        Console(width=120).print(table, "")
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1))
    sys.exit(bool(figures["unconfirmed"] or figures["left_running"]) or any(figures[key] for key in MUST_BE_ZERO))


if __name__ == "__main__":
    typer.run(main)
