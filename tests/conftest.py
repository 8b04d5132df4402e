"""What tests of any room may ask for: brokers, cameras, weights and clips, data, films, operators of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import pipeline.testing
from operators import weights
from pipeline.errors import WeightsError
from tests.support.requirements import missing

# Before anything imports Ray: a cluster of these tests is theirs alone, and reports to nobody.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")

pytest_plugins = ["tests.support.brokers", "tests.support.cameras", "tests.support.serving", "tests.support.gallery"]

NETS = ("retinaface", "mobilefacenet", "expression")
Picture = np.ndarray


def pytest_configure() -> None:
    """A run that is told to end, by ``timeout`` for one, ends the servers that it started, as after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Torch takes one core, so that the figures of a test do not depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def weights_ready() -> None:
    """The packaged weights are in the cache; else the test is skipped with the reason."""
    try:
        for name in NETS:
            weights.path(name)
    except WeightsError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def clip() -> Callable[[str], Path]:
    """``clip("langer")`` is the packaged clip of that name."""

    def find(name: str) -> Path:
        try:
            return weights.path(name)
        except WeightsError as error:
            missing(str(error))

    return find


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of training data, ``OMOTE_DATA``."""
    folder = os.environ.get("OMOTE_DATA")
    if not folder or not Path(folder).is_dir():
        missing("OMOTE_DATA names no folder")
    return Path(folder)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], str]:
    """``named(kind)`` is a path by which a graph can name a class that a test has declared."""

    def name(kind: type) -> str:
        monkeypatch.setattr(pipeline.testing, kind.__name__, kind, raising=False)
        return f"pipeline.testing:{kind.__name__}"

    return name


@pytest.fixture(scope="session")
def face_frames(clip: Callable[[str], Path]) -> list[Picture]:
    """Eight frames (360, 640, 3) uint8 RGB of a man who looks into the camera."""

    def pictures() -> Iterator[Picture]:
        with av.open(str(clip("single_face"))) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")

    return [picture for number, picture in enumerate(pictures()) if number % 8 == 0][:8]


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    """``film(pictures, ...)`` is a new video file with these (H, W, 3) uint8 RGB pictures.

    ``pts_ms`` are their times (every 40 ms if not given), ``rotation`` the degrees of its display matrix.
    """
    formats = {"mjpeg": "yuvj420p", "png": "rgb24", "rawvideo": "rgb24"}

    def make(
        pictures: Sequence[Picture],
        name: str = "clip.mkv",
        codec: str = "mjpeg",
        *,
        pts_ms: Sequence[int] = (),
        rotation: int = 0,
        container: dict[str, str] | None = None,
        encoder: dict[str, str] | None = None,
    ) -> Path:
        with av.open(str(tmp_path / name), "w", options=container or {}) as file:
            stream = file.add_stream(codec, rate=25, options=encoder or {})
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = formats.get(codec, "yuv420p")
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = pts_ms[number] if pts_ms else 40 * number, Fraction(1, 1000)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        return tmp_path / name

    return make
