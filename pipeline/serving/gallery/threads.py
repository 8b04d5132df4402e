"""Where questions are answered, and how many may wait: no namespace takes what the others need."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.exceptions import HTTPException

from pipeline.serving.gallery.access import Rule
from pipeline.serving.gallery.settings import GallerySettings

Answer = TypeVar("Answer")
BUSY_S = 5


@dataclass(slots=True)
class _Line:
    """The questions of one namespace: how many, and how many more of them may go to the threads."""

    turn: asyncio.Semaphore
    asked: int = 0


class Turns:
    """Threads at which the namespaces take turns.

    Of one namespace a few questions are with the threads, and the others wait outside: so nobody waits behind more
    than those few of another, however many it asks.
    """

    def __init__(self, name: str, threads: int, at_once: int, most: float = math.inf) -> None:
        """No thread is started before the first question.

        Args:
            name: Of the threads.
            threads: How many there are.
            at_once: How many may work for one namespace.
            most: How many questions of one namespace there may be; more are asked to come again.
        """
        self._threads, self._at_once, self._most = ThreadPoolExecutor(threads, name), at_once, most
        self._lines: dict[str, _Line] = {}

    async def answer(
        self, namespace: str, question: Callable[[], Answer], gone: Callable[[], Awaitable[bool]] | None = None
    ) -> Answer:
        """The answer to a question, when it is its turn.

        Args:
            namespace: Whose question it is.
            question: What a thread calls.
            gone: Whether nobody waits for the answer any more; then nobody works for it.

        Raises:
            HTTPException: Too many questions of the namespace wait, or nobody waits for the answer.
        """
        line = self._lines.setdefault(namespace, _Line(asyncio.Semaphore(self._at_once)))
        if line.asked >= self._most:
            message = f"{line.asked} such requests to this gallery wait already; ask again in a moment"
            raise HTTPException(503, message, {"Retry-After": str(BUSY_S)})
        line.asked += 1
        try:
            async with line.turn:
                if gone is not None and await gone():
                    message = "whoever asked has gone"
                    raise HTTPException(408, message)
                return await asyncio.get_running_loop().run_in_executor(self._threads, question)
        finally:
            line.asked -= 1
            if not line.asked:
                del self._lines[namespace]

    def close(self) -> None:
        """Begin nothing new; what runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class Share:
    """So much of something that all namespaces share; one of them gets half of it at most."""

    most: int
    taken: Counter[str] = field(default_factory=Counter)

    def take(self, namespace: str, amount: int, refusal: str) -> None:
        """Take some.

        Raises:
            HTTPException: There is not so much left.
        """
        if self.taken.total() + amount > self.most or self.taken[namespace] + amount > self.most // 2:
            message = f"{refusal}; ask again in a moment"
            raise HTTPException(503, message, {"Retry-After": str(BUSY_S)})
        self.taken[namespace] += amount

    def give_back(self, namespace: str, amount: int) -> None:
        """What was taken is there again."""
        self.taken[namespace] -= amount
        if not self.taken[namespace]:
            del self.taken[namespace]


class Threads:
    """Those for pictures, those for all of a gallery, and those for the rest, so that the rest never waits for them.

    Attributes:
        pictures: For what takes a core for a moment.
        thorough: For what looks at everything that a gallery holds, and may take minutes.
        light: For what waits for Redis at most.
        places: How many requests with long bodies there are.
        held_bytes: How much of their bodies is held.
    """

    def __init__(self, settings: GallerySettings) -> None:
        """Threads and limits as the settings say."""
        self.pictures = Turns("gallery-picture", settings.picture_threads, settings.picture_threads)
        self.thorough = Turns("gallery-thorough", settings.thorough_threads, 1, settings.most_thorough)
        self.light = Turns("gallery-light", settings.light_threads, max(1, settings.light_threads // 2))
        self.places, self.held_bytes = Share(settings.most_waiting), Share(settings.in_flight_bytes)

    @contextmanager
    def place(self, rule: Rule, namespace: str) -> Iterator[Callable[[int], None]]:
        """A place among those who wait with a picture; gives what is to be told of each part of the body that came.

        Raises:
            HTTPException: There is none left, or the bodies of all together are too long.
        """
        taken, held = int(rule.body == "upload"), 0

        def hold(size: int) -> None:
            nonlocal held
            self.held_bytes.take(namespace, size, "the API holds as many pictures as it can")
            held += size

        self.places.take(namespace, taken, "as many requests with pictures as may wait do so already")
        try:
            yield hold
        finally:
            self.places.give_back(namespace, taken)
            self.held_bytes.give_back(namespace, held)

    def close(self) -> None:
        """Begin nothing new; what runs ends by itself."""
        for turns in (self.pictures, self.thorough, self.light):
            turns.close()
