"""Draws a frame record on its frame: boxes, names, emotions; hidden faces stay hidden."""

from __future__ import annotations

import cv2

from pipeline.packets import Pixels
from pipeline.palette import INK, track_colour
from pipeline.pictures import mosaic
from pipeline.records import FaceRecord, FrameRecord

FONT = cv2.FONT_HERSHEY_SIMPLEX


def drawn(image: Pixels, record: FrameRecord) -> Pixels:
    """A copy of ``image``, (H, W, 3) uint8 RGB, with the faces of its record."""
    picture = image.copy()
    for face in record.faces:
        x, y, width, height = (round(value) for value in face.det.bbox_px)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, image.shape[1]), min(y + height, image.shape[0])
        if right <= left or bottom <= top:
            continue
        if record.policy.faces == "blurred" and face.identity.decision != "known":
            picture[top:bottom, left:right] = mosaic(picture[top:bottom, left:right])
        colour = track_colour(face.track_id)
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, max(1, image.shape[0] // 240))
        _write(picture, words(face), left, top, colour)
    return picture


def words(face: FaceRecord) -> str:
    """What is known of a face, in a few words."""
    identity, emotion = face.identity, face.emotion
    who = f"{identity.subject_id} {identity.score:.2f}" if identity.decision == "known" else identity.decision
    return " · ".join(filter(None, (who, emotion.label, "masked" if face.occlusion.mask == "masked" else "")))


def _write(picture: Pixels, text: str, left: int, top: int, colour: tuple[int, int, int]) -> None:
    text = text.replace("·", "|").encode("ascii", "replace").decode()  # the font has no other letters
    scale = max(0.35, picture.shape[0] / 900)
    (width, height), below = cv2.getTextSize(text, FONT, scale, 1)
    top = max(top, height + below)
    cv2.rectangle(picture, (left, top - height - below), (left + width, top), colour, cv2.FILLED)
    cv2.putText(picture, text, (left, top - below // 2), FONT, scale, INK, 1, cv2.LINE_AA)
