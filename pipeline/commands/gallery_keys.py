"""``omote gallery keys`` and ``omote gallery access``: what seals and signs, and who may ask over the network."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from pipeline.commands.gallery_access import Namespace, Purpose, RedisUrl, Yes, opened
from pipeline.commands.terminal import console, plain
from pipeline.errors import SourceError, first_mistake
from pipeline.gallery.errors import InvalidError
from pipeline.gallery.subjects import Role

if TYPE_CHECKING:
    from pipeline.edges.redis_api_keys import ApiKeys
    from pipeline.gallery.keys import Keys

app = typer.Typer(
    help="The keys that seal vectors and photos, and sign receipts and the audit log.", no_args_is_help=True
)
access = typer.Typer(help="API keys: who may ask over the network, and what.", no_args_is_help=True)

KeysFile = Annotated[Path, typer.Argument(help="The file of keys.", show_default=False)]
MOST_DAYS = 100 * 365


@app.command()
def new(file: KeysFile) -> None:
    """Make keys; the file can be read by its owner alone. Whoever loses it loses the gallery."""
    from pipeline.gallery.keys import FILE_VARIABLE, Keys  # noqa: PLC0415  (an extra)

    keys = Keys.new()
    keys.write(file)
    say = f"keys written to {file}; set {FILE_VARIABLE}={file.absolute()}. Public key: {keys.public_key}"
    console().print(plain(say), soft_wrap=True)


@app.command()
def show(file: KeysFile) -> None:
    """Show what may be shown: the public key that verifies receipts, and the ids of the data keys."""
    from pipeline.gallery.keys import Keys  # noqa: PLC0415  (an extra)

    keys = Keys.read(file)
    console().print(Text(f"public key {keys.public_key}\ndata keys {', '.join(keys.key_ids)}, current {keys.current}"))


@app.command()
def rotate(file: KeysFile) -> None:
    """Add a new key to the file, which seals from now on; what runs with the file follows by itself.

    The file is replaced in one step, and the old keys stay in it. `omote gallery keys reseal` comes next.
    """
    from pipeline.gallery.keys import LOOK_S, Keys  # noqa: PLC0415  (an extra)

    keys = _changed(file, Keys.rotated)
    time.sleep(LOOK_S)  # now nobody seals with the old key any more
    say = f"whoever runs with {file} seals with its new key {keys.current} now"
    console().print(plain(f"{say}; run `omote gallery keys reseal` for each gallery, until it finds nothing more"))


@app.command()
def reseal(namespace: Namespace = "main", purpose: Purpose = "", redis: RedisUrl = "") -> None:
    """Seal what lies under an old key of a gallery under the current one."""
    with opened(namespace, purpose, redis) as at:
        count = at.service.reseal(at.caller)
    console().print(f"{namespace}: {count} pieces sealed anew")


@app.command()
def drop(
    file: KeysFile, key: Annotated[str, typer.Argument(metavar="KEY", help="Id of an old key.")], yes: Yes = False
) -> None:
    """Take an old key out of the file, once `reseal` finds nothing more; what lies under it never opens again."""
    if not yes:
        typer.confirm(f"what still lies under {key} can never be opened again; drop it?", abort=True)
    _changed(file, lambda keys: keys.without(key))
    console().print(plain(f"{file} has no key {key} any more"))


@access.command("new")
def new_access(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    role: Annotated[Role, typer.Option(help="What they may do.")] = "reader",
    namespace: Namespace = "main",
    purpose: Annotated[str, typer.Option(help="Why they ask, where a request does not say.")] = "",
    per_minute: Annotated[int, typer.Option(min=1, max=1_000_000, help="Requests a minute.")] = 600,
    days: Annotated[int, typer.Option(min=0, max=MOST_DAYS, help="Days until it expires; never if 0.")] = 0,
    redis: RedisUrl = "",
) -> None:
    """Make an API key. It is shown now and never again."""
    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    told: dict[str, Any] = {"namespace": namespace, "purpose": purpose, "per_minute": per_minute, "expires": expires}
    with _api_keys(redis) as keys:
        try:
            shown, made = keys.new(name, role, **told)
        except ValidationError as error:
            message = f"there can be no such API key: {first_mistake(error)}"
            raise InvalidError(message) from None
    console(errors=True).print(plain(f"key {made.id} of {name}, {role} of {namespace}:"))
    typer.echo(shown)


@access.command("list")
def list_access(namespace: Annotated[str, typer.Option("--namespace", "-n")] = "", redis: RedisUrl = "") -> None:
    """Show the API keys, without their secrets."""
    with _api_keys(redis) as keys:
        found = keys.list(namespace)
    table = Table("key", "name", "role", "gallery", "purpose", "a minute", "expires", box=None)
    for key in found:
        expires = f"{key.expires:%Y-%m-%d}" if key.expires else "-"
        cells = (key.id, key.name, key.role, key.namespace, key.purpose or "-", str(key.per_minute), expires)
        table.add_row(*(plain(cell) for cell in cells))
    console().print(table if found else "there are no API keys")


@access.command()
def revoke(key: Annotated[str, typer.Argument(help="Id of the key.")], redis: RedisUrl = "") -> None:
    """Refuse a key from now on; servers know it within seconds."""
    with _api_keys(redis) as keys:
        gone = keys.revoke(key)
    console().print(plain(f"key {gone.id} of {gone.name} is revoked"))


def _changed(file: Path, change: Callable[[Keys], Keys]) -> Keys:
    """What ``change`` makes of the keys in a file, which is put in their place: no other change is lost meanwhile."""
    from pipeline.gallery.keys import Keys  # noqa: PLC0415  (an extra)

    with _alone(file):
        keys = change(Keys.read(file))
        keys.replace(file)
    return keys


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """While nobody else changes a file of keys: its folder is locked, for the file itself is another one afterwards."""
    try:
        folder = os.open(file.resolve().parent, os.O_RDONLY)
    except OSError as error:
        message = f"cannot read the keys file {file}: {error.strerror}; make one with `omote gallery keys new FILE`"
        raise SourceError(message) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _api_keys(redis: str) -> AbstractContextManager[ApiKeys]:
    from pipeline.edges.redis_api_keys import ApiKeys  # noqa: PLC0415  (an extra)
    from pipeline.edges.redis_link import redis_url  # noqa: PLC0415

    return closing(ApiKeys(redis_url(redis)))
