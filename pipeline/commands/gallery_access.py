"""What the verbs of ``omote gallery`` share: where the gallery is, which graph sees faces, who asks and why."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import DEPLOY
from pipeline.errors import SinkError
from pipeline.gallery.protocol import MODEL
from pipeline.gallery.subjects import Caller
from pipeline.graph import load
from pipeline.packets import Pixels
from pipeline.retention import naming_subjects

if TYPE_CHECKING:
    from pipeline.edges.galleries import Galleries
    from pipeline.edges.redis_store import GalleryStore
    from pipeline.gallery.service import GalleryService

GRAPH = DEPLOY / "graphs" / "faces.yaml"

Namespace = Annotated[str, typer.Option("--namespace", "-n", envvar="OMOTE_GALLERY", help="Which gallery.")]
RedisUrl = Annotated[str, typer.Option(help="redis://host:port/0; REDIS_URL if not given.")]
FacesOf = Annotated[Path, typer.Option("--graph", envvar="OMOTE_GRAPH", help="The graph whose stages see faces.")]
Purpose = Annotated[str, typer.Option(envvar="OMOTE_PURPOSE", help="Why you ask; the audit log keeps it.")]
SubjectId = Annotated[str, typer.Argument(metavar="SUBJECT", help="As `omote gallery list` shows it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True)
class Opened:
    """A gallery and who asks it."""

    service: GalleryService
    caller: Caller

    @property
    def store(self) -> GalleryStore:
        """Where it is kept."""
        return self.service.desk.store

    def picture(self, action: str, data: bytes, subject: str = "") -> Pixels:
        """The picture in a file, which is shown with a question; see `Desk.picture`."""
        return self.service.desk.picture(self.caller, action, data, subject)


@contextmanager
def opened(namespace: str, purpose: str = "", redis: str = "", graph: Path = GRAPH) -> Iterator[Opened]:
    """The gallery of a namespace, with all rights: whoever has its keys and its Redis could do anything anyway.

    Raises:
        GalleryError: Redis does not answer, or there are no keys.
    """
    galleries = galleries_at(redis, graph, later=True)
    try:
        yield Opened(galleries.of(namespace), Caller(f"{_user()} at the command line", "admin", purpose))
    finally:
        galleries.close()


def galleries_at(redis: str = "", graph: Path = GRAPH, *, later: bool = False) -> Galleries:
    """All galleries of a Redis; ``later`` reads templates only when something is to be matched.

    Raises:
        GalleryError: There are no keys.
    """
    from pipeline.edges.galleries import Galleries  # noqa: PLC0415  (an extra)
    from pipeline.edges.redis_link import redis_url  # noqa: PLC0415
    from pipeline.gallery.faces import Faces  # noqa: PLC0415
    from pipeline.gallery.keys import Keys  # noqa: PLC0415

    topics = naming_subjects(os.environ.get("OMOTE_KAFKA_PREFIX", "omote."))
    return Galleries(redis_url(redis), Keys.from_environment(), Faces(lambda: load(graph), MODEL), topics, later=later)


def _user() -> str:
    """Who runs the command; a container may run under a number that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return f"uid {os.getuid()}"


def refuse_place(file: Path | None) -> None:
    """Say before anything is done that it could not be told there in the end.

    Raises:
        SinkError: There is no folder for ``file``, or it is one.
    """
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        message = f"cannot write {file}: {'it is a folder' if file.is_dir() else f'there is no folder {file.parent}'}"
        raise SinkError(message)


def write(file: Path, data: bytes) -> None:
    """Write a file.

    Raises:
        SinkError: It cannot be written.
    """
    try:
        file.write_bytes(data)
    except OSError as error:
        message = f"cannot write {file}: {error.strerror}; choose another place"
        raise SinkError(message) from error
