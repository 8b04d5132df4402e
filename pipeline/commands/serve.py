"""``omote serve``: analyse the video topic and cameras for ever, on a Ray cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from pipeline.commands.broker import Prefix, Servers, settings
from pipeline.commands.options import Device, Engine, GraphFile, Values, loaded
from pipeline.commands.streams import COLOURS
from pipeline.commands.terminal import plain
from pipeline.errors import GraphError, PipelineError

if TYPE_CHECKING:
    from pipeline.serving.application import System

LOOK_S = 1.0

RedisUrl = Annotated[str, typer.Option(help="redis://host:port/0 of the list of cameras; REDIS_URL if not given.")]
Delivered = Literal["exactly-once", "at-least-once"]
ScaleFile = Annotated[Path | None, typer.Option(help="The file of replicas and resources.")]


def serve(
    graph: GraphFile,
    variables: Values = None,
    servers: Servers = "",
    prefix: Prefix = "",
    redis: RedisUrl = "",
    scale: ScaleFile = None,
    address: Annotated[str, typer.Option(help="Of a Ray cluster; one is started here if empty.")] = "",
    delivery: Annotated[Delivered, typer.Option(help="at-least-once needs no transactions.")] = "exactly-once",
    partitions: Annotated[int, typer.Option(min=1, help="Of the topics, where they are made.")] = 4,
    device: Device = "auto",
    engine: Engine = "auto",
) -> None:
    """Analyse the video topic and cameras: every frame once, also when workers, replicas or brokers are killed."""
    found, declared = settings(servers, prefix), loaded(graph, variables, device, engine)
    try:
        from pipeline.edges.redis_link import redis_url  # noqa: PLC0415  (extras)
        from pipeline.runners.on_ray import cluster  # noqa: PLC0415
        from pipeline.scale import Scale, load_scale  # noqa: PLC0415
        from pipeline.serving.api_settings import ApiSettings  # noqa: PLC0415
        from pipeline.serving.application import running  # noqa: PLC0415
        from pipeline.serving.work import Plan  # noqa: PLC0415
    except ImportError as error:
        message = f"{error.name} is not installed here: install omote[ray,kafka]"
        raise GraphError(message) from error
    plan = Plan(declared, found, redis_url(redis), delivery)
    wanted, api = load_scale(scale) if scale else Scale(), ApiSettings.from_environment()
    found.admin().close()  # who is not there is named at once: Ray takes seconds to start
    plan.registry().values()
    console = Console(stderr=True)
    with (
        hushed(),
        cluster(address),
        _terminable(),  # Ray has a handler of its own
        running(plan, wanted, api, partitions=partitions) as system,
    ):
        console.print(plain(f"video from {found.topic('video')} at {found.servers}, API at {system.url}"))
        watch(console, system)


def watch(console: Console, system: System) -> None:
    """Say when a stream changes, until Ctrl-C or SIGTERM."""
    said: dict[str, str] = {}
    while True:
        try:
            views = system.streams()
        except PipelineError:  # the supervisor begins again
            views = []
        for view in views:
            words = f"{view.state}{': ' + view.reason if view.reason else ''}"
            if said.get(view.id, "").partition(":")[0] != view.state:
                console.print(plain(f"{view.id:<20}", COLOURS[view.state]) + plain(f" {words}"))
            said[view.id] = words
        time.sleep(LOOK_S)


@contextmanager
def hushed() -> Iterator[None]:
    """Ray writes to the standard output whenever a process ends; what matters of it the supervisor knows."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM acts like Ctrl-C, and both end the block in order."""

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
