"""Writes what was found as one HTML page that needs nothing else: no network, no script, no second file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jinja2 import Environment, FileSystemLoader
from numpy.typing import NDArray

from pipeline.edges import Sink
from pipeline.edges.sightings import Funnel, Sighting, Timeline
from pipeline.errors import SinkError
from pipeline.packets import EMOTIONS, Explanation, FeltFace, Floats, Pixels
from pipeline.palette import AGAINST, EMOTION_COLOURS, FOR, HATCH, css, track_colour, track_number
from pipeline.pictures import data_uri, hatched, heat, mosaic, overlaid
from pipeline.policy import Policy

TRACKS_SHOWN = 48
EXPLANATIONS_KEPT = 48
EXPLANATIONS_PER_TRACK = 4
WIDE, HIGH = 1000, 100  # view box of a timeline
PAUSE_NS = 600_000_000  # a timeline bridges shorter gaps: not every frame is analysed

Points = NDArray[np.float64]


class Photos(Protocol):
    """The part of a gallery that a report needs."""

    def photo(self, subject_id: str) -> Pixels | None:
        """The subject's best kept photo, (H, W, 3) uint8 RGB; None where there is none."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The stretch of stream time, in nanoseconds, that all timelines of a report share."""

    start_ns: int
    end_ns: int

    def at(self, pts_ns: float) -> float:
        """Where a moment lies on it, in [0, 1]."""
        return min(1.0, max(0.0, (pts_ns - self.start_ns) / max(1, self.end_ns - self.start_ns)))


