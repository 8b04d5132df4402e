"""What a real run writes, and what the documentation shows, is what the schemas promise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from jsonschema import Draft202012Validator

from pipeline.__main__ import main
from pipeline.reading import read_record
from pipeline.schemas import file_name, kinds

ROOT = Path(__file__).parents[2]
GRAPH = str(ROOT / "deploy" / "graphs" / "file.yaml")
FILES = {"annotations": "frame", "tracks": "track", "matches": "match", "explanations": "explanation"}


def published(kind: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((ROOT / "docs" / "schemas" / file_name(kind)).read_text("utf-8")))


def kind_of(record: dict[str, Any]) -> str:
    return next(kind for kind, name in kinds().items() if name == record["record"])


@pytest.fixture(scope="module")
def records(weights_ready: None, clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the records of a man who is enrolled, looks into the camera and smiles."""
    del weights_ready
    folder = tmp_path_factory.mktemp("run")
    film = clip("single_face")
    (folder / "enrol" / "ann").mkdir(parents=True)
    with av.open(str(film)) as container:
        next(container.decode(video=0)).to_image().save(folder / "enrol" / "ann" / "1.jpg")
    gallery = folder / "gallery.npz"
    assert main(["enrol", GRAPH, str(folder / "enrol"), "--into", str(gallery)]) == 0
    assert main(["run", GRAPH, f"input={film}", f"gallery={gallery}", f"out={folder}"]) == 0
    return folder


@pytest.mark.parametrize(("file", "kind"), FILES.items())
def test_every_record_of_a_real_run_is_of_its_published_schema(records: Path, file: str, kind: str) -> None:
    lines = (records / f"{file}.jsonl").read_text("utf-8").splitlines()
    assert lines
    validator = published(kind)
    for line in lines:
        validator.validate(json.loads(line))
        assert json.loads(read_record(line).model_dump_json()) == json.loads(line)


def test_the_records_that_the_documentation_shows_are_of_their_schemas() -> None:
    shown = re.findall(
        r"^```json\n(.*?)^```", (ROOT / "docs" / "topics.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    found = [json.loads(text) for text in shown]
    assert sorted(kind_of(record) for record in found) == sorted(kinds())
    for record in found:
        published(kind_of(record)).validate(record)
        read_record(json.dumps(record))
