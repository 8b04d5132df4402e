"""How much memory all processes of a running system take, and which of them are left when it has ended."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import psutil

SAMPLE_S = 2.0
SERVERS = {"java", "docker", "redis-server", "go2rtc"}
MB = 2**20


class Sample(NamedTuple):
    """Resident sets in bytes at one moment, by role."""

    at_s: float
    of: Counter[str]


class Memory:
    """Looks at this process and all that descend from it, again and again."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._ever: set[psutil.Process] = set()
        self._begun: dict[psutil.Process, int] = {}
        self._now: dict[psutil.Process, int] = {}
        self._stopped, self._thread = Event(), Thread(target=self._look, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more samples."""
        self._stopped.set()
        self._thread.join()

    def warm(self) -> None:
        """From here on memory should not grow."""
        self._begun = dict(self._now)

    def growth(self, begun_s: float, took_s: float) -> dict[str, Any]:
        """What was taken in the last tenth of this time over what was in the tenth after a fifth of it."""
        early = self._medians(begun_s + 0.2 * took_s, begun_s + 0.3 * took_s)
        late = self._medians(begun_s + 0.9 * took_s, begun_s + took_s)
        lived = self._begun.keys() & self._now.keys()
        roles = sorted(early.keys() | late.keys())
        return {
            "rss_growth": _ratio(_sum(late, servers=False), _sum(early, servers=False)),
            "rss_growth_servers": _ratio(_sum(late, servers=True), _sum(early, servers=True)),
            "rss_growth_survivors": _ratio(sum(self._now[p] for p in lived), sum(self._begun[p] for p in lived)),
            "rss_mb": {role: [round(each.get(role, 0) / MB) for each in (early, late)] for role in roles},
        }

    def _medians(self, since_s: float, until_s: float) -> dict[str, float]:
        """Median bytes of each role in this time, and of ours and the servers' in all."""
        of = [sample.of for sample in self._samples if since_s <= sample.at_s <= until_s]
        return {role: statistics.median(each[role] for each in of) for role in {role for each in of for role in each}}

    def left(self) -> list[str]:
        """Processes that still run although everything has ended; they are killed."""
        found = [process for process in self._ever if _runs(process)]
        _, alive = psutil.wait_procs(found, timeout=5)
        said = [f"{process.pid} {_role(process)}" for process in alive]
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        return said

    def _look(self) -> None:
        me = psutil.Process()
        while not self._stopped.wait(SAMPLE_S):
            processes = me.children(recursive=True)
            self._ever.update(processes)
            now, of = {}, Counter[str]()
            for process in [me, *processes]:
                with suppress(psutil.Error):
                    now[process] = process.memory_info().rss
                    of[_role(process)] += now[process]
            self._now = now
            self._samples.append(Sample(time.monotonic(), of))


def _role(process: psutil.Process) -> str:
    """``StreamWorker`` for ``ray::StreamWorker.look``, else the name of its program or script."""
    if process.pid == psutil.Process().pid:
        return "this script"
    words = process.cmdline() or [process.name()]
    title = words[0].split()[0]
    if "ServeReplica:" in title:
        return title[title.rindex("ServeReplica:") :].split(".")[0]
    if title.startswith("ray::"):
        return title.removeprefix("ray::").split(".")[0]
    script = next((Path(word).stem for word in words[1:4] if word.endswith(".py")), "")
    return script or Path(title).name


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _sum(of: dict[str, float], *, servers: bool) -> float:
    return sum(size for role, size in of.items() if (role in SERVERS) is servers)


def _ratio(after: float, before: float) -> float | None:
    return round(after / before, 4) if before else None
