"""Only what was decided waits to be explained."""

from __future__ import annotations

from operators.moments import Moments
from pipeline.packets import FeltFace
from pipeline.testing import make_grown


def test_only_faces_of_a_decision_pass_and_in_order() -> None:
    quiet, matched = make_grown(FeltFace, 0), make_grown(FeltFace, 1, first_match=True)
    changed = make_grown(FeltFace, 2, emotion_changed=True)
    assert [face.seq for face in Moments()([quiet, matched, quiet, changed])] == [1, 2]
