"""A limit on calls that have none of their own: past it, somebody is told, from another thread."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EX_TEMPFAIL = 75  # of sysexits.h: try again

OnStuck = Callable[[str], None]


def end_process(what: str) -> None:
    """End this process at once, so that whoever started it starts another: a stuck call cannot be undone."""
    logging.getLogger(__name__).critical("no progress: %s; this process ends", what)
    os._exit(EX_TEMPFAIL)


@contextmanager
def limited(what: str, seconds: float, on_stuck: OnStuck) -> Iterator[None]:
    """Call ``on_stuck`` with a sentence if the block takes longer than ``seconds``; the block itself goes on."""
    timer = threading.Timer(seconds, on_stuck, (f"{what} took longer than {seconds:g} s",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
