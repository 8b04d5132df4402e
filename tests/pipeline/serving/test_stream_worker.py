"""What a worker waits for is told of its streams, too."""

from __future__ import annotations

import time
from types import SimpleNamespace as Double
from typing import Any

import pytest

pytest.importorskip("ray")

from pipeline.scale import Scale
from pipeline.serving import stream_worker
from pipeline.serving.stream_worker import StreamWorker
from pipeline.serving.streams import InvalidStreamError, StreamView
from tests.support.memory_streams import BEGAN, camera

REASON = "the variable OMOTE_CAMERA_LOBBY is not set where the worker runs"


class Waiting:
    """Work that cannot begin."""

    name, began, delivered = "camera-lobby", False, 0

    def __init__(self, view: StreamView) -> None:
        self._view = view

    def run(self) -> None:
        raise InvalidStreamError(REASON)

    def views(self) -> list[StreamView]:
        return [self._view]

    def idle_s(self) -> float:
        return 0.0

    def stop(self) -> None:
        """It does nothing."""


def seen(view: StreamView, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """State and reason of the stream as its worker reports it while it waits."""
    node = Double(get_node_id=lambda: "")
    monkeypatch.setattr(stream_worker, "ray", Double(get_runtime_context=lambda: node))
    monkeypatch.setattr(stream_worker, "work_of", lambda *_: Waiting(view))
    monkeypatch.setattr(stream_worker, "_end_with", lambda _: None)
    plan: Any = None
    worker, until = StreamWorker(0, plan, Scale(), "omote"), time.monotonic() + 10
    while (report := worker.look()).worker.state != "waiting":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert worker.stop()
    return report.streams[0].state, report.streams[0].reason


@pytest.mark.parametrize("reason", ["its worker begins", "stopped"])
def test_a_camera_says_what_its_worker_waits_for(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(camera("lobby", "reconnecting", reason=reason), monkeypatch) == ("reconnecting", REASON)


def test_a_stream_that_has_ended_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    view = StreamView(id="clip", source="kafka", state="offline", reason="it has ended", since=BEGAN)
    assert seen(view, monkeypatch) == ("offline", "it has ended")
