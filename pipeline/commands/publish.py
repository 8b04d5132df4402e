"""``omote publish``: a file, a folder of images or a camera as messages of the video topic."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer
from rich.console import Console

from pipeline.commands.broker import Prefix, Servers, settings
from pipeline.errors import SourceError

if TYPE_CHECKING:
    from pipeline.edges.kafka_settings import KafkaSettings
    from pipeline.edges.video_messages import VideoMessage

CAMERAS = ("rtsp://", "rtsps://", "/dev/")
CONTENT_TYPES = "video/mp2t, video/mp4, video/h264;unit=au or image/jpeg"


def publish(
    source: Annotated[str, typer.Argument(help="A video, a folder of images, a camera or an RTSP URL.")],
    servers: Servers = "",
    prefix: Prefix = "",
    stream: Annotated[str, typer.Option(help="Id of the stream; the name of the source if not given.")] = "",
    content_type: Annotated[str, typer.Option(help=CONTENT_TYPES)] = "video/mp2t",
    chunk_seconds: Annotated[float, typer.Option(min=0.1, max=10, help="Length of a chunk.")] = 1.0,
    pace: Annotated[Literal["realtime", "fast"], typer.Option(help="As it was taken, or at once.")] = "realtime",
    loop: Annotated[int, typer.Option(min=0, help="How often to play a recording; 0 is for ever.")] = 1,
    reencode: Annotated[bool, typer.Option(help="Encode anew, also where that is not needed.")] = False,
    partitions: Annotated[int, typer.Option(min=1, help="Of the topics, where they are made.")] = 4,
) -> None:
    """Publish video to Kafka in messages that stand alone, until it ends or until Ctrl-C."""
    found = settings(servers, prefix)
    name = stream or _name(source)
    began = int(time.time())  # a stream that is published again is another connection
    messages = _messages(source, content_type, chunk_seconds, loop, reencode=reencode, realtime=pace == "realtime")
    _send(found, (replace(m, stream=name, epoch=began + m.epoch) for m in messages), partitions)


def _messages(
    source: str, content_type: str, seconds: float, loop: int, *, reencode: bool, realtime: bool
) -> Iterator[VideoMessage]:
    from pipeline.edges.files import Input  # noqa: PLC0415  (av is slow to load)
    from pipeline.edges.playing import live, played, recorded  # noqa: PLC0415
    from pipeline.edges.video_cutting import cut, fits, recut  # noqa: PLC0415
    from pipeline.edges.video_messages import CONTENT_TYPES as KNOWN  # noqa: PLC0415

    if content_type not in KNOWN:
        message = f"there is no content type {content_type!r}; it is {CONTENT_TYPES}"
        raise SourceError(message)
    camera = source.startswith(CAMERAS)
    if not camera and not reencode:
        with closing(Input(source)) as looked_at:
            reencode = not fits(looked_at, content_type, seconds)
    cutter = partial(recut if reencode else cut, content_type=content_type, seconds=seconds)
    messages = played(partial(Input, source), cutter, 1 if camera else loop)
    return live(messages) if camera else recorded(messages, realtime=realtime)


def _send(found: KafkaSettings, messages: Iterable[VideoMessage], partitions: int) -> None:
    from pipeline.edges.video_topic import VideoTopic  # noqa: PLC0415  (an extra)

    console, sent, size, first = Console(stderr=True), 0, 0, None
    with closing(VideoTopic(found, partitions)) as topic:
        try:
            with console.status("publishing") as status:
                for message in messages:
                    topic.send(message)
                    first = first or message
                    sent, size = sent + 1, size + len(message.data)
                    status.update(f"{sent} messages, {size / 1e6:.1f} MB, {message.pts_ns / 1e9:.1f} s of video")
        finally:
            topic.flush()
            if first is not None:
                said = f"{sent} messages, {size / 1e6:.1f} MB, of stream {first.stream} to {found.topic('video')}"
                console.print(said, highlight=False)


def _name(source: str) -> str:
    """The name of a file without its ending, or the path of a URL: never what may hold a password."""
    parts = urlsplit(source)
    return parts.path.strip("/").replace("/", "-") or str(parts.hostname) if parts.netloc else Path(source).stem
