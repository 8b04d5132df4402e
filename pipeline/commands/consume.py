"""``omote consume``: what comes out, as a table, as JSON lines, or drawn on the video."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from pipeline.commands.broker import Prefix, Servers, settings
from pipeline.commands.drawing import drawn, words
from pipeline.commands.terminal import plain
from pipeline.errors import SinkError, SourceError
from pipeline.packets import DrawnFrame
from pipeline.reading import read_record
from pipeline.records import ExplanationRecord, FrameRecord, MatchRecord, Record, StreamStatusRecord, TrackRecord

if TYPE_CHECKING:
    from pipeline.edges.video_messages import BrokerChunk, Message

WIDTHS = {"topic": 14, "stream": 16, "frame": 8, "time": 9}
NEVER_S = 10 * 365 * 86_400.0
MOST_RECORDS = 20_000


def consume(
    topics: Annotated[str, typer.Option(help="Short names, with commas.")] = "annotations,tracks,matches",
    servers: Servers = "",
    prefix: Prefix = "",
    shape: Annotated[Literal["table", "jsonl", "mp4"], typer.Option("--as", help="How to show it.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Where to write; needed for mp4.")] = None,
    start: Annotated[Literal["beginning", "end"], typer.Option("--from", help="Of the topics.")] = "end",
    limit: Annotated[int, typer.Option(min=0, help="Stop after so many records; 0 is never.")] = 0,
    timeout: Annotated[float, typer.Option(min=0, help="Stop after so many seconds without one; 0 is never.")] = 0,
    stream: Annotated[str, typer.Option(help="This stream only.")] = "",
) -> None:
    """Read committed records from Kafka until there are enough, or until Ctrl-C."""
    found = settings(servers, prefix)
    from pipeline.edges.kafka_topics import follow  # noqa: PLC0415  (an extra)

    if shape == "mp4" and out is None:
        message = "a video needs a place: give --out, such as --out annotated.mp4"
        raise SinkError(message)
    names = ["video", "annotations"] if shape == "mp4" else [name.strip() for name in topics.split(",")]
    messages = follow(found, [found.topic(name) for name in names], start, timeout or NEVER_S)
    wanted = (message for message in messages if not stream or message.stream == stream)
    show: Callable[[Iterable[Message], Path | None, int], None] = {
        "table": _table,
        "jsonl": _lines,
        "mp4": _video,
    }[shape]
    with closing(messages):
        show(wanted, out, limit)


def _lines(messages: Iterable[Message], out: Path | None, limit: int) -> None:
    file = out.open("w", encoding="utf-8") if out else sys.stdout
    try:
        for message in islice(messages, limit or None):
            file.write((message.value or b"null").decode(errors="replace") + "\n")
            file.flush()
    finally:
        if out:
            file.close()


def _table(messages: Iterable[Message], out: Path | None, limit: int) -> None:
    file = out.open("w", encoding="utf-8") if out else None
    console = Console(file=file, highlight=False, width=160 if file else None)
    try:
        for number, message in enumerate(islice(messages, limit or None)):
            if not number:
                console.print(_row(*WIDTHS, "what", style="bold"))
            console.print(_row(*_cells(message)))
    finally:
        if file:
            file.close()


def _row(*cells: str, style: str = "") -> Table:
    row = Table(box=None, show_header=False, padding=(0, 1), style=style)
    for width in (*WIDTHS.values(), None):
        row.add_column(width=width, no_wrap=width is not None)
    row.add_row(*map(plain, cells))
    return row


def _cells(message: Message) -> tuple[str, str, str, str, str]:
    said = message.said
    pts = f"{int(said['pts-ns']) / 1e9:.2f} s" if said.get("pts-ns", "").isdecimal() else ""
    short = message.topic.rsplit(".", 2)[-2] if message.topic.count(".") > 1 else message.topic
    frame = said.get("frame-seq", said.get("seq", ""))
    return short, message.stream, frame, pts, _what(message.value or b"", said.get("content-type", ""))


def _what(value: bytes, content_type: str) -> str:
    if content_type != "application/json":
        return f"{len(value)} bytes {content_type}"
    try:
        record = read_record(value)
    except SourceError as error:
        return str(error)
    return TELL[type(record)](record)


def _faces(record: FrameRecord) -> str:
    return "; ".join(f"{face.track_id.rpartition(':')[2]}: {words(face)}" for face in record.faces) or "nobody"


def _track(record: TrackRecord) -> str:
    after = record.after
    who = f"{after.decision} {after.subject_id or ''}".strip()
    return f"{record.event} {record.track_id}: {', '.join(filter(None, (who, after.mask, after.emotion)))}"


def _match(record: MatchRecord) -> str:
    return f"{record.track_id} is {record.identity.subject_id} ({record.identity.score:.2f})"


def _explanation(record: ExplanationRecord) -> str:
    return f"{record.track_id}: why {record.target} ({record.method})"


def _status(record: StreamStatusRecord) -> str:
    return " · ".join(filter(None, (record.state, record.reason)))


TELL: dict[type[Record], Callable[..., str]] = {
    FrameRecord: _faces,
    TrackRecord: _track,
    MatchRecord: _match,
    ExplanationRecord: _explanation,
    StreamStatusRecord: _status,
}


def _video(messages: Iterable[Message], out: Path | None, limit: int) -> None:
    """Frames that have a record, drawn; a frame is shown once the records have gone past its message."""
    from pipeline.edges.video_out import AnnotatedVideo  # noqa: PLC0415  (av is slow to load)

    frames = islice(_drawn(messages), limit or None)
    first = next(frames, None)
    if first is None:
        message = "no video came of which there is a record; read --from beginning, or while something is published"
        raise SourceError(message)
    with closing(AnnotatedVideo(str(out))) as video:
        for frame in chain([first], frames):
            video.write([frame])


def _drawn(messages: Iterable[Message]) -> Iterator[DrawnFrame]:
    from pipeline.edges.video_cutting import decoded  # noqa: PLC0415

    records: dict[tuple[int, int], FrameRecord] = {}
    for picture in decoded(_covered(messages, records)):
        if record := records.pop((picture.epoch, picture.pts_ns), None):
            image = drawn(np.asarray(picture.frame.to_ndarray(format="rgb24"), np.uint8), record)
            yield DrawnFrame(record.stream.id, picture.epoch, record.frame.seq, picture.pts_ns, image)


def _covered(messages: Iterable[Message], records: dict[tuple[int, int], FrameRecord]) -> Iterator[BrokerChunk]:
    """The video of the first stream that comes, as soon as its records are there; they are put into ``records``."""
    from pipeline.edges.assembly import Assembly  # noqa: PLC0415
    from pipeline.edges.video_messages import Poison  # noqa: PLC0415

    assembly, stream = Assembly(), ""
    waiting: deque[BrokerChunk] = deque()
    for message in messages:
        stream = stream or message.stream
        if message.stream != stream:
            continue
        if message.said.get("content-type") != "application/json":
            for chunk in assembly.take(message):
                if isinstance(chunk, Poison):
                    typer.echo(f"left out: {chunk.reason}", err=True)
                else:
                    waiting.append(chunk)
            continue
        record = _frame(message)
        if record is None:
            continue
        reached = record.stream.epoch, record.frame.pts_ns
        records[reached] = record
        if len(records) > MOST_RECORDS:  # their video is gone
            records.pop(next(iter(records)))
        while len(waiting) > 1 and (waiting[1].epoch, waiting[1].pts_ns) <= reached:
            yield waiting.popleft()
    yield from (*waiting, *assembly.settle())


def _frame(message: Message) -> FrameRecord | None:
    """The record in ``message``; where it cannot be read, its picture is not shown, for nobody vouches for it."""
    try:
        record = read_record(message.value or b"")
    except SourceError as error:
        typer.echo(f"left out: {error}", err=True)
        return None
    return record if isinstance(record, FrameRecord) else None
