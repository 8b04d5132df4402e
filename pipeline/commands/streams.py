"""``omote streams``: cameras that come and go, and how each stream does, asked of the API over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.commands.terminal import AsJson, console, plain
from pipeline.edges.backlog import Keep
from pipeline.edges.status import State
from pipeline.errors import PipelineError, first_mistake
from pipeline.redact import redact
from pipeline.serving.api_settings import token
from pipeline.serving.streams import (
    InvalidStreamError,
    StreamPage,
    StreamSpec,
    StreamView,
    checked,
)

if TYPE_CHECKING:
    import httpx

CONNECT_S, READ_S, WRITE_S = 3.0, 4.5, 30.0  # to be let in, to learn something, to have something done
COLOURS: dict[State, str] = {"online": "green", "reconnecting": "yellow", "offline": "red", "rejected": "magenta"}

app = typer.Typer(help="Cameras that come and go, and how each stream does.", no_args_is_help=True)

Address = Annotated[
    str, typer.Option("--api", envvar="OMOTE_API", help="Address of the API that `omote serve` prints.")
]
Name = Annotated[str, typer.Argument(metavar="ID", help="As `omote streams list` shows it.")]
LOCAL = "http://127.0.0.1:8000"

Model = TypeVar("Model", bound=BaseModel)


class Api:
    """The API at an address; closed where its connection is."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def streams(self) -> list[StreamView]:
        """Every stream, by id."""
        page = self._given(StreamPage, "GET", "/v1/streams", params={"limit": 1000})
        found = list(page.streams)
        while page.next is not None:
            page = self._given(StreamPage, "GET", "/v1/streams", params={"limit": 1000, "after": page.next})
            found += page.streams
        return found

    def stream(self, stream: str) -> StreamView:
        """One of them."""
        return self._given(StreamView, "GET", _path(stream))

    def add(self, spec: StreamSpec) -> StreamView:
        """Begin to watch a camera."""
        return self._given(StreamView, "POST", "/v1/streams", json=spec.model_dump())

    def remove(self, stream: str) -> None:
        """Stop watching a camera."""
        self._answer("DELETE", _path(stream))

    def _given(self, kind: type[Model], method: str, path: str, **more: Any) -> Model:
        try:
            return kind.model_validate_json(self._answer(method, path, **more).content)
        except ValidationError:
            raise PipelineError(self._stranger()) from None

    def _answer(self, method: str, path: str, **more: Any) -> httpx.Response:
        import httpx  # noqa: PLC0415  (slow to load)

        limits = httpx.Timeout(READ_S if method == "GET" else WRITE_S, connect=CONNECT_S)
        try:
            answer = self._client.request(method, path, timeout=limits, **more)
        except httpx.ReadTimeout:
            message = f"the API at {self._client.base_url} accepts connections but does not answer; try again"
            raise PipelineError(message) from None
        except httpx.HTTPError as error:
            message = f"no API answers at {self._client.base_url} ({error}); start `omote serve`, or give --api"
            raise PipelineError(redact(message)) from error
        if not answer.is_success:
            raise PipelineError(self._said(answer))
        return answer

    def _said(self, answer: httpx.Response) -> str:
        """The sentence of a problem."""
        if not answer.headers.get("content-type", "").startswith("application/problem+json"):
            return self._stranger()
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            return "the API wants another token; set OMOTE_API_TOKEN or OMOTE_API_TOKEN_FILE"
        return str(answer.json().get("detail") or f"the API answers {answer.status_code}")

    def _stranger(self) -> str:
        return f"what answers at {self._client.base_url} is no API of this omote; check --api"


