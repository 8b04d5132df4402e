"""``omote gallery``: who is known, and what is done about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track
from rich.table import Table
from rich.text import Text

from pipeline.commands import gallery_audit, gallery_keys
from pipeline.commands.gallery_access import (
    GRAPH,
    FacesOf,
    Namespace,
    Opened,
    Purpose,
    RedisUrl,
    SubjectId,
    Yes,
    opened,
    refuse_place,
    write,
)
from pipeline.commands.gallery_files import export, take_in
from pipeline.commands.gallery_serve import serve
from pipeline.commands.terminal import AsJson, console, harmless, plain
from pipeline.errors import SourceError
from pipeline.gallery.answers import Found
from pipeline.gallery.errors import AwayError, GalleryError

if TYPE_CHECKING:
    from pipeline.gallery.calibration import Calibration

app = typer.Typer(help="Who is known: enrol, find, prove, forget.", no_args_is_help=True)

app.add_typer(gallery_audit.app, name="audit")
app.add_typer(gallery_keys.app, name="keys")
app.add_typer(gallery_keys.access, name="access")
app.command()(serve)
app.command()(export)
app.command("import")(take_in)

PictureFile = Annotated[Path, typer.Argument(help="A photo.", show_default=False)]
COLOURS = {"known": "green", "unknown": "dim", "ambiguous": "yellow", "low_quality": "dim", "suppressed": "magenta"}


@app.command()
def enrol(
    photos: Annotated[Path, typer.Argument(help="A folder with one folder of photos for each person.")],
    namespace: Namespace = "main",
    keep_photos: Annotated[bool, typer.Option(help="Keep the aligned crops, sealed, to show and re-embed.")] = False,
    purpose: Purpose = "",
    redis: RedisUrl = "",
    graph: FacesOf = GRAPH,
) -> None:
    """Enrol everybody in a folder of folders; say which photos were refused and why."""
    listed = sorted(path for path in photos.glob("*/*") if path.is_file() and not path.name.startswith("."))
    if not listed:
        message = f"{photos} holds no folder of photos; enrol expects {photos}/<person>/<photo>.jpg"
        raise SourceError(message)
    refused: dict[Path, str] = {}
    with opened(namespace, purpose, redis, graph) as to:
        try:
            for path in track(listed, "enrolling", console=console(errors=True), transient=True):
                if reason := _enrol(to, path, keep_photo=keep_photos):
                    refused[path] = reason
        finally:  # also where Redis went away
            _show_refused(refused)
        subjects, templates = to.store.count()
    taken = len(listed) - len(refused)
    said = f"{taken} of {len(listed)} photos enrolled; {namespace} has {subjects} subjects with {templates} templates"
    console(errors=True).print(said)
    if len(refused) == len(listed):
        raise typer.Exit(1)


def _enrol(to: Opened, path: Path, *, keep_photo: bool) -> str:
    """Enrol the face of a photo; why not, or nothing if it was."""
    person = path.parent.name
    try:
        data = _read(path)
        shown, digest = to.picture("enrol", data, person), sha256(data).hexdigest()
        to.service.enrol(to.caller, person, shown, source_sha256=digest, keep_photo=keep_photo, refuse_twins=True)
    except AwayError:
        raise
    except (GalleryError, SourceError) as error:
        return str(error)
    return ""


def _show_refused(refused: dict[Path, str]) -> None:
    if not refused:
        return
    table = Table("person", "photo", "refused because", box=None)
    for path, reason in refused.items():
        table.add_row(*map(plain, (path.parent.name, path.name, reason)))
    console(errors=True).print(table)


@app.command("list")
def list_subjects(
    namespace: Namespace = "main", purpose: Purpose = "", redis: RedisUrl = "", as_json: AsJson = False
) -> None:
    """Show everybody who is known."""
    with opened(namespace, purpose, redis) as at:
        rows = [
            {**subject.model_dump(mode="json"), "templates": len(at.store.template_ids(subject.id))}
            for subject in _everybody(at)
        ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("subject", "templates", "consent", "purposes", "expires", box=None)
    for row in rows:
        cells = (
            row["id"],
            row["templates"],
            row["consent"],
            ", ".join(row["purposes"]) or "any",
            row["expires"] or "-",
        )
        table.add_row(*(plain(str(cell)) for cell in cells))
    console().print(table if rows else f"nobody is known in {namespace}")


@app.command()
def show(
    subject: SubjectId,
    namespace: Namespace = "main",
    purpose: Purpose = "",
    redis: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """Show one subject: templates, and which photos are missing."""
    with opened(namespace, purpose, redis) as at:
        found, has = at.service.subject(at.caller, subject), at.service.coverage(at.caller, subject)
        own = at.service.templates(at.caller, subject, limit=10_000)
    if as_json:
        rows = [{k: v for k, v in asdict(each).items() if k not in {"vector", "photo"}} for each in own]
        typer.echo(json.dumps({**found.model_dump(mode="json"), "templates": rows}, default=str))
        return
    table = Table("template", "quality", "yaw", "size", "masked", "enrolled", "", box=None)
    for each in own:
        kind = "not this person" if each.negative else ""
        cells = (
            each.id,
            f"{each.quality:.2f}",
            f"{each.yaw:+.0f}°",
            f"{each.size_px:.0f} px",
            "yes" if each.masked else "",
            f"{each.created:%Y-%m-%d %H:%M}",
            kind,
        )
        table.add_row(*cells)
    out = console()
    out.print(plain(f"{found.id}: consent {found.consent}, {len(own)} templates", "bold"), table)
    for advice in has.advice:
        out.print(plain(f"  {advice}", "yellow"))


@app.command()
def search(
    picture: PictureFile,
    namespace: Namespace = "main",
    top: Annotated[int, typer.Option(min=1, max=100, help="Candidates of each face.")] = 3,
    purpose: Purpose = "",
    redis: RedisUrl = "",
    graph: FacesOf = GRAPH,
    as_json: AsJson = False,
) -> None:
    """Who is in a picture?"""
    with opened(namespace, purpose, redis, graph) as at:
        found = at.service.search(at.caller, at.picture("search", _read(picture)), top=top)
    _show_found(found, as_json=as_json)


@app.command()
def verify(
    picture: PictureFile,
    subject: SubjectId,
    namespace: Namespace = "main",
    purpose: Purpose = "",
    redis: RedisUrl = "",
    graph: FacesOf = GRAPH,
    as_json: AsJson = False,
) -> None:
    """Is it this subject? Exit status 1 if nobody in the picture is."""
    with opened(namespace, purpose, redis, graph) as at:
        shown = at.picture("verify", _read(picture), subject)
        found = at.service.verify(at.caller, shown, subject_id=subject)
    _show_found(found, as_json=as_json)
    if not any(each.decision == "known" for each in found):
        raise typer.Exit(1)


@app.command("not-me")
def not_me(
    subject: SubjectId,
    picture: PictureFile,
    namespace: Namespace = "main",
    purpose: Purpose = "",
    redis: RedisUrl = "",
    graph: FacesOf = GRAPH,
) -> None:
    """Say that the face of a picture is not this subject, however alike they look."""
    with opened(namespace, purpose, redis, graph) as at:
        shown = at.picture("not me", _read(picture), subject)
        anchor = at.service.not_me(at.caller, subject, picture=shown)
    console().print(plain(f"a face nearer to {anchor.id} than to {subject} is not {subject} now"))


@app.command()
def merge(
    source: SubjectId,
    into: Annotated[str, typer.Argument(metavar="INTO", help="Who it is.")],
    namespace: Namespace = "main",
    purpose: Purpose = "",
    redis: RedisUrl = "",
) -> None:
    """Two subjects are one person: give the templates of the first to the second."""
    with opened(namespace, purpose, redis) as at:
        count = at.service.merge(at.caller, source, into)
    console().print(plain(f"{count} templates of {source} are {into}'s now"))


@app.command()
def delete(
    subject: SubjectId,
    namespace: Namespace = "main",
    receipt: Annotated[Path | None, typer.Option(help="Write the signed receipt here.")] = None,
    yes: Yes = False,
    purpose: Purpose = "",
    redis: RedisUrl = "",
) -> None:
    """Forget somebody everywhere; print a signed receipt."""
    refuse_place(receipt)
    with opened(namespace, purpose, redis) as at:
        if not yes:
            typer.confirm(f"forget {harmless(subject)} for ever?", abort=True)
        said = at.service.erase(at.caller, subject)
    text = said.model_dump_json(indent=2)
    typer.echo(text)
    if receipt:
        write(receipt, f"{text}\n".encode())


@app.command()
def erasure(
    receipt: Annotated[str, typer.Argument(metavar="ID", help="Of the receipt.")],
    namespace: Namespace = "main",
    purpose: Purpose = "",
    redis: RedisUrl = "",
) -> None:
    """Verify a receipt again by looking. Exit status 1 if something of the subject is there."""
    with opened(namespace, purpose, redis) as at:
        found = at.service.erasure(at.caller, receipt)
    for trouble in found.found:
        console().print(plain(trouble, "red"))
    if not found.holds:
        raise typer.Exit(1)
    console().print("the signature holds, and nothing of the subject is there")


@app.command()
def calibrate(
    namespace: Namespace = "main",
    far: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Share of strangers that may be taken for somebody.")
    ] = 0.001,
    picture: Annotated[Path | None, typer.Option(help="Draw the error rates into this PNG.")] = None,
    apply: Annotated[bool, typer.Option(help="Let the suggested limits hold from now on.")] = False,
    vouch: Annotated[
        list[str] | None, typer.Option(help="A subject or template that was looked at, and is right.")
    ] = None,
    purpose: Purpose = "",
    redis: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """What thresholds does this gallery bear? Exit status 1 where it bears none."""
    from pipeline.gallery.calibration import curve  # noqa: PLC0415  (slow to load)

    refuse_place(picture)
    with opened(namespace, purpose, redis) as at:
        found = at.service.calibrate(at.caller, promised_far=far, apply=apply, vouched=vouch or ())
    if picture:
        write(picture, curve(found))
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        _show_calibration(found)
    if found.bare.suggestion is None:
        raise typer.Exit(1)


@app.command()
def clusters(
    namespace: Namespace = "main", purpose: Purpose = "", redis: RedisUrl = "", as_json: AsJson = False
) -> None:
    """Faces of streams that nobody knows, as people."""
    with opened(namespace, purpose, redis) as at:
        found = at.service.clusters(at.caller)
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found]))
        return
    table = Table("cluster", "faces", "streams", "first seen", "last seen", box=None)
    for each in found:
        seen = (f"{each.first_seen:%Y-%m-%d %H:%M}", f"{each.last_seen:%Y-%m-%d %H:%M}")
        table.add_row(each.id, str(len(each.members)), plain(", ".join(each.streams)), *seen)
    console().print(table if found else "nobody unknown was seen")


@app.command()
def assign(
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="As `omote gallery clusters` shows it.")],
    subject: SubjectId,
    namespace: Namespace = "main",
    purpose: Purpose = "",
    redis: RedisUrl = "",
) -> None:
    """A cluster is this subject."""
    with opened(namespace, purpose, redis) as at:
        made = at.service.assign(at.caller, cluster, subject)
    console().print(plain(f"{len(made)} templates of {subject} made"))


@app.command()
def ignore(
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="As `omote gallery clusters` shows it.")],
    namespace: Namespace = "main",
    purpose: Purpose = "",
    redis: RedisUrl = "",
) -> None:
    """Nobody cares who this cluster is."""
    with opened(namespace, purpose, redis) as at:
        count = at.service.ignore(at.caller, cluster)
    console().print(f"{count} faces are ignored")


def _everybody(at: Opened) -> Iterator[Any]:
    page = at.service.subjects(at.caller, limit=500)
    while page:
        yield from page
        page = at.service.subjects(at.caller, after=page[-1].id, limit=500)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise SourceError(message) from error


def _show_found(found: Sequence[Found], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], default=str))
        return
    table = Table("face", "decision", "subject", "score", "threshold", "margin", "also like", box=None)
    for number, each in enumerate(found, 1):
        others = ", ".join(f"{c.subject_id} {c.score:.2f}" for c in each.candidates if c.subject_id != each.subject_id)
        figures = [f"{value:.3f}" for value in (each.score, each.threshold, each.margin)]
        why = ", ".join(each.face.reasons) if each.face else ""
        decision = Text(each.decision.replace("_", " ") + (f" ({why})" if why else ""), COLOURS[each.decision])
        table.add_row(str(number), decision, plain(each.subject_id), *figures, plain(others))
    console().print(table if found else "no face")


def _show_calibration(found: Calibration) -> None:
    table = Table("faces", "strangers", "highest stranger", "threshold", "margin", "promised FAR", "missed", box=None)
    for kind in (found.bare, found.masked):
        suggested = kind.suggestion
        figures = (
            (suggested.threshold, suggested.margin, suggested.promised_far, suggested.miss_rate) if suggested else ()
        )
        cells = [kind.strangers, kind.stranger_ceiling, *(figures or (None,) * 4)]
        table.add_row(kind.kind, *("-" if cell is None else f"{cell:.4g}" for cell in cells))
    out = console()
    out.print(table)
    for reason in found.reasons:
        out.print(plain(reason.sentence, "yellow"))
