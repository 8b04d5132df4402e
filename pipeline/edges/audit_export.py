"""A copy of the audit log in a file of JSON lines, where whoever can write to Redis cannot change it.

A file ``audit.jsonl`` has its signed head beside it, in ``audit.jsonl.head``. Each export goes on where the last one
ended, and only if the log still says what was exported before.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from pipeline import audit
from pipeline.audit import Anchor, Entry, Fault, Head, following, parsed
from pipeline.edges.redis_audit import AuditLog
from pipeline.errors import SinkError
from pipeline.gallery.errors import InvalidError, RefusedError


def to_file(log: AuditLog, path: Path) -> int:
    """Add to a file what the log has beyond it; a last line that a crash cut off is written again.

    Returns:
        How many entries were added; they and the head are on the disk.

    Raises:
        AwayError: Redis does not answer.
        InvalidError: The file is of another namespace, or its chain is broken.
        RefusedError: The log no longer says what the file says.
        SinkError: The file cannot be written, or another export writes to it.
    """
    with _errors(path), _alone(path) as file:
        head = log.head()
        last = _end_of(file, log.namespace, path)
        added = 0
        for entry in beyond(log, last, head):
            file.write(entry.line + b"\n")
            added += 1
        file.flush()
        os.fsync(file.fileno())
        _write_head(head, _beside(path))
    return added


def exported(path: Path) -> Iterator[Entry]:
    """The entries of a file, as anchors for `verify`.

    Raises:
        InvalidError: There is no such file, or it is none of an audit log.
    """
    return map(parsed, _lines_of(path))


def verify_file(path: Path, public_key: str, against: Iterable[Anchor] = ()) -> list[Fault]:
    """Everything that is wrong with an exported file; see `pipeline.audit.verify`.

    Raises:
        InvalidError: There is no such file, or no head beside it.
    """
    try:
        head = Head.model_validate_json(_beside(path).read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        message = f"{_beside(path)} holds no signed head; copy it together with {path.name}, or export again"
        raise InvalidError(message) from error
    return audit.verify(_lines_of(path), head, public_key, against)


def beyond(log: AuditLog, last: Head, head: Head) -> Iterator[Entry]:
    """What the log has after what was exported last, up to its head; the log is held against both.

    Raises:
        RefusedError: The log was set back or written anew.
    """
    known = next(log.lines(last.seq - 1, last.seq), b"") if last.seq else b""
    if last.seq > head.seq or (last.seq and (not known or parsed(known).hash != last.hash)):
        message = (
            f"the audit log of {log.namespace!r} has no longer entry {last.seq} as it was exported: it was set back or "
            "written anew; verify it against the export, and export to another place from now on"
        )
        raise RefusedError(message)
    end = last
    try:
        for entry in following(log.lines(last.seq, head.seq), last) if head.seq > last.seq else ():
            end = unsigned(entry)
            yield entry
    except InvalidError as error:
        message = f"the audit log of {log.namespace!r} is damaged: {error}; run `omote gallery audit verify`"
        raise RefusedError(message) from error
    if (end.seq, end.hash) != (head.seq, head.hash):
        message = f"the audit log of {log.namespace!r} does not end as its head says; run `omote gallery audit verify`"
        raise RefusedError(message)


def unsigned(entry: Entry) -> Head:
    """The end of what was exported."""
    return Head(namespace=entry.namespace, seq=entry.seq, hash=entry.hash)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _end_of(file: BinaryIO, namespace: str, path: Path) -> Head:
    """The last entry of a file whose chain is whole; a line that was cut off is taken away."""
    file.seek(0)
    end, whole = Head(namespace=namespace), 0
    lines = (line for line in file if line.endswith(b"\n"))
    try:
        for entry in following((line[:-1] for line in lines), end):
            end, whole = unsigned(entry), whole + len(entry.line) + 1
    except InvalidError as error:
        message = f"{path} is no audit log of {namespace!r} that can be continued: {error}; export to another file"
        raise InvalidError(message) from error
    file.truncate(whole)
    return end


def _lines_of(path: Path) -> Iterator[bytes]:
    """Whole lines of a file."""
    try:
        file = path.open("rb")
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}; make it with `omote gallery audit export`"
        raise InvalidError(message) from error
    with file:
        yield from (line[:-1] for line in file if line.endswith(b"\n"))


def _write_head(head: Head, path: Path) -> None:
    """Write the head in one step: after a crash there is the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(head.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file, to read and to add to, while nobody else exports to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another export writes to {path}; wait for it"
            raise SinkError(message) from error
        yield file


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot export to {path}: {error.strerror}; free some space or choose another folder"
        raise SinkError(message) from error
