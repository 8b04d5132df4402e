"""``omote gallery export`` and ``import``: a gallery as the file that graphs without Redis read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.gallery_access import Namespace, Purpose, RedisUrl, opened
from pipeline.commands.terminal import console, plain
from pipeline.errors import SinkError
from pipeline.gallery.memory import MemoryGallery


def export(
    file: Annotated[Path, typer.Argument(help="The file to write, such as gallery.npz.")],
    namespace: Namespace = "main",
    photos: Annotated[bool, typer.Option(help="With the crops that were kept.")] = False,
    purpose: Purpose = "",
    redis: RedisUrl = "",
) -> None:
    """Write everybody into a file. What is in it is not sealed: its owner alone may read it."""
    if file.exists():
        message = f"there is a file {file} already; choose another name"
        raise SinkError(message)
    with opened(namespace, purpose, redis) as at:
        gallery = at.service.export(at.caller, photos=photos)
    gallery.save(file)
    console(errors=True).print(plain(f"{gallery.version} templates of {len(gallery.subjects)} subjects in {file}"))


def take_in(
    file: Annotated[Path, typer.Argument(help="A file of `omote enrol` or `omote gallery export`.")],
    namespace: Namespace = "main",
    purpose: Purpose = "",
    redis: RedisUrl = "",
) -> None:
    """Enrol everybody who is in a file."""
    gallery = MemoryGallery(str(file))
    with opened(namespace, purpose, redis) as at:
        count = at.service.take_in(at.caller, gallery)
    console(errors=True).print(f"{count} templates of {len(gallery.subjects)} subjects taken in")
