"""Who may import whom, how long things may be, and what must not be written anywhere."""

from __future__ import annotations

import ast
import gc
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import operators
import pipeline

ROOT = Path(__file__).parents[1]

TOP = {
    *("pipeline", "operators", "deploy", "k8s", "tests", "training", "benchmarks", "docs"),
    *("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile", "LICENSE"),
}
# What an operator may know of the engine.
SEEN_BY_OPERATORS = {
    f"pipeline.{module}"
    for module in (
        *("operator", "packets", "records", "errors", "policy", "compute", "gallery"),
        *("decoding", "identifiers", "palette", "pictures", "testing"),
    )
}
BROKERS = {"kafka", "redis", "aiokafka", "confluent_kafka"}
NETS = {"torch", "onnx", "onnxruntime", "openvino", "captum", "safetensors"}
MAY_IMPORT_RAY = ("pipeline/runners/on_ray.py", "pipeline/serving/", "training/", "tests/", "benchmarks/")
MAY_MEET_CONTAINERS = ("pipeline/edges/", "pipeline/servers/", "pipeline/decoding.py")
# Where somebody else's code is called, where a program or a thread begins, and what kills its child before it raises.
MAY_CATCH_ALL = {
    *("pipeline/runners/worker.py", "pipeline/__main__.py", "pipeline/servers/process.py"),
    *("pipeline/serving/stream_worker.py", "pipeline/serving/supervisor.py", "pipeline/runners/on_ray.py"),
}
VAGUE = {"utils", "util", "common", "helper", "helpers", "manager", "base", "misc", "core"}
# Written with a bar, so that this file does not hold what it forbids.
PLACES = ("/wo|rk/", "../sha|red", "pypi.|org", "pythonhosted.|org", "registry.npm|js", "npmjs.|com")
FORBIDDEN = [word.replace("|", "") for word in PLACES]


def tracked() -> list[str]:
    """Paths of everything that git keeps, or would keep if it were told to."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [path for path in listed.stdout.splitlines() if (ROOT / path).is_file()]


def sources(*rooms: str) -> list[str]:
    return [path for path in tracked() if path.endswith(".py") and path.startswith(rooms or ("",))]


@cache
def parsed(path: str) -> ast.Module:
    """The syntax tree of a file.

    Nothing is collected meanwhile. What earlier tests left behind may print a traceback when it is collected; for that
    Python parses, too, and Python 3.11 cannot parse within parsing ("AST constructor recursion depth mismatch",
    CPython issue 106905).
    """
    source = (ROOT / path).read_text("utf-8")
    gc.disable()
    try:
        return ast.parse(source, path)
    finally:
        gc.enable()


def imports(path: str) -> Iterator[str]:
    """Full names of the modules that a file imports itself, also inside of functions."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""


def offenders(rooms: tuple[str, ...], forbidden: set[str]) -> list[str]:
    """``file: module`` for each import of a package that the files of ``rooms`` must not know."""
    return [f"{path}: {name}" for path in sources(*rooms) for name in imports(path) if name.split(".")[0] in forbidden]


def test_the_engine_knows_no_algorithm_and_no_net() -> None:
    assert offenders(("pipeline/",), {"operators", *NETS}) == []


def test_operators_know_no_cluster_and_no_broker() -> None:
    assert offenders(("operators/",), {"ray", *BROKERS}) == []


def test_operators_know_only_a_little_of_the_engine() -> None:
    known = [
        (path, name) for path in sources("operators/") for name in imports(path) if name.split(".")[0] == "pipeline"
    ]
    strange = {(path, name) for path, name in known if ".".join(name.split(".")[:2]) not in SEEN_BY_OPERATORS}
    assert strange <= {("operators/models.py", "pipeline.commands.doctor")}  # it brings the doctor a check


def test_what_is_shipped_does_not_need_what_is_not() -> None:
    assert offenders(("pipeline/", "operators/"), {"training", "deploy", "benchmarks", "tests", "pytest"}) == []


def test_nets_are_only_nets() -> None:
    known = {
        name
        for path in sources("operators/nets/")
        for name in imports(path)
        if name.startswith(("pipeline", "operators"))
    }
    assert known <= {"operators", "operators.nets", "operators.weights", "pipeline.errors"}


def test_containers_and_brokers_are_met_at_the_edges_only() -> None:
    found = offenders(("pipeline/",), {"av", *BROKERS})
    assert [each for each in found if not each.startswith(MAY_MEET_CONTAINERS)] == []


def test_ray_is_met_in_its_own_rooms_only() -> None:
    assert [each for each in offenders(("",), {"ray"}) if not each.startswith(MAY_IMPORT_RAY)] == []


def test_no_module_has_the_name_of_a_library_it_may_hide() -> None:
    names = {Path(path).stem for path in sources("pipeline/", "operators/")}
    assert names & {"ray", "kafka", "redis", "av", "torch", "numpy", "cv2", "onnx"} == set()


def test_errors_are_caught_wholesale_in_a_few_places_only() -> None:
    def catches_all(path: str) -> bool:
        caught = [node.type for node in ast.walk(parsed(path)) if isinstance(node, ast.ExceptHandler)]
        return any(kind is None or getattr(kind, "id", "") in {"Exception", "BaseException"} for kind in caught)

    assert {path for path in sources("pipeline/", "operators/") if catches_all(path)} <= MAY_CATCH_ALL


def test_files_are_short() -> None:
    lengths = {path: len((ROOT / path).read_text("utf-8").splitlines()) for path in sources()}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_functions_are_short() -> None:
    long = [
        f"{path}: {node.name}"
        for path in sources()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 50
    ]
    assert long == []


def test_every_module_says_what_it_is_for() -> None:
    rooms = ("pipeline/", "operators/", "training/", "deploy/", "benchmarks/")
    assert [path for path in sources(*rooms) if not ast.get_docstring(parsed(path))] == []


def test_an_operator_is_one_class_in_one_file() -> None:
    def operators_in(path: str) -> list[str]:
        classes = [node for node in parsed(path).body if isinstance(node, ast.ClassDef)]
        bases = [(each.name, ast.unparse(base)) for each in classes for base in each.bases]
        return [name for name, base in bases if base.startswith(("Operator[", "KeyedOperator["))]

    assert {path: found for path in sources("operators/") if len(found := operators_in(path)) > 1} == {}


def test_folders_and_files_have_names_that_say_something() -> None:
    assert [path for path in tracked() if set(Path(path).with_suffix("").parts) & VAGUE] == []


def test_nothing_else_lies_at_the_top() -> None:
    top = {path.split("/")[0] for path in tracked()}
    assert {name for name in top if not name.startswith(".")} <= TOP


def test_tests_are_no_package() -> None:
    assert [path for path in tracked() if path.startswith("tests/") and path.endswith("__init__.py")] == []


def test_both_packages_are_of_one_checkout() -> None:
    homes = {Path(package.__file__).resolve().parents[1] for package in (pipeline, operators) if package.__file__}
    assert homes == {ROOT}


def test_nothing_names_the_place_where_it_was_written_or_a_registry() -> None:
    found = []
    for path in tracked():
        try:
            text = (ROOT / path).read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a picture or weights
        found += [f"{path}: {word}" for word in FORBIDDEN if word in text]
    assert found == []
