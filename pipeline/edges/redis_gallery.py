"""The gallery of a graph whose truth is in Redis: matched in memory, seconds old at most, alive while Redis is not."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from pipeline.edges import redis_layout as layout
from pipeline.edges.redis_link import redis_url
from pipeline.edges.redis_reading import in_parts
from pipeline.edges.redis_store import GalleryStore
from pipeline.gallery.errors import AwayError
from pipeline.gallery.keys import Keys, KeysError
from pipeline.gallery.matcher import Changes, Mark, Matcher, Row
from pipeline.gallery.protocol import MODEL
from pipeline.gallery.subjects import NamespacePolicy
from pipeline.packets import Pixels

MOST_CHANGES = 5000  # in one answer
HEARTBEAT_S = 1.0
AHEAD = 2  # parts of a snapshot that are on their way
AGAIN_S = 1.0  # between two tries to open what did not open
DAMAGED = (KeysError, TypeError, ValueError)
ADVICE = "give this process the keys that the gallery has now, and start it again if they are in its environment"

log = logging.getLogger(__name__)

Part = TypeVar("Part")
Answer = TypeVar("Answer")


class RedisFeed:
    """The templates of one net in one namespace, and how they change; see ``Feed``.

    A template that the keys do not open is left out, so that it stands in the way of no other, and least of all of an
    erasure. It is tried again every second, for a keys file may come late after a rotation.
    """

    def __init__(self, store: GalleryStore, model: str = MODEL) -> None:
        """Nothing is asked before the first call.

        Args:
            store: Closed with the feed.
            model: Templates of other nets are left out.
        """
        self._store, self._model = store, model
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._waiting = store.waiting_link(self._name)
        self._confirmed_s, self._confirmed = 0.0, Mark("", -1)
        self._shut: dict[str, None] = {}  # what did not open; whatever was tried last comes last
        self._tried_s = 0.0

    def snapshot(self) -> tuple[Mark, Iterable[Sequence[Row]]]:
        """See ``Feed``."""
        mark = self._mark()
        self._shut.clear()
        return mark, self._all_rows(self._store.template_ids())

    def changes(self, after: Mark, wait_s: float) -> Changes | None:
        """See ``Feed``."""
        if late := self._late():
            return Changes(after, late)
        lines = self._lines(after, round(wait_s * 1000))
        if not lines:
            now = self._mark()
            lines = self._lines(after) if now.version > after.version else []  # a change came in between
            if not lines:
                return Changes(after) if now == after else None
        first, version = (int(line[0].split(b"-")[0]) for line in (lines[0], lines[-1]))
        if first != after.version + 1 or self._birth() != after.birth:
            return None
        latest = {name.decode(): change for _, line in lines for change, name in line.items()}
        rows = self._rows_of([name for name, change in latest.items() if change == b"put"])
        held = {row.id: row for some in rows for row in some}
        return Changes(Mark(after.birth, version), tuple(held.values()), tuple(latest.keys() - held.keys()))

    def policy(self) -> NamespacePolicy:
        """See ``Feed``."""
        return self._store.policy()

    def photo(self, subject_id: str) -> Pixels | None:
        """See ``Feed``."""
        own = self._store.templates(self._store.template_ids(subject_id))
        for template in sorted((each for each in own if not each.negative), key=lambda each: -each.quality):
            if (photo := self._store.photo(template.id)) is not None:
                return photo
        return None

    def confirm(self, mark: Mark, rows: int) -> None:
        """See ``Feed``."""
        now = time.time()
        if mark == self._confirmed and now - self._confirmed_s < HEARTBEAT_S:
            return
        told = {"version": mark.version, "at": round(now, 3), "rows": rows, "shut": len(self._shut)}
        with self._store.link.errors():
            kept = json.dumps({**told, "model": self._model})
            self._store.link.client.hset(self._store.key("matchers"), self._name, kept)
        self._confirmed, self._confirmed_s = mark, now

    def interrupt(self) -> None:
        """See ``Feed``."""
        with suppress(AwayError):  # then nothing waits
            self._store.link.wake(self._name)

    def close(self) -> None:
        """See ``Feed``."""
        self._waiting.close()
        with suppress(AwayError), self._store.link.errors():  # else whoever asks sees that it is silent
            self._store.link.client.hdel(self._store.key("matchers"), self._name)
        self._store.close()

    def _mark(self) -> Mark:
        """How the gallery stands now; of a restart in between the birth tells that came before, so all is read anew."""
        birth = self._birth()
        with self._store.link.errors():
            version = self._store.link.client.get(self._store.key.version)
        return Mark(birth, int(version or 0))

    def _birth(self) -> str:
        """Another one after a restart, for a server that was killed may have lost its last changes."""
        link, key = self._store.link, self._store.key("birth")
        with link.errors():
            link.client.setnx(key, secrets.token_hex(8))
            return f"{link.client.get(key).decode()}/{link.client.info('server')['run_id']}"

    def _lines(self, after: Mark, wait_ms: int | None = None) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """What the log says from ``after`` on, if only after a while."""
        with self._waiting.errors():
            answer = self._waiting.client.xread({self._store.key.log: f"{after.version}-0"}, MOST_CHANGES, wait_ms)
        return answer[0][1] if answer else []

    def _late(self) -> tuple[Row, ...]:
        """Some of those that did not open, and do now; looked for once in a while."""
        if not self._shut or time.monotonic() - self._tried_s < AGAIN_S:
            return ()
        self._tried_s = time.monotonic()
        rows = tuple(row for some in self._rows_of(list(islice(self._shut, MOST_CHANGES))) for row in some)
        for row in rows:  # only now, for Redis may have gone away in between
            del self._shut[row.id]
        return rows

    def _all_rows(self, names: Sequence[str]) -> Iterator[list[Row]]:
        """As `_rows_of`; whoever begins, and can open nothing at all, has other keys.

        Raises:
            KeysError: So it is.
        """
        opened = False
        for rows in self._rows_of(names):
            opened = opened or bool(rows)
            yield rows
        if self._shut and not opened and self._confirmed.version < 0:
            message = f"none of the templates of {self._store.namespace!r} opens: {ADVICE}"
            raise KeysError(message)

    def _rows_of(self, names: Sequence[str]) -> Iterator[list[Row]]:
        """The rows of those of ``names`` that are there, are of this net, and open."""
        model = self._model.encode()
        for some, answers in _ahead(self._fields_of, in_parts(names)):
            own = [(name, answer) for name, answer in zip(some, answers, strict=True) if answer[2] == model]
            rows, shut = self._opened(own)
            if new := [name for name in shut if name not in self._shut]:
                count, reason = len(new), shut[new[0]]
                log.warning("%d templates of %r are left out (%s): %s", count, self._store.namespace, reason, ADVICE)
            for name in set(some) - {row.id for row in rows}:
                self._shut.pop(name, None)  # not there any more, or tried last
            self._shut |= dict.fromkeys(shut)
            yield rows

    def _opened(self, sealed: Iterable[tuple[str, Sequence[bytes]]]) -> tuple[list[Row], dict[str, Exception]]:
        """Rows, and why there are none of the others."""
        rows, shut = list[Row](), dict[str, Exception]()
        for name, answer in sealed:
            try:
                rows.append(self._row(name, answer))
            except DAMAGED as error:
                shut[name] = error
        return rows, shut

    def _fields_of(self, names: Sequence[str]) -> list[list[bytes]]:
        return self._store.link.fields([self._store.key("template", name) for name in names], layout.ROW)

    def _row(self, name: str, answer: Sequence[bytes]) -> Row:
        subject, sealed, _, negative, until, purposes = answer
        vector = layout.opened_vector(sealed, name, self._store.keys, self._store.namespace)
        agreed = tuple(json.loads(purposes or b"[]"))
        return Row(name, subject.decode(), vector, negative == b"1", float(until or "inf"), agreed)


def _ahead(ask: Callable[[Part], Answer], parts: Sequence[Part]) -> Iterator[tuple[Part, Answer]]:
    """Each part with its answer; the next ones are asked for while this one is worked on."""
    if len(parts) < 2:
        yield from ((part, ask(part)) for part in parts)
        return
    with ThreadPoolExecutor(AHEAD) as pool:
        asked: deque[Future[Answer]] = deque()
        for number, part in enumerate(parts):
            asked.extend(pool.submit(ask, each) for each in parts[number + len(asked) : number + AHEAD + 1])
            yield part, asked.popleft().result()


class RedisGallery(Matcher):
    """The gallery of a graph: who is known in one namespace. Where it is and its keys come from the environment.

    ``REDIS_URL`` says where Redis is; for the keys see `pipeline.gallery.keys`.

    Attributes:
        model: Name of the net whose templates are compared.
    """

    def __init__(self, namespace: str = "main", model: str = MODEL, top: int = 5, purpose: str | None = None) -> None:
        """Read the gallery, and follow its changes.

        Args:
            namespace: Which gallery.
            model: Name of the net whose templates are compared.
            top: Most subjects of an answer.
            purpose: Whoever is not to be found for it is left out, and everybody where the namespace is not to be asked
                for it; nobody if None.

        Raises:
            AwayError: Redis does not answer.
            KeysError: There are no keys, or others than those that sealed the gallery.
        """
        store = GalleryStore(redis_url(), Keys.from_environment(), namespace)
        self.model = model
        super().__init__(RedisFeed(store, model), namespace, top, purpose=purpose)
