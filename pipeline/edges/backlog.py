"""What waits between the thread that reads a live stream and the one that analyses it, and what gives way when."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Condition
from typing import Literal

from pipeline.packets import Codec, Unit

Keep = Literal["lossless", "latest", "adaptive"]  # what gives way where analysis is slower than the video
PATIENCE_S = 0.5  # a wait is looked at again so often


@dataclass(frozen=True, slots=True)
class Arrival:
    """A unit that came in.

    Attributes:
        unit: The unit, its times in stream time.
        epoch: The connection that it came through.
        codec: How to decode it.
        pts_ns: Stream time; that of the unit before where the unit has none.
        capture_ns: Wall clock when it came, nanoseconds since 1970.
        at_s: The same moment by the monotonic clock.
        missing: Units of the stream that were left out right before it.
    """

    unit: Unit
    epoch: int
    codec: Codec
    pts_ns: int
    capture_ns: int
    at_s: float
    missing: int = 0


class Backlog:
    """A bounded queue that drops groups of pictures, never a picture that others refer to.

    Once the oldest unit has waited for longer than ``max_lag_s``, everything before the newest key frame
    gives way. A queue of more than ``max_bytes`` gives way as a whole, up to the next key frame. Without
    ``max_lag_s`` nothing gives way: a full queue holds up whoever puts.

    Attributes:
        drops: Units left out, by reason: ``late``, ``overflow``, and ``no_keyframe`` for those that came before
            the first key frame of their connection.
    """

    def __init__(
        self, max_lag_s: float | None, max_bytes: int = 64 << 20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_lag_s, self._max_bytes, self._clock = max_lag_s, max_bytes, clock
        self._units: deque[Arrival] = deque()
        self._bytes = self._missing = self._epoch = 0
        self._broken = "no_keyframe"  # why the next unit cannot be decoded unless it is a key frame; else empty
        self._closed = False
        self._changed = Condition()
        self.drops: dict[str, int] = {}

    def put(self, arrival: Arrival) -> None:
        """Add the newest unit."""
        with self._changed:
            if arrival.epoch != self._epoch:
                self._epoch, self._broken = arrival.epoch, "no_keyframe"
            if self._broken and not arrival.unit.keyframe:
                self._missing += 1
                self._count(1, self._broken)
                return
            self._broken = ""
            while self._max_lag_s is None and self._bytes >= self._max_bytes and not self._closed:
                self._changed.wait(PATIENCE_S)
            self._units.append(replace(arrival, missing=self._missing))
            self._missing = 0
            self._bytes += len(arrival.unit.data)
            self._give_way()
            self._changed.notify_all()

    def take(self, count: int, timeout_s: float) -> list[Arrival]:
        """Up to ``count`` units of one epoch, oldest first; where units were left out, then before the first of them.

        Waits for up to ``timeout_s``; after it, or once the backlog is closed, there may be none.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._units or self._closed, timeout_s)
            self._give_way()
            taken: list[Arrival] = []
            while self._units and len(taken) < count and self._units[0].epoch == (taken or self._units)[0].epoch:
                taken.append(self._oldest())
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Let go whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _give_way(self) -> None:
        if self._max_lag_s is None or not self._units:
            return
        late = self._clock() - self._units[0].at_s > self._max_lag_s
        if late or self._bytes > self._max_bytes:
            self._drop(self._newest_keyframe(), "late" if late else "overflow")
        if self._bytes > self._max_bytes:
            self._drop(len(self._units), "overflow")
            self._broken = "overflow"

    def _newest_keyframe(self) -> int:
        """Its place in the queue; 0 where the pictures of the newest group are all there are."""
        last = len(self._units) - 1
        return next((last - n for n, arrival in enumerate(reversed(self._units)) if arrival.unit.keyframe), 0)

    def _drop(self, count: int, reason: str) -> None:
        missing = sum(1 + self._oldest().missing for _ in range(count))
        if self._units:
            self._units[0] = replace(self._units[0], missing=self._units[0].missing + missing)
        else:
            self._missing += missing
        self._count(count, reason)

    def _count(self, dropped: int, reason: str) -> None:
        if dropped:
            self.drops[reason] = self.drops.get(reason, 0) + dropped

    def _oldest(self) -> Arrival:
        arrival = self._units.popleft()
        self._bytes -= len(arrival.unit.data)
        return arrival
