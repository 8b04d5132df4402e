"""The JSON Schema of every record, made from its model: what is published for those who read omote's topics.

A published schema lets a record have fields that it does not name, for those may be added inside a major version.
Nothing else may change there: `breaks` compares two of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.reading import KINDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
TEXTS = {"$schema", "$id", "$defs", "title", "description"}  # what a program does not read

Schema = dict[str, Any]


def kinds() -> dict[str, str]:
    """Names of the records with their versions, by short name: ``frame`` is ``omote.frame/1.0``."""
    return {name.removeprefix("omote.").partition("/")[0]: name for name in KINDS}


def schema(kind: str) -> Schema:
    """The JSON Schema (2020-12) of records of one kind, such as ``frame``.

    Raises:
        PipelineError: There is no such kind.
    """
    if kind not in kinds():
        message = f"there is no record of the kind {kind!r}; there are {', '.join(sorted(kinds()))}"
        raise PipelineError(message)
    name = kinds()[kind]
    made: Schema = _open(KINDS[name].model_json_schema(mode="serialization"))
    for model in (made, *made.get("$defs", {}).values()):
        _describe(model)
    title, _, version = name.partition("/")
    major = name.rpartition(".")[0].replace(".", r"\.")
    said = "Kind and version; the minor version, its last number, grows when fields are added."
    made["properties"]["record"] = {"type": "string", "pattern": rf"^{major}\.\d+$", "description": said}
    made["required"] = ["record", *made["required"]]
    return {"$schema": DIALECT, "$id": f"urn:{title.replace('.', ':')}:{version}", "title": name, **made}


def file_name(kind: str) -> str:
    """Name of the file in which the schema of a kind is published, such as ``omote.frame-1.0.schema.json``."""
    return f"{kinds()[kind].replace('/', '-')}.schema.json"


def text(kind: str) -> str:
    """The schema of a kind as it is published."""
    return json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"


def publish(folder: Path) -> list[Path]:
    """Write every schema into ``folder``.

    Returns:
        The files.

    Raises:
        PipelineError: One is there that consumers rely on, and the new one breaks what it promises.
    """
    for kind in kinds():
        for file in published(folder, kind):
            for broken in breaks(json.loads(file.read_text("utf-8")), schema(kind)):
                message = f"{file.name} is published: {broken}; what is no addition needs a new major version"
                raise PipelineError(message)
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / file_name(kind): kind for kind in kinds()}
    for file, kind in files.items():
        file.write_text(text(kind), "utf-8")
    return list(files)


def published(folder: Path, kind: str) -> list[Path]:
    """The schemas in ``folder`` of every minor version of the major version in which this omote writes a kind."""
    return sorted(folder.glob(f"{kinds()[kind].rpartition('.')[0].replace('/', '-')}.*.schema.json"))


def breaks(old: Schema, new: Schema) -> Iterator[str]:
    """What keeps readers of ``old`` from reading what ``new`` describes, or readers of ``new`` what ``old`` does."""
    return _differences(_shape(old, old.get("$defs", {})), _shape(new, new.get("$defs", {})), "")


def _open(node: Any) -> Any:
    """``node`` without the titles that repeat a name, and open to fields that are added."""
    if isinstance(node, list):
        return [_open(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _open(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and (key, value) != ("additionalProperties", False)
    }


def _describe(model: Schema) -> None:
    """Take the docstring of a model apart: a description of itself and one of each field."""
    own, _, listed = model["description"].partition("\n\nAttributes:\n")
    model["description"] = _line(own)
    for name, said in ATTRIBUTE.findall(listed):
        model["properties"][name]["description"] = _line(said)


def _line(text: str) -> str:
    return " ".join(text.split())


def _shape(node: Any, defs: Mapping[str, Schema]) -> Any:
    """``node`` with its references followed, and without what only explains it."""
    if isinstance(node, list):
        return [_shape(item, defs) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _shape(defs[node["$ref"].rpartition("/")[2]], defs)
    fields = {name: _shape(field, defs) for name, field in node.get("properties", {}).items()}
    rest = {key: _shape(value, defs) for key, value in node.items() if key not in {*TEXTS, "properties"}}
    return {**rest, "properties": fields} if fields else rest


def _differences(old: Any, new: Any, place: str) -> Iterator[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield f"`{place}` was {json.dumps(old)} and is {json.dumps(new)}"
        return
    for key in sorted({*old, *new} - {"properties", "required"}):
        yield from _differences(old.get(key), new.get(key), f"{place}.{key}".strip("."))
    before, now = old.get("properties", {}), new.get("properties", {})
    for name in sorted({*before} - {*now}):
        yield f"`{place}.{name}` was removed".replace("`.", "`")
    for name in sorted({*before} & {*now}):
        yield from _differences(before[name], now[name], f"{place}.{name}".strip("."))
    for name in sorted({*old.get("required", ())} ^ {*new.get("required", ())}):
        yield f"`{place}.{name}` must be there in one of them and may be left out in the other".replace("`.", "`")