class HtmlReport(Sink[FeltFace | Explanation]):
    """Collects faces and explanations, and writes the page at ``close``, also when nothing was seen.

    Its memory does not grow with the run: of each track it keeps two shots, one restoration, a
    timeline of fixed size and a few explanations; of many tracks it keeps those with most faces.

    Args:
        path: File to write; its folder is made where it is missing.
        title: Heading of the page.
        gallery: Where the photos of known subjects come from; without it they are left out.
        policy: ``faces: blurred`` hides every face whose identity is not ``known`` here too.
    """

    def __init__(
        self, path: str, title: str = "Faces seen", gallery: Photos | None = None, policy: Policy | None = None
    ) -> None:
        self._path, self._title, self._gallery = Path(path), title, gallery
        self._policy = policy or Policy()
        self._sightings: dict[str, Sighting] = {}
        self._explanations: dict[str, list[Explanation]] = {}
        self._funnel = Funnel()
        self._frames, self._tracks, self._last_frame = 0, 0, ("", 0, -1)
        self._streams: dict[str, None] = {}

    def write(self, batch: Sequence[FeltFace | Explanation]) -> None:
        """Take in faces and explanations."""
        for packet in batch:
            if isinstance(packet, Explanation):
                self._keep(packet)
            else:
                self._count(packet)

    def flush(self) -> None:
        """Nothing to do: a report is written whole, at ``close``."""

    def close(self) -> None:
        """Write the page.

        Raises:
            SinkError: The file cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self._render(), encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            message = f"cannot write the report {self._path}: {reason}; make room or choose another path"
            raise SinkError(message) from error

    def _count(self, face: FeltFace) -> None:
        frame = (face.stream, face.epoch, face.seq)
        self._frames += frame != self._last_frame
        self._last_frame = frame
        self._streams[face.stream] = None
        self._funnel.add(face)
        if face.track_id not in self._sightings:
            self._admit(face)
        self._sightings[face.track_id].add(face)

    def _admit(self, face: FeltFace) -> None:
        self._tracks += 1
        if len(self._sightings) >= TRACKS_SHOWN:
            least = min(self._sightings.values(), key=lambda sighting: sighting.faces)
            del self._sightings[least.track_id]
        self._sightings[face.track_id] = Sighting(face)

    def _keep(self, explanation: Explanation) -> None:
        kept = self._explanations.setdefault(explanation.track_id, [])
        if len(kept) < EXPLANATIONS_PER_TRACK and sum(map(len, self._explanations.values())) < EXPLANATIONS_KEPT:
            kept.append(explanation)

    def _render(self) -> str:
        sightings = sorted(
            self._sightings.values(), key=lambda sighting: (sighting.timeline.start_ns, sighting.track_id)
        )
        axis = Axis(
            min((sighting.timeline.start_ns for sighting in sightings), default=0),
            max((sighting.last_ns for sighting in sightings), default=0),
        )
        page: str = _page().render(
            title=self._title,
            written=datetime.now(UTC),
            streams=list(self._streams),
            frames=self._frames,
            tracks=self._tracks,
            funnel=self._funnel,
            sightings=sightings,
            explanations=self._explanations,
            axis=axis,
            policy=self._policy,
            hides=self._hides,
            portrait=self._portrait,
            photo=self._gallery.photo if self._gallery else lambda subject_id: None,
        )
        return page

    def _hides(self, sighting: Sighting) -> bool:
        return self._policy.faces == "blurred" and sighting.identity.decision != "known"

    def _portrait(self, sighting: Sighting, image: Pixels) -> Pixels:
        """The image as the policy lets it be shown."""
        return mosaic(image) if self._hides(sighting) else image


def areas(timeline: Timeline, axis: Axis) -> list[tuple[str, str]]:
    """The stacked probabilities of a timeline: each emotion and the SVG path of its area, 1000 wide and 100 high."""
    shares = timeline.probabilities / np.maximum(timeline.felt, 1)[:, None]
    lower = np.cumsum(np.concatenate([np.zeros((len(shares), 1)), shares], axis=1), axis=1)
    runs = _runs(timeline.felt > 0, timeline)
    return [
        (name, "".join(_area(run, lower[run, k], lower[run, k + 1], timeline, axis) for run in runs))
        for k, name in enumerate(EMOTIONS)
    ]


def stretches(where: NDArray[np.bool_], timeline: Timeline, axis: Axis) -> list[tuple[float, float]]:
    """Left end and width, in the view box, of each run of bins in which ``where``, (BINS,) bool, holds."""
    ends = [(_x(run[0], timeline, axis), _x(run[-1] + 1, timeline, axis)) for run in _runs(where, timeline)]
    return [(left, right - left) for left, right in ends]


def _area(run: NDArray[np.int64], low: Points, high: Points, timeline: Timeline, axis: Axis) -> str:
    """The closed path between two lines through the middles of the bins of ``run``, drawn out to its ends."""
    xs = [_x(run[0], timeline, axis), *(_x(n + 0.5, timeline, axis) for n in run), _x(run[-1] + 1, timeline, axis)]
    upper, under = ([HIGH * (1 - y) for y in (line[0], *line, line[-1])] for line in (high, low))
    points = [*zip(xs, upper, strict=True), *zip(reversed(xs), reversed(under), strict=True)]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def _x(position: float, timeline: Timeline, axis: Axis) -> float:
    return WIDE * axis.at(timeline.start_ns + position * timeline.bin_ns)


def _runs(where: NDArray[np.bool_], timeline: Timeline) -> list[NDArray[np.int64]]:
    """The bins in which ``where`` holds, cut wherever it pauses for longer than ``PAUSE_NS``."""
    bins = np.flatnonzero(where)
    if not len(bins):
        return []
    return np.split(bins, np.flatnonzero(np.diff(bins) > max(1, PAUSE_NS // timeline.bin_ns)) + 1)


def _clock(pts_ns: float) -> str:
    """Stream time as minutes, seconds and tenths."""
    minutes, seconds = divmod(pts_ns / 1e9, 60)
    return f"{int(minutes)}:{seconds:04.1f}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"


def _width(share: float) -> str:
    """A share as the width of a bar in percent."""
    return f"{100 * min(1.0, max(0.0, np.nan_to_num(share))):.1f}"


def _map_picture(image: Pixels, name: str, values: Floats) -> Pixels:
    return overlaid(image, values, against=name.startswith("dis"))


def _page() -> Any:
    """The page's template. What comes from outside, such as names of streams and subjects, is escaped."""
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters.update(
        clock=_clock, percent=_percent, uri=data_uri, css=css, number=track_number, colour=track_colour
    )
    pages.globals.update(
        areas=areas, stretches=stretches, hatched=hatched, heat=heat, map_picture=_map_picture, width=_width,
        emotions=EMOTION_COLOURS,
        for_colour=FOR, against_colour=AGAINST, hatch_colour=HATCH,
    )  # fmt: skip
    return pages.get_template("report.html.j2")
