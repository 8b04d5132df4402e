"""How a stream does, as sources and the supervisor tell it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pipeline.packets import Origin

State = Literal["online", "reconnecting", "offline", "rejected"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """How a stream does.

    Attributes:
        stream: Id of the stream.
        state: ``rejected`` is the supervisor's word for a stream it did not take.
        reason: Why it is not online, one sentence; empty where it is.
        epoch: Number of its last connection; 0 before the first.
        last_pts_ns: Stream time of its last unit.
        since: Wall clock at which the state began.
        source: How the stream comes in.
    """

    stream: str
    state: State
    reason: str
    epoch: int
    last_pts_ns: int
    since: datetime
    source: Origin


def logged(status: StreamStatus) -> None:
    """Write the status to the log."""
    level = logging.INFO if status.state == "online" else logging.WARNING
    log.log(level, "stream %r is %s: %s", status.stream, status.state, status.reason or f"epoch {status.epoch}")
