"""``omote serve``: analyse the video topic of Kafka for ever, a process for each partition."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from pipeline.commands.broker import Prefix, Servers, settings
from pipeline.commands.options import Device, Engine, GraphFile, Values, loaded

HEALTHY_S, MAX_PAUSE_S = 30.0, 10.0


def serve(
    graph: GraphFile,
    variables: Values = None,
    servers: Servers = "",
    prefix: Prefix = "",
    partition: Annotated[int | None, typer.Option(help="Only this one, in this process.")] = None,
    group: Annotated[str, typer.Option(help="Consumer group; its workers fence each other.")] = "omote",
    device: Device = "auto",
    engine: Engine = "auto",
) -> None:
    """Analyse the video topic: every frame of every stream once, also when workers or brokers are killed."""
    found = settings(servers, prefix)
    declared = loaded(graph, variables, device, engine)
    from pipeline.edges.kafka_topics import video_partitions  # noqa: PLC0415  (an extra)
    from pipeline.serving.partition import run_partition  # noqa: PLC0415

    if partition is not None:
        run_partition(declared, found, partition, group=group)
        return
    count = video_partitions(found)
    Console(stderr=True).print(f"{count} partitions of {found.topic('video')} at {found.servers}", highlight=False)
    _look_after([sys.executable, "-m", "pipeline", *sys.argv[1:]], count)


def _look_after(command: list[str], count: int) -> None:
    """Keep a worker for each partition alive until Ctrl-C or SIGTERM."""
    with _terminable():
        workers = [Keeper([*command, "--partition", str(number)]) for number in range(count)]
        try:
            while True:
                for worker in workers:
                    worker.look()
                time.sleep(0.2)
        except KeyboardInterrupt:
            pass
        finally:
            for worker in workers:
                worker.end()


class Keeper:
    """One worker process, started again when it ends; the pause grows while it does not stay."""

    def __init__(self, command: list[str]) -> None:
        self._command, self._pause_s = command, 0.5
        self._since = time.monotonic()
        self._process = subprocess.Popen(command)

    def look(self) -> None:
        """Start the worker again if it has ended and its pause is over."""
        if self._process.poll() is None:
            return
        lived = time.monotonic() - self._since
        self._pause_s = 0.5 if lived > HEALTHY_S else self._pause_s
        if lived < self._pause_s:
            return
        self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)
        self._since = time.monotonic()
        self._process = subprocess.Popen(self._command)

    def end(self) -> None:
        """Let the worker finish what is under way."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM acts like Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
