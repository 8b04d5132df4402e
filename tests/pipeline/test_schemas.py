"""The published schemas are those of the records, and nothing that readers rely on ever changes in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator, ValidationError
from typer.testing import CliRunner

from pipeline import schemas
from pipeline.commands.schema import schema as command
from pipeline.errors import PipelineError
from tests.support.sample_records import SAMPLES

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
Change = Callable[[dict[str, Any]], object]


def sample(kind: str) -> dict[str, Any]:
    return json.loads(SAMPLES[kind].model_dump_json())


def changed(kind: str, change: Change) -> list[str]:
    """What is broken by a change of the published schema."""
    new = deepcopy(schemas.schema(kind))
    change(new)
    return list(schemas.breaks(schemas.schema(kind), new))


def fields_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a schema, with its model's name before its own."""
    for name, model in {"": schema, **schema.get("$defs", {})}.items():
        yield from ((f"{name}.{field}", said) for field, said in model["properties"].items())


# What is published


@pytest.mark.parametrize("kind", schemas.kinds())
def test_what_is_published_is_what_is_written(kind: str) -> None:
    published = (FOLDER / schemas.file_name(kind)).read_text("utf-8")
    assert published == schemas.text(kind), "run `omote schema --write docs/schemas`"


@pytest.mark.parametrize("kind", schemas.kinds())
def test_nothing_that_was_published_is_broken(kind: str) -> None:
    files = schemas.published(FOLDER, kind)
    assert files
    for file in files:
        assert list(schemas.breaks(json.loads(file.read_text("utf-8")), schemas.schema(kind))) == []


def test_nothing_else_is_published() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {
        file.name for kind in schemas.kinds() for file in schemas.published(FOLDER, kind)
    }


@pytest.mark.parametrize("kind", schemas.kinds())
def test_a_schema_is_one_of_2020_12_with_a_name_of_its_own_and_every_field_is_explained(kind: str) -> None:
    schema = schemas.schema(kind)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["$id"], schema["title"]) == (f"urn:omote:{kind}:1.0", f"omote.{kind}/1.0")
    assert schema["description"]
    fields = dict(fields_of(schema))
    assert [path for path, field in fields.items() if "description" not in field and "$ref" not in str(field)] == []
    units = {"_ns": "nanoseconds", "_ms": "milliseconds", "_px": "pixels"}
    told = [(path, unit) for path in fields for end, unit in units.items() if path.endswith(end)]
    assert [path for path, unit in told if unit not in fields[path]["description"]] == []


# What they accept


@pytest.mark.parametrize("kind", SAMPLES)
def test_records_are_accepted_with_fields_of_later_minor_versions_too(kind: str) -> None:
    validator, later = Draft202012Validator(schemas.schema(kind)), sample(kind)
    validator.validate(later)
    later.update(record=f"omote.{kind}/1.1", weather="rain")
    if kind == "frame":
        later["faces"][0]["identity"]["alias"] = "countess"
    validator.validate(later)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("frame", lambda record: record.pop("record")),
        ("frame", lambda record: record.update(record="omote.frame/2.0")),
        ("frame", lambda record: record.update(record="omote.track/1.0")),
        ("frame", lambda record: record["frame"].update(capture_ts="yesterday")),
        ("frame", lambda record: record["frame"].update(seq="7")),
        ("frame", lambda record: record["faces"][0]["det"]["bbox_px"].pop()),
        ("frame", lambda record: record["faces"][0]["identity"].update(decision="perhaps")),
        ("stream-status", lambda record: record.update(state="asleep")),
        ("stream-status", lambda record: record["stream"].update(source=None)),
        ("explanation", lambda record: record.update(score=None)),
    ],
)
def test_what_is_no_record_of_the_kind_is_not_accepted(kind: str, change: Change) -> None:
    record = sample(kind)
    change(record)
    with pytest.raises(ValidationError):
        Draft202012Validator(schemas.schema(kind)).validate(record)


# What may change


def test_a_field_may_be_added_and_texts_may_change() -> None:
    def add(schema: dict[str, Any]) -> None:
        schema["properties"]["weather"] = {"type": "string", "default": ""}
        schema["$defs"]["IdentityRecord"]["properties"]["alias"] = {"type": "string", "default": ""}
        schema["$defs"]["StreamRef"].update(description="Which stream.")

    assert changed("frame", add) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["properties"].pop("timings_ms"), "`timings_ms` was removed"),
        (lambda s: s["$defs"]["FrameRef"]["properties"].pop("dropped_before"), "`frame.dropped_before` was removed"),
        (
            lambda s: s["$defs"]["QualityRecord"]["properties"]["yaw"].update(type="integer"),
            '`faces.items.quality.yaw.type` was "number" and is "integer"',
        ),
        (
            lambda s: s["$defs"]["IdentityRecord"]["properties"]["decision"]["enum"].remove("ambiguous"),
            "`faces.items.identity.decision.enum` was",
        ),
        (lambda s: s["$defs"]["StreamRef"]["properties"]["source"]["enum"].append("fax"), "`stream.source.enum` was"),
        (
            lambda s: s["$defs"]["FrameRef"]["properties"]["capture_ts"].pop("anyOf"),
            "`frame.capture_ts.anyOf` was",
        ),
        (lambda s: s["required"].append("timings_ms"), "`timings_ms` must be there in one of them"),
        (lambda s: s["required"].remove("faces"), "`faces` must be there in one of them"),
        (
            lambda s: s["$defs"]["DetectionRecord"].update(additionalProperties=False),
            "`faces.items.det.additionalProperties` was null and is false",
        ),
    ],
)
def test_any_other_change_is_told(change: Change, said: str) -> None:
    (told,) = changed("frame", change)
    assert told.startswith(said)


def test_a_published_schema_is_not_written_over_by_one_that_breaks_it(tmp_path: Path) -> None:
    files = schemas.publish(tmp_path / "schemas")
    assert [file.name for file in files] == [schemas.file_name(kind) for kind in schemas.kinds()]
    before = files[0].read_text()
    broken = json.loads(before)
    broken["properties"]["weather"] = {"type": "string"}
    files[0].write_text(json.dumps(broken))
    with pytest.raises(PipelineError, match=r"omote.frame-1.0.schema.json is published: `weather` was removed; "):
        schemas.publish(tmp_path / "schemas")
    files[0].unlink()
    schemas.publish(tmp_path / "schemas")
    assert files[0].read_text() == before
    files[0].rename(files[0].with_name("omote.frame-1.3.schema.json")).write_text(json.dumps(broken))
    with pytest.raises(PipelineError, match=r"omote.frame-1.3.schema.json is published"):
        schemas.publish(tmp_path / "schemas")


# The command


def omote_schema(*words: object) -> str:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception:
        raise result.exception
    return result.stdout


def test_the_command_lists_prints_and_writes(tmp_path: Path) -> None:
    assert [line.split()[:2] for line in omote_schema().splitlines()] == [
        [kind, f"omote.{kind}/1.0"] for kind in SAMPLES
    ]
    assert omote_schema("track") == schemas.text("track")
    assert json.loads(omote_schema("track")) == schemas.schema("track")
    assert len(omote_schema("--write", tmp_path).splitlines()) == len(SAMPLES)
    assert (tmp_path / "omote.track-1.0.schema.json").read_text("utf-8") == schemas.text("track")
    with pytest.raises(PipelineError, match="there is no record of the kind 'face'; there are explanation, frame, mat"):
        omote_schema("face")