@app.command("list")
def list_streams(
    api: Address = LOCAL,
    state: Annotated[State | None, typer.Option(help="Only streams in this state.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show every stream, and how it does."""
    with connected(api) as found:
        views = [view for view in found.streams() if state in {None, view.state}]
    _show(views, as_json=as_json)


@app.command()
def status(name: Name, api: Address = LOCAL, as_json: AsJson = False) -> None:
    """Show one stream."""
    with connected(api) as found:
        view = found.stream(name)
    if as_json:
        typer.echo(view.model_dump_json())
        return
    table = Table(box=None, show_header=False)
    for heading, cell in zip(HEADINGS, _cells(view), strict=True):
        table.add_row(Text(heading, "bold"), cell)
    table.add_row(Text("worker", "bold"), Text(view.worker))
    console().print(table)


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="ID", help="Key of its records: letters, digits, and . _ - inside.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="rtsp://...; a password only as '${OMOTE_CAMERA_...}'.")],
    keep: Annotated[Keep, typer.Option(help="What gives way where analysis is slower than the camera.")] = "latest",
    api: Address = LOCAL,
) -> None:
    """Begin to watch a camera."""
    try:
        spec = checked(StreamSpec(id=name, url=url, keep=keep))  # here, too, so that no password is sent
    except ValidationError as error:
        message = f"there can be no such stream: {first_mistake(error)}"
        raise InvalidStreamError(message) from None
    with connected(api) as found:
        _show([found.add(spec)])


@app.command()
def remove(name: Name, api: Address = LOCAL) -> None:
    """Stop watching a camera, once what is on its way is delivered."""
    with connected(api) as found:
        found.remove(name)
    console().print(Text(f"{name} removed"))


@app.command()
def watch(
    api: Address = LOCAL,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds from one look to the next.")] = 1.0,
) -> None:
    """Show every stream, again and again, until Ctrl-C."""
    with connected(api) as found:
        shown: RenderableType = _table(found.streams())
        with Live(shown, console=console(), auto_refresh=False) as live:
            try:
                while True:
                    time.sleep(every)
                    shown, trouble = _look(found, shown)
                    live.update(Group(shown, trouble), refresh=True)
            except KeyboardInterrupt:
                return


@contextmanager
def connected(address: str) -> Iterator[Api]:
    """The API at ``address``; nothing is sent yet.

    Raises:
        PipelineError: This is no address, or the token cannot be read.
    """
    import httpx  # noqa: PLC0415  (slow to load)

    shown = token()
    headers = {"Authorization": f"Bearer {shown.get_secret_value()}"} if shown else {}
    straight = {f"all://{host}": None for host in ("127.0.0.1", "localhost")}  # not through a proxy
    try:
        client = httpx.Client(base_url=address, headers=headers, mounts=straight)
    except httpx.InvalidURL as error:
        message = f"{redact(address)!r} is no address of an API; give one such as {LOCAL}"
        raise PipelineError(message) from error
    with client:
        yield Api(client)


def _look(api: Api, before: RenderableType) -> tuple[RenderableType, Text]:
    """The table as it is now; where the API is away, the one before and the reason."""
    try:
        return _table(api.streams()), Text()
    except PipelineError as error:
        return before, Text(str(error), "red")


def _show(views: Sequence[StreamView], *, as_json: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps([view.model_dump(mode="json") for view in views]))
    else:
        console().print(_table(views) if views else "no streams")


HEADINGS = ("id", "source", "state", "since", "epoch", "stream time", "frames", "dropped", "reason")


def _table(views: Sequence[StreamView]) -> Table:
    table = Table(*HEADINGS, box=None)
    for view in views:
        table.add_row(*_cells(view))
    return table


def _cells(view: StreamView) -> tuple[Text, ...]:
    """What `HEADINGS` promise."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(view.dropped.items()))
    return (
        plain(view.id),
        Text(view.source),
        Text(view.state, COLOURS[view.state]),
        Text(f"{view.since.astimezone():%Y-%m-%d %H:%M:%S}"),
        Text(str(view.epoch)),
        Text(str(timedelta(seconds=view.last_pts_ns // 10**9))),
        Text(str(view.frames)),
        Text(dropped or "-"),
        plain(view.reason),
    )


def _path(stream: str) -> str:
    return f"/v1/streams/{quote(stream, safe='')}"
