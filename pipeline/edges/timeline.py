"""Stream time of a live stream, made of the times that its camera gives."""

from __future__ import annotations

from dataclasses import replace

from pipeline.packets import Unit

REORDER_NS = 1_000_000_000  # presentation times come out of order by less than this
LEAP_NS = 10_000_000_000  # a gap by so much longer than the wait for it is no gap, but a clock that was set
LEAST_NS = 1_000_000  # between the units on both sides of a jump


class Timeline:
    """Stream time of one connection: it begins at 0 and never runs backwards, whatever the clock of the camera does.

    A clip that a camera plays in a loop, and a clock that was set, make times jump. From the jump on, times
    are shifted so that as much stream time passed in between as did on our own clock.

    Attributes:
        now_ns: The latest time placed so far.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self._shift_ns: int | None = None
        self._seen_s = 0.0

    def place(self, unit: Unit, at_s: float) -> Unit:
        """``unit``, which came at ``at_s``, in stream time."""
        own = unit.pts_ns if unit.dts_ns is None else unit.dts_ns
        if own is None:
            return unit
        waited_ns, self._seen_s = round((at_s - self._seen_s) * 1e9), at_s
        if self._shift_ns is None:
            self._shift_ns = -own
        ahead = own + self._shift_ns - self.now_ns
        if ahead < (-REORDER_NS if unit.dts_ns is None else 0) or ahead > waited_ns + LEAP_NS:
            self._shift_ns = self.now_ns + max(waited_ns, LEAST_NS) - own
        shift = self._shift_ns
        self.now_ns = max(self.now_ns, own + shift)
        pts_ns, dts_ns = (None if ns is None else ns + shift for ns in (unit.pts_ns, unit.dts_ns))
        return replace(unit, pts_ns=pts_ns, dts_ns=dts_ns)
