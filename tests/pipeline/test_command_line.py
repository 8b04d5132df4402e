"""The command line says what it did, and of a mistake one sentence; its exit code says which of the two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.__main__ import main
from pipeline.errors import GraphError
from pipeline.testing import noise

ROOT = Path(__file__).parents[2]
Film = Callable[..., Path]
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")

# Everything but nets: quick, and without weights.
GRAPH = """
vars: {input: "", out: ""}
policy: {setting: private, purpose: research}
source: {use: "pipeline.edges.files:Input", with: {path: "${input}"}}
stages:
  decode:   {use: "operators.decode:Decode"}
  slow:     {use: "pipeline.testing:Pause", after: decode, with: {seconds: 0.001}}
  annotate: {use: "operators.annotate:Annotate", after: slow}
  draw:     {use: "operators.draw:Draw", after: slow}
sinks:
  records: {use: "pipeline.edges.files:JsonLines", after: annotate, with: {path: "${out}/r.jsonl", kinds: [frame]}}
  video:   {use: "pipeline.edges.video_out:AnnotatedVideo", after: draw, with: {path: "${out}/annotated.mp4"}}
"""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as they want to be, and without colours."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def graph(tmp_path: Path) -> str:
    (tmp_path / "graph.yaml").write_text(GRAPH)
    return str(tmp_path / "graph.yaml")


@pytest.fixture
def bad_graph(tmp_path: Path) -> str:
    (tmp_path / "bad.yaml").write_text(GRAPH.replace("after: slow", "after: slwo"))
    return str(tmp_path / "bad.yaml")


def omote(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def sentence(captured: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; there is nothing on stdout."""
    out, err = captured.readouterr()
    assert out == ""
    assert err.startswith("omote: ")
    assert err.count("\n") == 1
    return err.strip()


# check and show


def test_check_says_that_a_graph_fits_together(graph: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", graph]) == 0
    assert capsys.readouterr().out.strip().endswith("4 stages and 2 sinks fit together")


def test_check_refuses_a_graph_with_one_sentence(bad_graph: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", bad_graph]) == 1
    assert "comes after unknown ['slwo']; the stages are ['annotate', 'decode', 'draw', 'slow']" in sentence(capsys)


def test_show_draws_every_stage_with_what_it_takes_and_gives(graph: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", graph]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["source", "→", "decode"], ["decode", "→", "slow"]]
    assert lines[0].split() == ["source", "pipeline.edges.files:Input", "Chunk"]
    assert lines[1].split()[-2:] == ["keyed", "Frame"]
    assert lines[2].split()[-1] == "Frame"
    assert {line.split()[2] for line in lines[1:]} == {"decode", "slow", "annotate", "draw", "records", "video"}
    assert all(line == line.rstrip() for line in lines)


def test_show_draws_mermaid_for_a_page(graph: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", graph, "--mermaid"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "flowchart LR"
    assert "    source -->|Chunk| decode" in rest
    assert "    decode -->|Frame| slow" in rest
    assert "    draw --> video" in rest


# run


def test_run_writes_what_the_graph_declares_and_says_where(
    graph: str, film: Film, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = film(noise(10), "clip.mp4", "libx264")
    assert main(["run", graph, f"input={clip}", f"out={tmp_path / 'out'}"]) == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "r.jsonl").read_text().splitlines()]
    assert [record["frame"]["seq"] for record in records] == list(range(10))
    told = capsys.readouterr().err
    assert "10 frames, 0 faces in" in told
    assert "frames/s" in told
    for output in ("r.jsonl", "annotated.mp4"):
        assert str(tmp_path / "out" / output) in told


def test_run_gives_the_same_records_with_any_number_of_threads(graph: str, film: Film, tmp_path: Path) -> None:
    clip = film(noise(40), "clip.mp4", "libx264")

    def records(threads: str) -> list[object]:
        assert main(["run", graph, f"input={clip}", f"out={tmp_path / threads}", "--threads", threads]) == 0
        lines = (tmp_path / threads / "r.jsonl").read_text().splitlines()
        return [{**json.loads(line), "timings_ms": None} for line in lines]

    assert records("0") == records("3")


def test_damaged_units_are_told_at_the_end(
    graph: str, film: Film, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = film(noise(20), "clip.avi")
    damaged = bytearray(clip.read_bytes())
    middle = [n for n in range(len(damaged)) if damaged[n : n + 3] == b"\xff\xd8\xff"][10]
    damaged[middle : middle + 600] = bytes(600)
    clip.write_bytes(damaged)
    assert main(["run", graph, f"input={clip}", f"out={tmp_path / 'out'}"]) == 0
    assert "19 frames, 0 faces in" in (told := capsys.readouterr().err)
    assert "1 damaged units lost" in told


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["input"], "'input' is no NAME=VALUE; the variables of a graph are given like input=clip.mp4"),
        (["inptu=clip.mp4"], "has no variable ['inptu']; its variables are ['input', 'out']"),
        (["input=x", "--device", "tpu"], "there is no device 'tpu' or engine 'auto'; see `omote run --help`"),
        (["input=x", "--engine", "steam"], "there is no device 'auto' or engine 'steam'; see `omote run --help`"),
        (["input=nowhere.mp4", "out=x"], "no such file: nowhere.mp4"),
        (["out=x"], "no input was given"),
    ],
)
def test_what_was_given_wrong_is_one_sentence(
    graph: str, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", graph, *arguments]) == 1
    assert expected in sentence(capsys)


# doctor and models


@pytest.mark.usefixtures("weights_ready")
def test_doctor_finds_nothing_wrong_with_an_installation_that_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for what in ("machine", "code", "torch", "onnxruntime", "device", "weights retinaface", "weights mask_state"):
        assert what in told
    assert str(ROOT) in told
    assert "wrong" not in told


@without_cuda
def test_doctor_fails_loudly_where_cuda_was_asked_for_and_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cuda"]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("device"))
    assert "wrong" in line
    assert "sees no CUDA device" in line


def test_doctor_names_the_weights_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMOTE_CACHE", str(tmp_path))
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "weights retinaface" in told
    assert "missing" in told
    assert "run `omote models pull`" in told


def test_doctor_knows_its_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "tpu"]) == 1
    assert "there is no device 'tpu'" in sentence(capsys)


