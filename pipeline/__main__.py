"""``omote`` and ``python -m pipeline``: the command line."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import typer

from pipeline.commands import dlq, gallery, streams
from pipeline.commands.bench import bench
from pipeline.commands.consume import consume
from pipeline.commands.doctor import doctor
from pipeline.commands.enrol import enrol
from pipeline.commands.publish import publish
from pipeline.commands.run import run
from pipeline.commands.schema import schema
from pipeline.commands.serve import serve
from pipeline.commands.show import check, show
from pipeline.commands.up import up
from pipeline.errors import PipelineError
from pipeline.extras import remedy

app = typer.Typer(
    help="Who is on a video stream, what they show, what a mask hides, and why it says so. "
    "Put --debug anywhere to see tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (check, show, run, bench, enrol, up, serve, publish, consume, schema, doctor):
    app.command()(verb)
app.add_typer(dlq.app, name="dlq")
app.add_typer(streams.app, name="streams")
app.add_typer(gallery.app, name="gallery")
# Commands of packages that the engine does not know, such as `omote models`, come in by their entry points.
for point in entry_points(group="omote.commands"):
    app.add_typer(point.load(), name=point.name)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 if all went well, 1 and one sentence on an error of omote, 2 on wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        app([a for a in given if a != "--debug"], prog_name="omote")
    except SystemExit as done:  # how typer ends, well or not
        return done.code if isinstance(done.code, int) else 0
    except PipelineError as error:
        return _failed(str(error), error, 1, debug=debug)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        return _failed(remedy(error), error, 1, debug=debug)
    except Exception as error:
        return _unforeseen(error, debug=debug)
    return 0


def _unforeseen(error: Exception, *, debug: bool) -> int:
    if isinstance(error, OSError) and isinstance(error.filename, str | Path):  # a place that the user has named
        return _failed(f"cannot open {error.filename}: {error.strerror}", error, 1, debug=debug)
    if isinstance(error, UnicodeEncodeError):  # the shell gave bytes that are no text
        return _failed(f"{error.object[:80]!r} is not text: give it as UTF-8", error, 1, debug=debug)
    return _failed(f"unexpected {type(error).__name__}: {error} (--debug shows where)", error, 70, debug=debug)


def _failed(sentence: str, error: Exception, code: int, *, debug: bool) -> int:
    if debug:
        raise error
    typer.echo(f"omote: {sentence}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
