"""A camera that plays a file: time goes on from round to round, and it comes back with its server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from pipeline.edges.rtsp import RtspSource
from pipeline.errors import PipelineError, SourceError
from pipeline.packets import Chunk
from pipeline.servers.camera import FileCamera, check_playable, looped
from pipeline.servers.rtsp_server import RtspServer
from tests.support.requirements import missing

PARENT = """
import sys
from pathlib import Path
from pipeline.servers.camera import FileCamera
camera = FileCamera(Path(sys.argv[1]), sys.argv[2])
camera.start()
print(camera.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def ball(film: Callable[..., Path]) -> Path:
    """Half a second of H.264, some of it predicted from pictures that are shown later."""
    pictures = [np.full((96, 128, 3), 20 * n, np.uint8) for n in range(12)]
    return film(pictures, "ball.mp4", "libx264", encoder={"bf": "2"})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RtspServer]:
    try:
        server = RtspServer(tmp_path / "go2rtc")
    except PipelineError as error:
        missing(str(error))
    with server:
        yield server


def first(url: str, count: int) -> list[Chunk]:
    with closing(RtspSource(url, "camera", read_timeout_s=1.0)) as source:
        return list(islice(source, count))


def test_time_goes_on_from_one_round_to_the_next(ball: Path) -> None:
    with av.open(str(ball)) as file:
        step = int(0.04 / file.streams.video[0].time_base)
    packets = list(islice(looped(ball), 36))
    assert {b.dts - a.dts for (a, _), (b, _) in pairwise(packets)} == {step}
    shown = sorted(packet.pts for packet, _ in packets)
    assert {b - a for a, b in pairwise(shown)} == {step}
    assert [time_s for _, time_s in packets] == pytest.approx([n * 0.04 for n in range(36)])


def test_it_plays_in_real_time_and_in_order(ball: Path, server: RtspServer) -> None:
    with FileCamera(ball, server.url()):
        chunks = first(server.url(), 40)
    units = [unit for chunk in chunks for unit in chunk.units if unit.pts_ns is not None]
    span_s = (units[-1].pts_ns - units[0].pts_ns) / 1e9
    assert span_s == pytest.approx((chunks[-1].capture_ns - chunks[0].capture_ns) / 1e9, abs=0.4)
    assert span_s > 1
    assert sum(unit.keyframe for unit in units) >= 2


def test_it_is_back_when_its_server_is(ball: Path, server: RtspServer, tmp_path: Path) -> None:
    with FileCamera(ball, server.url(), tmp_path / "camera.log") as camera:
        assert first(server.url(), 1)
        server.kill()
        time.sleep(0.5)
        server.start()
        assert first(server.url(), 1)
        assert camera.pid


def test_it_ends_when_whoever_started_it_is_gone(ball: Path, server: RtspServer) -> None:
    arguments = [sys.executable, "-c", PARENT, str(ball), server.url()]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        camera = psutil.Process(int(parent.stdout.readline()))
        assert first(server.url(), 1)
        parent.kill()
    psutil.wait_procs([camera], timeout=5)
    assert not camera.is_running()


def test_what_is_no_video_is_refused_at_once(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no film")
    for path in (text, tmp_path, tmp_path / "nothing.mp4"):
        with pytest.raises(SourceError, match=r"cannot be played: .*; give a video file"):
            check_playable(path)
