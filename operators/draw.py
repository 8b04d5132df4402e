"""Draws on each frame what is known of its faces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import cv2
import numpy as np

from operators.pen import Box, Lettering, Pen, whole
from pipeline.operator import KeyedOperator
from pipeline.packets import EMOTIONS, DrawnFrame, FeltFace, Frame, Restoration
from pipeline.palette import EMOTION_COLOURS, INK, PAPER, track_colour, track_number
from pipeline.pictures import hatched
from pipeline.policy import Policy

STRIP_NS = 4_000_000_000  # stream time that the emotion strip shows
GAP_NS = 500_000_000  # a track unseen for longer is gone from the picture; its strip breaks
NAME_LENGTH = 26  # characters of a name that are shown

DIM = (172, 180, 192)
WORDS = {
    "unknown": "unknown",
    "low_quality": "not clear enough",
    "suppressed": "not identified",
    "not_evaluated": "looking…",
}
REASONS = {
    "small": "too small",
    "blurred": "blurred",
    "turned": "turned away",
    "cut_off": "cut off",
    "predicted": "not seen now",
}


@dataclass(frozen=True, slots=True)
class Span:
    """Stream time, in nanoseconds, in which a track showed one emotion."""

    start_ns: int
    end_ns: int
    emotion: str


@dataclass(frozen=True, slots=True)
class TrackMemory:
    """What the picture shows of a track beyond its last face.

    Attributes:
        seen_ns: When it was last there.
        box: Where it was then.
        hidden: Whether the policy hid it then.
        spans: Its recent emotions, oldest first.
        restoration: Its last restoration, shown until the mask is gone.
    """

    seen_ns: int
    box: Box
    hidden: bool
    spans: tuple[Span, ...] = ()
    restoration: Restoration | None = None


@dataclass(frozen=True, slots=True)
class DrawState:
    """What is remembered of the tracks of one stream, by track id."""

    tracks: Mapping[str, TrackMemory] = field(default_factory=dict)


class Draw(KeyedOperator[Frame | FeltFace, DrawnFrame, DrawState]):
    """Joins frames with their faces and draws them; a frame without faces is drawn too.

    A batch holds frames together with all the faces found in them, in any order.
    Sizes follow the shorter side of the frame.

    Args:
        policy: ``faces: blurred`` hides every face whose identity is not ``known``, from its first
            frame on, and for half a second after the detector lost it.
    """

    def __init__(self, policy: Policy) -> None:
        self._hides = policy.faces == "blurred"
        self._letters = Lettering()

    def start(self, stream: str) -> DrawState:
        """Nobody was seen yet."""
        return DrawState()

    def __call__(self, state: DrawState, batch: Sequence[Frame | FeltFace]) -> tuple[DrawState, Sequence[DrawnFrame]]:
        """Draw the frames of the batch, in stream order."""
        drawn = []
        for frame, faces in _joined(batch):
            state = _remember(state, frame.pts_ns, faces, self._hides)
            drawn.append(self._draw(frame, faces, state))
        return state, drawn

    def _draw(self, frame: Frame, faces: Sequence[FeltFace], state: DrawState) -> DrawnFrame:
        pen = Pen(frame.image.copy(), self._letters)
        for memory in state.tracks.values():
            if memory.hidden:
                pen.hide(memory.box)
        _draw_faces(pen, faces, state.tracks)
        _draw_header(pen, frame, len(faces), self._hides)
        if any(memory.spans for memory in state.tracks.values()):
            _draw_legend(pen)
        return DrawnFrame(frame.stream, frame.epoch, frame.seq, frame.pts_ns, pen.image)


def _joined(batch: Sequence[Frame | FeltFace]) -> Iterator[tuple[Frame, list[FeltFace]]]:
    ordered = sorted(batch, key=lambda packet: (packet.epoch, packet.seq))
    for _, group in groupby(ordered, key=lambda packet: (packet.epoch, packet.seq)):
        packets = list(group)
        faces = [packet for packet in packets if isinstance(packet, FeltFace)]
        for frame in (packet for packet in packets if isinstance(packet, Frame)):
            yield frame, faces


def _remember(state: DrawState, now_ns: int, faces: Sequence[FeltFace], hides: bool) -> DrawState:
    """The state after a frame: its faces added, tracks that are gone left out."""
    kept = {name: memory for name, memory in state.tracks.items() if abs(now_ns - memory.seen_ns) <= GAP_NS}
    seen = {face.track_id: _remember_face(kept.get(face.track_id), face, hides) for face in faces}
    return DrawState({**kept, **seen})


def _remember_face(before: TrackMemory | None, face: FeltFace, hides: bool) -> TrackMemory:
    hidden = hides and face.identity.decision != "known"
    memory = TrackMemory(face.pts_ns, whole(face.box), hidden)
    estimate = face.restoration or (before.restoration if before else None)
    return replace(
        memory,
        spans=_extend(before.spans if before else (), face),
        restoration=estimate if face.mask.label == "masked" and not hidden else None,
    )


def _extend(spans: tuple[Span, ...], face: FeltFace) -> tuple[Span, ...]:
    """The emotions of the last ``STRIP_NS``, with the face's own at the end."""
    now = face.pts_ns
    spans = tuple(span for span in spans if 0 <= now - span.end_ns < STRIP_NS)
    if face.emotion.state != "ok":
        return spans
    last = spans[-1] if spans else None
    joins = last is not None and now - last.end_ns <= GAP_NS
    if last is not None and joins and last.emotion == face.emotion.label:
        return (*spans[:-1], replace(last, end_ns=now))
    start = last.end_ns if last is not None and joins else now
    return (*spans, Span(start, now, face.emotion.label))


