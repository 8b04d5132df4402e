"""Whether Redis answers: for whoever looks after the API, and without a cost for those who use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.gallery.errors import AwayError

EVERY_S, PATIENCE_S = 1.0, 0.5


class Pulse:
    """Asks Redis once a second at most, on a thread of its own, however many want to know."""

    def __init__(self, ask: Callable[[], None]) -> None:
        """Nothing is asked before somebody wants to know.

        Args:
            ask: Comes back if Redis answers, and raises `AwayError` if not.
        """
        self._ask, self._pool = ask, ThreadPoolExecutor(1, "gallery-pulse")
        self._asked_s, self._answer = -EVERY_S, Future[bool]()
        self._answer.set_result(False)

    async def beats(self) -> bool:
        """Whether Redis answers, or did a second ago; one that takes its time does not."""
        if self._answer.done() and time.monotonic() - self._asked_s >= EVERY_S:
            self._asked_s, self._answer = time.monotonic(), self._pool.submit(self._is_here)
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._answer)), PATIENCE_S)
        except TimeoutError:
            return False

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _is_here(self) -> bool:
        try:
            self._ask()
        except AwayError:
            return False
        return True
