"""Reads what an omote of this version or of another one wrote, or says in a sentence why that cannot be.

What is written names its kind and version, such as ``omote.frame/1.0``. Whoever knows the major version can read
it: a later minor version has added fields, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from pydantic import ValidationError

from pipeline.errors import SourceError, first_mistake
from pipeline.records import (
    ExplanationRecord,
    FrameRecord,
    MatchRecord,
    Record,
    StreamStatusRecord,
    TrackRecord,
)

NAME = re.compile(r"(omote\.[a-z][a-z-]*/\d{1,9})\.\d{1,9}")
SHOWN = 40  # bytes of what cannot be read that an error shows
KINDS: dict[str, type[Record]] = {
    kind.model_fields["record"].default: kind
    for kind in (FrameRecord, TrackRecord, MatchRecord, ExplanationRecord, StreamStatusRecord)
}


def read_record(data: bytes | str) -> Record:
    """The record that ``data`` holds; fields that a later minor version added are left out.

    Raises:
        SourceError: It is no record, or one of a kind or a major version that this omote does not understand.
    """
    try:
        said = json.loads(data)
    except ValueError as error:
        message = f"what came is no record, for it is no JSON: {data[:SHOWN]!r}"
        raise SourceError(message) from error
    name = understood(said.get("record") if isinstance(said, dict) else None, KINDS)
    try:
        return KINDS[name].model_validate({**said, "record": name}, extra="ignore")
    except ValidationError as error:
        message = f"what came is no {said['record']}: {first_mistake(error)}"
        raise SourceError(message) from error


def understood(said: object, known: Iterable[str]) -> str:
    """The one of the names ``known`` whose major version ``said`` has.

    Raises:
        SourceError: There is none: it is of another kind, or of another major version.
    """
    majors = {_major(name): name for name in known}
    mine = _major(said) if isinstance(said, str) else ""
    if mine in majors:
        return majors[mine]
    kind = mine.partition("/")[0]
    if same := next((major for major in majors if major.partition("/")[0] == kind), ""):
        message = f"{said} came and this omote understands {same}; upgrade it, or have version {same[-1]} written"
    else:
        message = f"{said!r} names nothing that can be read here; this omote understands {', '.join(sorted(majors))}"
    raise SourceError(message)


def _major(name: str) -> str:
    """``omote.frame/1`` of ``omote.frame/1.0``; empty if it is no such name."""
    match = NAME.fullmatch(name)
    return match[1] if match else ""