def _draw_faces(pen: Pen, faces: Sequence[FeltFace], tracks: Mapping[str, TrackMemory]) -> None:
    """Boxes first, then what is said of them, so that no box crosses a word."""
    for face in sorted(faces, key=lambda face: float(face.box[3])):  # who stands in front is drawn last
        memory = tracks[face.track_id]
        (pen.dashed if face.predicted else pen.frame)(memory.box, track_colour(face.track_id))
        _draw_strip(pen, memory, face.pts_ns)
    taken = [tracks[face.track_id].box for face in faces]
    for face in sorted(faces, key=lambda face: track_number(face.track_id)):  # places do not jump as people pass
        memory = tracks[face.track_id]
        taken.append(_draw_plate(pen, face, memory, taken))
        if memory.restoration is not None and memory.restoration.restored:
            taken.append(_draw_estimate(pen, memory.box, memory.restoration, taken))


def _one_line(text: str) -> str:
    """Names come from outside: without line breaks, and never empty."""
    return " ".join(text.split()) or "?"


def _headline(face: FeltFace) -> tuple[str, str]:
    """Who it is, and how near to the gallery, as they stand on the plate."""
    identity = face.identity
    if identity.decision == "low_quality":
        return next((REASONS[reason] for reason in face.quality.reasons if reason in REASONS), WORDS["low_quality"]), ""
    name = _one_line(identity.subject_id)[:NAME_LENGTH]
    said = {"known": name, "ambiguous": f"ambiguous: {name}?"}.get(identity.decision) or WORDS[identity.decision]
    return said, f"{identity.score:.2f}" if identity.decision in {"known", "unknown", "ambiguous"} else ""


