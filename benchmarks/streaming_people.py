"""Video of which it is known who is where: people of ORL, each in a part of the picture that is theirs alone.

So a record of one stream that carries another's face shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from orl import portrait

from operators import weights
from pipeline.commands.enrol import enrolled
from pipeline.edges.video_cutting import recut
from pipeline.edges.video_messages import JPEG, VideoMessage
from pipeline.graph import Graph
from pipeline.packets import Chunk, Codec, Unit

COLUMNS, ROWS = 4, 2
PEOPLE = COLUMNS * ROWS
WIDTH, HEIGHT = 320, 180
ENROLLED, SHOWN = (1, 2, 3, 4, 5), (6, 7, 8, 9, 10)  # portraits of each person
HOLD = 4  # pictures that show the same portrait
Pixels = NDArray[np.uint8]


def gallery(graph: Graph, folder: Path) -> Path:
    """A gallery of all people in a new file; they are enrolled as they are by ``omote enrol``."""
    weights.pull(("models", "benchmarks"))
    for person in range(PEOPLE):
        home = folder / "photos" / name(person)
        home.mkdir(parents=True)
        for number in ENROLLED:
            cv2.imwrite(str(home / f"{number}.png"), portrait(person + 1, number).image)
    found, _ = enrolled(graph, folder / "photos", keep_photos=False)
    found.save(folder / "gallery.npz")
    return folder / "gallery.npz"


def name(person: int) -> str:
    """What the person is called in the gallery."""
    return f"orl{person + 1}"


def pictures(person: int, scale: int = 1) -> list[Pixels]:
    """Pictures (180, 320, 3) uint8 RGB times ``scale``, HOLD of each portrait, that move a little."""
    height, width = HEIGHT * scale // ROWS, WIDTH * scale // COLUMNS
    made: list[Pixels] = []
    for number in (number for number in SHOWN for _ in range(HOLD)):
        canvas = np.full((HEIGHT * scale, WIDTH * scale, 3), 96, np.uint8)
        face = cv2.resize(portrait(person + 1, number).image, (width - 4, height - 4), interpolation=cv2.INTER_AREA)
        y, x = person // COLUMNS * height + 2, person % COLUMNS * width + 2 + len(made) % 2
        canvas[y : y + height - 4, x : x + width - 4] = face
        made.append(canvas)
    return made


def film(person: int, content_type: str, seconds: float = 0.5, fps: int = 10, scale: int = 1) -> list[VideoMessage]:
    """One round of a person's video as messages; its stream has the name of the person."""
    step_ns = 1_000_000_000 // fps
    coded = [cv2.imencode(".jpg", each[..., ::-1])[1].tobytes() for each in pictures(person, scale)]
    units = tuple(Unit(data, n * step_ns, n * step_ns, keyframe=True) for n, data in enumerate(coded))
    if content_type == JPEG:
        given = [VideoMessage("", 0, n, unit.pts_ns or 0, JPEG, unit.data, frames=1) for n, unit in enumerate(units)]
    else:
        given = list(recut([Chunk("", 0, 0, 0, Codec("still"), units)], content_type, seconds))
    return [replace(message, stream=name(person), frames=message.frames or 1) for message in given]


def looped(
    once: Sequence[VideoMessage], fps: int, stop: Event | None = None, rounds: int = 0
) -> Iterator[VideoMessage]:
    """The film over and over as one stream, until ``stop`` is set or for so many ``rounds``."""
    frames = sum(message.frames for message in once)
    for turn in range(rounds) if rounds else count():
        for message in once:
            if stop and stop.is_set():
                return
            shift_ns = turn * frames * 1_000_000_000 // fps
            yield replace(message, seq=turn * len(once) + message.seq, pts_ns=message.pts_ns + shift_ns)


def in_turn(films: Iterable[Iterable[VideoMessage]]) -> Iterator[VideoMessage]:
    """A message of each film after the other."""
    for group in zip(*films, strict=True):
        yield from group


def clip(person: int, path: Path, fps: int = 10) -> Path:
    """The person's video as an MP4 for a camera to play."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=fps, options={"g": str(fps), "bf": "0", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, picture in enumerate(pictures(person)):
            frame: Any = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def strangers(person: int, record: Mapping[str, Any]) -> int:
    """How many faces of a record belong to somebody else: another's name, or another's place."""
    return sum(not _of(person, face) for face in record["faces"])


def _of(person: int, face: Mapping[str, Any]) -> bool:
    x, y, width, height = face["det"]["bbox_norm"]
    place = int((y + height / 2) * ROWS), int((x + width / 2) * COLUMNS)
    return place == divmod(person, COLUMNS) and face["identity"]["subject_id"] in {name(person), None}
