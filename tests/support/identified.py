"""Faces with vectors whose cosines a test chooses, and what `Identify` makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from operators.identify import Identify
from pipeline.gallery import MemoryGallery, Template
from pipeline.packets import EmbeddedFace, Embedding, Floats, IdentifiedFace, Quality
from pipeline.policy import Policy
from pipeline.testing import make_grown

ALLOWED = Policy(purpose="research", identification=True)
BAD = Quality(score=0.2, blur=0.9, yaw=0, size_px=100, reasons=("blurred",))


def axis(n: int) -> Floats:
    return np.eye(512, dtype=np.float32)[n]


def gallery() -> MemoryGallery:
    """Ann, Bob and Cat lie at right angles, so that the parts of a vector are its cosines with them."""
    made = MemoryGallery()
    made.enrol(Template(name, axis(n), 1.0) for n, name in enumerate(("ann", "bob", "cat")))
    return made


def vector(ann: float = 0, bob: float = 0, cat: float = 0) -> Floats:
    rest = np.sqrt(1 - ann**2 - bob**2 - cat**2)
    return (ann * axis(0) + bob * axis(1) + cat * axis(2) + rest * axis(9)).astype(np.float32)


def face(
    seq: int, shot: Floats | None = None, mask: float = 0.0, quality: Quality | None = None, track: str = "camera:0:1"
) -> EmbeddedFace:
    embedding = None
    if shot is not None:
        (answer,) = gallery().match(shot[None], [mask >= 0.5])
        embedding = Embedding(shot, answer.best, answer.gallery, answer.version)
    given = {"quality": quality} if quality else {}
    return make_grown(EmbeddedFace, seq, mask_probability=mask, embedding=embedding, track_id=track, **given)


def identified(
    faces: Sequence[EmbeddedFace], together: int = 1, policy: Policy = ALLOWED, **rules: float
) -> list[IdentifiedFace]:
    identify = Identify(policy, **rules)
    state, out = identify.start("camera"), []
    for first in range(0, len(faces), together):
        state, given = identify(state, faces[first : first + together])
        out += given
    return out


def shots(*vectors: Floats, mask: float = 0.0) -> list[EmbeddedFace]:
    return [face(n, shot, mask) for n, shot in enumerate(vectors)]


def decisions(faces: Sequence[IdentifiedFace]) -> list[str]:
    return [each.identity.decision for each in faces]