def test_models_list_names_every_weight_with_licence_and_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    told = capsys.readouterr().out
    for what in ("retinaface", "mobilefacenet", "expression", "mask_state", "langer", "MIT", "(research)"):
        assert what in told


def test_models_pull_knows_its_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", "--group", "dogs"]) == 1
    assert "there is no group ['dogs']; the groups are models, clips, benchmarks" in sentence(capsys)


# The program


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for verb in ("check", "show", "run", "bench", "enrol", "doctor", "models"):
        assert f" {verb} " in told
        assert main([verb, "--help"]) == 0
        capsys.readouterr()


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert main(["run"]) == 2
    assert main(["run", "graph.yaml", "--window", "0"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_debug_lets_the_error_through(bad_graph: str) -> None:
    with pytest.raises(GraphError, match="comes after unknown"):
        main(["check", "--debug", bad_graph])


def test_an_error_that_nobody_foresaw_is_one_sentence_too(
    graph: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        message = "the moon is full"
        raise RuntimeError(message)

    monkeypatch.setattr("pipeline.commands.show.load", broken)
    assert main(["check", graph]) == 70
    assert sentence(capsys) == "omote: unexpected RuntimeError: the moon is full (--debug shows where)"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["schema", "--write", str(tmp_path / "file" / "x")]) == 1
    assert sentence(capsys) == f"omote: cannot open {tmp_path / 'file' / 'x'}: Not a directory"


def test_what_is_no_text_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pipeline.commands.show.load", lambda path, given: given["input"].encode())
    assert main(["check", "graph.yaml", "input=\udcff"]) == 1
    assert sentence(capsys) == "omote: '\\udcff' is not text: give it as UTF-8"


def test_from_the_shell_a_mistake_is_one_sentence_and_debug_shows_where(bad_graph: str) -> None:
    plain, debug = omote("check", bad_graph), omote("check", bad_graph, "--debug")
    assert (plain.returncode, plain.stdout) == (1, "")
    assert plain.stderr.startswith("omote: ")
    assert plain.stderr.count("\n") == 1
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
    assert "GraphError" in debug.stderr


BARE = """
import sys
from importlib.abc import MetaPathFinder
from pipeline.extras import EXTRAS

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {package for packages in EXTRAS.values() for package in packages}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from pipeline.__main__ import main
for words in sys.argv[1:]:
    print(f"\\n{words}: {main(words.split())}", file=sys.stderr)
"""


def test_what_needs_no_extra_works_without_any_and_the_rest_says_which_to_install() -> None:
    well = ["--help", "check deploy/graphs/file.yaml", "schema frame", "doctor", "gallery --help", "models list"]
    needed = {
        "gallery list": "redis is not installed here: install omote[gallery]",
        "gallery keys new keys.json": "cryptography is not installed here: install omote[gallery]",
        "gallery serve": "omote[gallery]",
        "check deploy/graphs/faces.yaml": "kafka is not installed here: install omote[kafka]",
        "consume": "kafka is not installed here: install omote[kafka]",
        "publish clip.mp4": "kafka is not installed here: install omote[kafka]",
        "dlq list": "kafka is not installed here: install omote[kafka]",
        "streams list": "httpx is not installed here: install omote[ray]",
    }
    command = [sys.executable, "-c", BARE, *well, *needed]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stderr.split("\n\n")
    for words in well:
        assert f"{words}: 0" in done.stderr
    for words, sentence in needed.items():
        (end,) = [n for n, part in enumerate(said) if part.startswith(f"{words}: ")]
        assert said[end].startswith(f"{words}: 1")
        assert said[end - 1].rstrip().endswith(sentence)
