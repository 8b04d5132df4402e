"""The soak in short: what is killed while video comes costs no record, doubles none and leaves nothing running."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.broker]


def test_a_minute_of_kills_loses_nothing_doubles_nothing_and_leaves_nothing_running(
    kafka_home: Path, weights_ready: None, tmp_path: Path
) -> None:
    del kafka_home, weights_ready
    script, figures = ROOT / "benchmarks" / "soak.py", tmp_path / "soak.json"
    options = ["--minutes", "0.9", "--every", "15", "--json", str(figures)]
    done = subprocess.run(
        [sys.executable, str(script), *options], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert figures.exists(), done.stderr
    found = json.loads(figures.read_text())
    names = ("lost", "duplicated", "out_of_order", "strangers", "camera_duplicated", "camera_out_of_order")
    assert {name: found[name] for name in names} == dict.fromkeys(names, 0), found
    assert (found["unconfirmed"], found["left_running"], found["never_back"]) == ([], [], 0), found
    assert found["kills"] >= 2
    assert found["records"] == found["published"] > 500
    assert done.returncode == 0, done.stderr
