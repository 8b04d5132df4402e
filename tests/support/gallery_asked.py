"""Whom tests of a gallery ask as, what they show it, and what streams leave there."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from pipeline.gallery.subjects import Caller, Sighting, UnknownTrack
from pipeline.packets import Pixels
from tests.support.gallery import SIDE, likeness

READER, OPERATOR, ADMIN = Caller("r", "reader"), Caller("o", "operator"), Caller("a", "admin")
AUDITOR = Caller("au", "auditor")
RED, GREEN, BLUE, DULL = (240, 20, 20), (20, 240, 20), (20, 20, 240), (60, 10, 10)
NOW = datetime.now(UTC)


def picture(*colours: tuple[int, int, int]) -> Pixels:
    canvas = np.zeros((2 * SIDE, SIDE * max(2, len(colours)), 3), np.uint8)
    for number, colour in enumerate(colours):
        canvas[:SIDE, SIDE * number : SIDE * (number + 1)] = colour
    return canvas


def unknown(name: str, colour: tuple[int, int, int], photo: bool = False) -> UnknownTrack:
    crop = np.full((128, 128, 3), colour, np.uint8) if photo else None
    return UnknownTrack(name, "lobby", likeness(colour), "mobilefacenet", 0.9, False, datetime.now(UTC), photo=crop)


def seen(subject: str, track: str = "lobby:1:1") -> Sighting:
    return Sighting(
        id=track, subject_id=subject, stream="lobby", at=datetime.now(UTC), score=0.9, threshold=0.4, margin=0.5,
        masked=False, gallery_version=1,
    )  # fmt: skip
