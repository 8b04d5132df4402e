"""What the supervisor makes of the cameras that are registered."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("ray")

from pipeline.serving.streams import StreamSpec
from pipeline.serving.supervisor import understood

GATE = StreamSpec(id="gate", url="rtsp://camera.example/1")


@pytest.mark.parametrize(
    "text", [json.dumps({**GATE.model_dump(), "id": "yard", "zoom": 2}), '{"id": "yard"}', "\ufffd"]
)
def test_a_camera_that_is_not_understood_says_so_and_costs_no_other_one(text: str) -> None:
    cameras, unread = understood({"gate": GATE.model_dump_json(), "yard": text})
    assert cameras == {"gate": GATE}
    assert [(view.id, view.state) for view in unread.values()] == [("yard", "rejected")]
    assert "upgrade omote, or remove it" in unread["yard"].reason