def _draw_plate(pen: Pen, face: FeltFace, memory: TrackMemory, taken: Sequence[Box]) -> Box:
    """The label near the box; gives the place it took."""
    said, score = _headline(face)
    number, details = str(track_number(face.track_id)), _details(face, memory)
    pad, row = pen.px(7), pen.px(24)
    digits = pen.text_width(number, 15, 700)
    chip = max(row, digits + pad)
    wide = max(
        chip + 3 * pad + pen.text_width(said, 16, 600) + pen.text_width(score, 14),
        sum(_detail_width(pen, detail) for detail in details) + pad,
    )
    place = _plate_place(pen, memory.box, wide, row * (2 if details else 1), taken)
    left, top, _, _ = place
    pen.plate(place)
    pen.plate((left, top, left + chip, top + row), track_colour(face.track_id), opacity=1)
    base = top + pen.px(17.5)
    pen.text((left + (chip - digits) // 2, base), number, 15, INK, 700)
    x = pen.text((left + chip + pad, base), said, 16, PAPER if face.identity.decision == "known" else DIM, 600)
    pen.text((x + pad, base), score, 14, DIM)
    _draw_details(pen, (left + pad, base + row - pen.px(2)), details)
    return place


def _plate_place(pen: Pen, box: Box, wide: int, high: int, taken: Sequence[Box]) -> Box:
    """Over the box, under its strip, beside it, or else over its upper end."""
    gap, head = pen.px(5), _header_height(pen)
    over, under, across = box[1] - high - gap, box[3] + pen.px(20), max(head, box[1]) + gap
    outside = [(box[0], over), (box[2] - wide, over), (box[0], under), (box[2] - wide, under)]
    outside += [(box[2] + gap, across), (box[0] - gap - wide, across)]
    fits = [(x, y) for x, y in outside if 0 <= x <= pen.width - wide and head <= y <= pen.height - high]
    inside = (max(0, min(box[0], pen.width - wide)), max(head, over) if box[0] + wide > pen.width else across)
    return _first_free([(x, y, x + wide, y + high) for x, y in (*fits, inside)], box, taken)


def _first_free(places: Sequence[Box], own: Box, taken: Sequence[Box]) -> Box:
    """The first place that covers nothing but perhaps its ``own`` box; else the first."""
    others = [box for box in taken if box != own]
    return next((place for place in places if not any(_overlap(place, box) for box in others)), places[0])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _details(face: FeltFace, memory: TrackMemory) -> list[tuple[str, str]]:
    """The second row of the plate: kind and words of each entry."""
    entries = []
    if face.mask.label != "bare":
        entries.append(("pill", "mask" if face.mask.label == "masked" else "mask?"))
    if face.mask.label == "masked" and not (memory.restoration and memory.restoration.restored):
        entries.append(("plain", "restored: no"))
    if face.emotion.state == "ok":
        entries.append(("emotion", face.emotion.label))
    return entries


def _detail_width(pen: Pen, detail: tuple[str, str]) -> int:
    return pen.text_width(detail[1], 13) + pen.px({"pill": 22, "plain": 8, "emotion": 22}[detail[0]])


def _draw_details(pen: Pen, at: tuple[int, int], details: Sequence[tuple[str, str]]) -> None:
    x, base = at
    for kind, words in details:
        end = x + _detail_width(pen, (kind, words))
        if kind == "pill":
            pen.plate((x, base - pen.px(13), end - pen.px(8), base + pen.px(5)), PAPER, opacity=0.92, radius=9)
            pen.text((x + pen.px(7), base), words, 13, INK, 600)
        elif kind == "emotion":
            pen.dot((x + pen.px(5), base - pen.px(4)), 5, EMOTION_COLOURS[words])
            pen.text((x + pen.px(15), base), words, 13)
        else:
            pen.text((x, base), words, 13, DIM)
        x = end


def _draw_strip(pen: Pen, memory: TrackMemory, now_ns: int) -> None:
    """The emotions of the last seconds under the box; now is at the right."""
    if not memory.spans:
        return
    left, _, right, bottom = memory.box
    right = max(right, left + pen.px(60))
    top = min(bottom + pen.px(6), pen.height - pen.px(14))
    pen.plate((left - 1, top - 1, right + 1, top + pen.px(9) + 1), radius=2)
    for span in memory.spans:
        ends = (max(0.0, 1 - (now_ns - t) / STRIP_NS) for t in (span.start_ns, span.end_ns))
        start, end = (left + round(share * (right - left)) for share in ends)
        pen.fill((start, top, end, top + pen.px(9)), EMOTION_COLOURS[span.emotion])


def _draw_estimate(pen: Pen, box: Box, restoration: Restoration, taken: Sequence[Box]) -> Box:
    """The restored crop beside the box, with what was made up in it hatched; gives the place it took."""
    side, gap, foot = pen.px(96), pen.px(8), pen.px(20)
    top = max(_header_height(pen), min(box[1], pen.height - side - foot))
    corners = [(box[2] + gap, top), (box[0] - gap - side, top), (box[0], box[3] + pen.px(20))]
    fits = [(x, y) for x, y in corners if 0 <= x <= pen.width - side and y <= pen.height - side - foot]
    places = [(x, y, x + side, y + side + foot) for x, y in fits]
    place = _first_free(places or [(0, top, side, top + side + foot)], box, taken)
    pen.plate((place[0] - 2, place[1] - 2, place[2] + 2, place[3]), radius=4)
    image = np.asarray(cv2.resize(restoration.image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    invented = cv2.resize(restoration.invented.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST) > 0
    pen.paste(hatched(image, invented, pen.px(8)), place[:2])
    words = f"estimate {restoration.confidence:.0%}"
    pen.text((place[0] + pen.px(4), place[3] - pen.px(6)), words, 12.5, PAPER, 600)
    return place


def _header_height(pen: Pen) -> int:
    return pen.px(30)


def _draw_header(pen: Pen, frame: Frame, faces: int, hides: bool) -> None:
    """One line on top: stream, time, number of the frame, faces in it."""
    pen.plate((0, 0, pen.width, _header_height(pen)), opacity=0.7, radius=0)
    base, gap = pen.px(20), pen.px(18)
    x = pen.text((pen.px(12), base), "omote", 15, PAPER, 700) + gap
    seconds = frame.pts_ns / 1e9
    clock = f"{int(seconds // 60):02d}:{seconds % 60:06.3f}"
    for words in (
        _one_line(frame.stream)[-40:],
        clock,
        f"frame {frame.seq}",
        f"{faces} face{'' if faces == 1 else 's'}",
    ):
        x = pen.text((x, base), words, 14, DIM) + gap
    if hides:
        note = "not enrolled: blurred"
        pen.text((pen.width - pen.text_width(note, 13) - pen.px(12), base), note, 13, DIM)


def _draw_legend(pen: Pen) -> None:
    """The names of the colours of the strips, at the bottom."""
    wide = sum(pen.text_width(name, 12.5) + pen.px(26) for name in EMOTIONS) + pen.px(6)
    left, base = max(0, (pen.width - wide) // 2), pen.height - pen.px(11)
    pen.plate((left, base - pen.px(16), left + wide, base + pen.px(7)), opacity=0.65, radius=11)
    x = left + pen.px(14)
    for name in EMOTIONS:
        pen.dot((x, base - pen.px(4)), 4.5, EMOTION_COLOURS[name])
        x = pen.text((x + pen.px(9), base), name, 12.5) + pen.px(17)
