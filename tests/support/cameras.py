"""Fixtures: a real RTSP server with numbered cameras that can be killed, frozen and replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.edges.rtsp import RtspSource
from pipeline.errors import PipelineError
from pipeline.servers.rtsp_server import RtspServer
from tests.support.numbered_camera import NumberedCamera
from tests.support.requirements import missing


class Studio(RtspServer):
    """An RTSP server and the numbered cameras that publish to it."""

    def __init__(self, folder: Path, streams: tuple[str, ...] = ("cam",)) -> None:
        super().__init__(folder, streams)
        self._cameras: dict[str, NumberedCamera] = {}

    def url(self, stream: str = "cam") -> str:
        return super().url(stream)

    def publish(self, stream: str = "cam", **sizes: int) -> None:
        """Put a camera in front of ``stream``, in place of the one before; ``sizes`` are those of `NumberedCamera`."""
        self.unpublish(stream)
        self._cameras[stream] = NumberedCamera(self.url(stream), **sizes)
        self._cameras[stream].start()

    def unpublish(self, stream: str = "cam") -> None:
        """A camera that is gone."""
        if stream in self._cameras:
            self._cameras.pop(stream).kill()

    def close(self) -> None:
        for stream in list(self._cameras):
            self.unpublish(stream)
        super().close()


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Studio]]:
    """``studio("cam", "gate")`` is an RTSP server of its own where each stream has a camera; closed in the end."""
    opened: list[Studio] = []

    def make(*streams: str) -> Studio:
        try:
            opened.append(Studio(tmp_path_factory.mktemp("go2rtc"), streams or ("cam",)))
        except PipelineError as error:
            missing(str(error))
        opened[-1].start()
        for stream in streams or ("cam",):
            opened[-1].publish(stream)
            _published(opened[-1].url(stream))
        return opened[-1]

    yield make
    for server in opened:
        server.close()


@pytest.fixture(scope="session")
def steady(studio: Callable[..., Studio]) -> Studio:
    """A server with a camera ``cam`` that nobody touches."""
    return studio()


@pytest.fixture
def rtsp(studio: Callable[..., Studio]) -> Iterator[Studio]:
    """A server with a camera ``cam``, for whatever a test does to them."""
    server = studio()
    yield server
    server.close()


def _published(url: str) -> None:
    """Wait until the first picture of ``url`` is there."""
    with closing(RtspSource(url, read_timeout_s=1.0)) as source:
        next(iter(source))
    time.sleep(0.1)
