"""``omote gallery audit``: who asked what and why, whether the log is whole, and what is unusual in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipeline.commands.broker import Prefix, Servers, settings
from pipeline.commands.gallery_access import Namespace, Purpose, RedisUrl, Yes, opened
from pipeline.commands.options import DEPLOY
from pipeline.commands.terminal import AsJson, console, plain

if TYPE_CHECKING:
    from pipeline.audit import Anchor, Entry, Fault

app = typer.Typer(help="Who asked what, when and why.", no_args_is_help=True)

RULES = DEPLOY / "inspection.yaml"


@app.command("list")
def list_entries(
    namespace: Namespace = "main",
    action: Annotated[str, typer.Option(help="Only this action.")] = "",
    actor: Annotated[str, typer.Option(help="Only this actor.")] = "",
    subject: Annotated[str, typer.Option(help="Only about this subject.")] = "",
    after: Annotated[int, typer.Option(min=0, help="Only entries after this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Most entries.")] = 100,
    purpose: Purpose = "",
    redis: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """Show entries, oldest first."""
    with opened(namespace, purpose, redis) as at:
        found = at.service.audit(at.caller, after=after, limit=limit, action=action, actor=actor, subject=subject)
    if as_json:
        for entry in found:
            typer.echo(entry.line.decode())
        return
    table = Table("seq", "at", "actor", "role", "action", "outcome", "purpose", "about", "count", box=None)
    for entry in found:
        table.add_row(*_cells(entry))
    console().print(table if found else "no such entry")


@app.command()
def verify(
    namespace: Namespace = "main",
    file: Annotated[
        Path | None, typer.Option(help="Verify this exported file instead, with the head beside it; needs no Redis.")
    ] = None,
    public_key: Annotated[str, typer.Option(help="With --file: the key; `omote gallery keys show` prints it.")] = "",
    against: Annotated[Path | None, typer.Option(help="An exported file: what was in it must still be there.")] = None,
    purpose: Purpose = "",
    redis: RedisUrl = "",
) -> None:
    """Find any change, gap or reordering. Exit status 1 if there is one."""
    from pipeline.edges.audit_export import exported, verify_file  # noqa: PLC0415  (an extra)

    if (file is not None) != bool(public_key):
        message = "--file and --public-key go together"
        raise typer.BadParameter(message)
    anchors: Iterable[Anchor] = exported(against) if against else ()
    if file is not None:
        _tell(verify_file(file, public_key, anchors), f"{file} is whole, and signed by this key")
        return
    with opened(namespace, purpose, redis) as at:
        faults = at.service.verify_audit(at.caller, anchors)
        _tell(faults, f"{0 if faults else at.service.desk.log.head().seq} entries, none changed, none missing")


@app.command()
def export(
    to: Annotated[Path | None, typer.Option(help="A file of JSON lines; goes on behind what is in it.")] = None,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="The topic omote.audit.v1; goes on behind what is there.")
    ] = False,
    namespace: Namespace = "main",
    servers: Servers = "",
    prefix: Prefix = "",
    purpose: Purpose = "",
    redis: RedisUrl = "",
) -> None:
    """Copy the log to a file, or to Kafka, where whoever has Redis cannot change it."""
    if (to is not None) == kafka:
        message = "say where to: --to FILE, or --kafka"
        raise typer.BadParameter(message)
    with opened(namespace, purpose, redis) as at:
        log = at.service.exporting(at.caller)
        if to is None:
            from pipeline.edges.audit_topic import to_kafka  # noqa: PLC0415  (an extra)

            count = to_kafka(log, settings(servers, prefix))
        else:
            from pipeline.edges.audit_export import to_file  # noqa: PLC0415  (an extra)

            count = to_file(log, to)
    console(errors=True).print(f"{count} entries exported")


@app.command()
def renew(namespace: Namespace = "main", redis: RedisUrl = "", yes: Yes = False) -> None:
    """Set a damaged log aside and begin another: until then nothing can be changed, for nothing could be logged.

    Copy it before (`export --to`), as far as it can be read, and find out who damaged it.
    """
    if not yes:
        typer.confirm(f"begin another audit log for {namespace}?", abort=True)
    with opened(namespace, "", redis) as at:
        aside = at.service.begin_audit_anew(at.caller)
    console().print(f"{namespace} has a new audit log; the old one lies in Redis as {aside}")


@app.command()
def inspect(
    rules: Annotated[Path, typer.Option(help="What is unusual.")] = RULES,
    namespace: Namespace = "main",
    purpose: Purpose = "",
    redis: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """Look for unusual use. Exit status 1 if there is any."""
    from pipeline.inspection import Rules  # noqa: PLC0415
    from pipeline.inspection import inspect as inspected  # noqa: PLC0415

    wanted = Rules.read(rules)
    with opened(namespace, purpose, redis) as at:
        policy = at.service.policy(at.caller)
        found = inspected(at.service.exporting(at.caller).entries(), wanted, policy.purposes)
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found]))
    else:
        for each in found:
            console().print(plain(each.text, "yellow"))
    if found:
        raise typer.Exit(1)
    console(errors=True).print("nothing unusual")


def _tell(faults: list[Fault], well: str) -> None:
    for fault in faults:
        console().print(plain(fault.text, "red"))
    if faults:
        raise typer.Exit(1)
    console().print(well)


def _cells(entry: Entry) -> tuple[Text, ...]:
    about = " ".join(who[:8] for who in (entry.subject, *entry.shown) if who)
    said = (
        str(entry.seq), f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.actor, entry.role, entry.action, entry.outcome,
        entry.purpose or "-", about or "-", str(entry.count),
    )  # fmt: skip
    return tuple(plain(cell) for cell in said)
