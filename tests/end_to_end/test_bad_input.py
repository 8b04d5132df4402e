"""Bad input is one clear sentence that names the thing and the way out, and what was written before it opens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from operators import weights
from pipeline.__main__ import main
from pipeline.testing import noise

ROOT = Path(__file__).parents[2]
Film = Callable[..., Path]

# The whole way but for the nets, so that a mistake shows at once and weights are not needed.
GRAPH = """
vars: {input: "", records: r.jsonl, video: v.mp4, pause: "0"}
source: {use: "pipeline.edges.files:Input", with: {path: "${input}"}}
stages:
  decode:   {use: "operators.decode:Decode"}
  pause:    {use: "pipeline.testing:Pause", after: decode, with: {seconds: 0.0}}
  annotate: {use: "operators.annotate:Annotate", after: pause}
  draw:     {use: "operators.draw:Draw", after: pause}
sinks:
  records: {use: "pipeline.edges.files:JsonLines", after: annotate, with: {path: "${records}"}}
  video:   {use: "pipeline.edges.video_out:AnnotatedVideo", after: draw, with: {path: "${video}"}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, which holds the graph."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.yaml").write_text(GRAPH)
    return tmp_path


@pytest.fixture
def complaint(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``complaint("run", ...)`` is the one sentence with which that command fails."""

    def ask(*arguments: str) -> str:
        assert main(list(arguments)) == 1
        _, told = capfd.readouterr()
        lines = [line for line in told.splitlines() if line.strip()]
        assert lines[-1].startswith("omote: ")
        assert "Traceback" not in told
        return lines[-1]

    return ask


def _missing() -> None:
    """There is no file."""


def _empty() -> None:
    Path("clip.mp4").touch()


def _text() -> None:
    Path("clip.mp4").write_text("Dear diary,\n" * 100)


def _cut_off() -> None:
    whole = Path("whole.mp4").read_bytes()
    Path("clip.mp4").write_bytes(whole[: len(whole) // 2])


def _no_frames() -> None:
    with av.open("clip.mp4", "w", options={"movflags": "empty_moov+frag_keyframe"}) as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        file.start_encoding()


def _sound_only() -> None:
    with av.open("clip.mp4", "w") as file:
        stream = file.add_stream("aac", rate=44_100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 44_100
        file.mux(stream.encode(sound))
        file.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_missing, "no such file: clip.mp4"),
        (_empty, "cannot open clip.mp4: "),
        (_text, "it is truncated, empty or no video that FFmpeg reads"),
        (_cut_off, "it is truncated, empty or no video that FFmpeg reads"),
        (_no_frames, "clip.mp4 has a video stream but no frames"),
        (_sound_only, "clip.mp4 has no video stream; omote needs pictures"),
    ],
)
def test_a_file_without_pictures_is_refused(
    make: Callable[[], None], expected: str, film: Film, complaint: Callable[..., str]
) -> None:
    film(noise(10), "whole.mp4", "libx264")
    make()
    assert expected in complaint("run", "graph.yaml", "input=clip.mp4")
    assert not Path("v.mp4").exists()


def test_pictures_without_a_size_are_refused(film: Film, complaint: Callable[..., str]) -> None:
    whole = film(noise(3), "clip.avi", "rawvideo").read_bytes()
    size = whole.index(b"strf") + 12
    Path("clip.avi").write_bytes(whole[:size] + bytes(8) + whole[size + 8 :])
    assert "clip.avi declares pictures of 0x0; it is damaged" in complaint("run", "graph.yaml", "input=clip.avi")


def test_enormous_pictures_are_refused(film: Film, complaint: Callable[..., str]) -> None:
    wall = np.zeros((4320, 7680, 3), np.uint8)
    film([wall], "wall.mkv")
    assert "wall.mkv has pictures of 7680x4320" in complaint("run", "graph.yaml", "input=wall.mkv")
    Path("photos").mkdir()
    cv2.imwrite("photos/wall.jpg", wall)
    assert "a picture of 7680x4320 is larger than" in complaint("run", "graph.yaml", "input=photos")


def test_a_folder_of_which_no_image_can_be_read_is_refused(complaint: Callable[..., str]) -> None:
    Path("photos").mkdir()
    for number in range(40):
        Path(f"photos/{number}.jpg").write_bytes(b"\xff\xd8\xff no picture")
    assert "none of the 40 units of the input could be decoded" in complaint("run", "graph.yaml", "input=photos")


def test_of_a_truncated_file_the_frames_that_are_there_are_analysed(film: Film, complaint: Callable[..., str]) -> None:
    whole = film(noise(40), "whole.mp4", "libx264", container={"movflags": "faststart"}).read_bytes()
    Path("clip.mp4").write_bytes(whole[: len(whole) // 2])
    assert "clip.mp4 is truncated: " in complaint("run", "graph.yaml", "input=clip.mp4")
    assert 10 < len(records()) < 40
    assert 10 < pictures(Path("v.mp4")) < 40


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        ("stages:", "staegs:", "`stages`: Field required"),
        ("after: decode", "afetr: decode", "`stages.pause.afetr`: Extra inputs are not permitted"),
        ("after: decode", "after: deocde", "'pause' comes after unknown ['deocde']"),
        ("after: decode", "after: pause", "stages form a cycle: pause -> pause"),
        ("testing:Pause", "testing:Pasue", "cannot find 'pipeline.testing:Pasue'"),
        ("pipeline.testing:Pause", "os:system", "cannot use 'os:system'"),
        ("seconds", "second", "Pause takes no argument ['second']; it takes ['seconds']"),
        ("after: draw,", "after: annotate,", "'annotate' gives FrameRecord but 'video' takes DrawnFrame"),
        ("vars:", "policy: {emotion: true}\nvars:", "emotion needs a stated purpose"),
        ("{use", "{{use", "is not YAML"),
    ],
)
def test_a_graph_that_cannot_work_is_refused(
    wrong: str, right: str, expected: str, complaint: Callable[..., str]
) -> None:
    Path("graph.yaml").write_text(GRAPH.replace(wrong, right, 1) if wrong != "{use" else GRAPH.replace(wrong, right))
    assert expected in complaint("run", "graph.yaml", "input=clip.mp4")
    assert not Path("r.jsonl").exists()


def test_an_output_that_cannot_be_written_is_refused(film: Film, complaint: Callable[..., str]) -> None:
    film(noise(3), "clip.mp4", "libx264")
    Path("file").touch()
    run = ("run", "graph.yaml", "input=clip.mp4")
    assert "cannot write file/r.jsonl: " in complaint(*run, "records=file/r.jsonl")
    assert "cannot write the video file/v.mp4: " in complaint(*run, "video=file/v.mp4")


def test_a_full_disk_is_told_and_what_was_begun_opens(film: Film, complaint: Callable[..., str]) -> None:
    film(noise(60), "clip.mp4", "libx264")
    told = complaint("run", "graph.yaml", "input=clip.mp4", "records=/dev/full")
    assert "cannot write /dev/full: No space left on device; free some space or choose another folder" in told
    assert not Path("v.mp4").exists() or pictures(Path("v.mp4"))


@pytest.mark.usefixtures("weights_ready")
def test_a_weight_with_a_wrong_hash_is_refused_by_name(
    here: Path, film: Film, complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights.path("retinaface")
    (here / "cache" / "assets").mkdir(parents=True)
    (here / "cache" / "assets" / whole.name).write_bytes(whole.read_bytes()[:-1] + b"?")
    monkeypatch.setenv("OMOTE_CACHE", str(here / "cache"))
    Path("graph.yaml").write_text(
        GRAPH.replace("sinks:", '  detect: {use: "operators.detect:Detect", after: pause}\nsinks:')
    )
    film(noise(3), "clip.mp4", "libx264")
    told = complaint("run", "graph.yaml", "input=clip.mp4")
    assert "has not the sha256 2979b33f" in told
    assert "pinned for retinaface: run `omote models pull`" in told


def test_a_machine_without_a_network_is_told_so(
    here: Path, complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMOTE_CACHE", str(here / "cache"))
    for name in ("PIP_INDEX_URL", "npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    told = complaint("models", "pull", "--group", "benchmarks")
    assert "could not fetch" in told
    assert "check the network and the space on the disk, then run `omote models pull` again" in told


# Ctrl-C


def records() -> list[dict[str, object]]:
    return [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]


def pictures(file: Path) -> int:
    with av.open(str(file)) as video:
        return sum(1 for _ in video.decode(video=0))


@pytest.fixture
def running(film: Film) -> Iterator[subprocess.Popen[str]]:
    """A run over a film that would take half a minute, after its first records have come out."""
    film(noise(900), "long.mp4", "mpeg4")
    Path("slow.yaml").write_text(GRAPH.replace("seconds: 0.0", "seconds: 1.0"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline", "run", "slow.yaml", "input=long.mp4"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        until = time.monotonic() + 30
        while not (Path("r.jsonl").exists() and Path("r.jsonl").stat().st_size) and time.monotonic() < until:
            time.sleep(0.05)
        yield run
    finally:
        run.kill()
        run.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_its_files_so_that_they_open(
    running: subprocess.Popen[str], number: signal.Signals
) -> None:
    running.send_signal(number)
    _, told = running.communicate(timeout=20)
    assert running.returncode == 0
    assert "Traceback" not in told
    count = len(records())
    assert 0 < count < 900
    assert pictures(Path("v.mp4")) == count
    assert f"{count} frames, 0 faces in" in told
