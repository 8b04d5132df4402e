"""What streams leave in a gallery for a while: faces that nobody knows, sightings of subjects, explanations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any

from pipeline.edges import redis_layout as layout
from pipeline.edges.redis_link import Step
from pipeline.edges.redis_reading import AT_ONCE, in_parts
from pipeline.edges.redis_store import GalleryStore
from pipeline.gallery.errors import InvalidError, UnknownError
from pipeline.gallery.keys import KeysError
from pipeline.gallery.subjects import Sighting, UnknownTrack
from pipeline.packets import Pixels

MOST_UNKNOWN = 20_000  # the oldest give way
UNKNOWN = ("stream", "model", "quality", "masked", "seen", "ignored", "vector")  # all fields but the photo


@dataclass(frozen=True, slots=True)
class MatcherView:
    """A matcher that has told of itself.

    Attributes:
        name: Host, process and a random end.
        version: How far it has read.
        rows: Templates that it holds.
        silent_s: Seconds since it said so.
        shut: Templates that it left out, for its keys do not open them.
    """

    name: str
    version: int
    rows: int
    silent_s: float
    shut: int = 0


class TrackStore:
    """Short-lived things of one namespace. What is written twice is there once, so that streams may be replayed."""

    def __init__(self, store: GalleryStore) -> None:
        """``store`` is where; it is closed by whoever opened it."""
        self._store, self._key = store, store.key

    # Faces that nobody knows

    def keep(self, track: UnknownTrack, ttl_s: float) -> None:
        """Keep an unknown face, or what is known of it by now, for ``ttl_s`` after it was seen."""
        store, key = self._store, self._key("unknown", track.id)
        fields: dict[str, Any] = {
            "stream": track.stream,
            "model": track.model,
            "quality": f"{track.quality:.6g}",
            "masked": int(track.masked),
            "seen": f"{track.seen.timestamp():.6f}",
            "vector": layout.sealed_vector(track.vector, track.id, store.keys, store.namespace),
        }
        if track.photo is not None:
            fields["photo"] = layout.sealed_photo(track.photo, track.id, store.keys, store.namespace)
        with store.link.errors():
            pipe = store.link.client.pipeline()
            pipe.hset(key, mapping=fields).pexpireat(key, round((track.seen.timestamp() + ttl_s) * 1000))
            pipe.zadd(self._key("unknowns"), {track.id: track.seen.timestamp()})
            pipe.zrange(self._key("unknowns"), 0, -MOST_UNKNOWN - 1)
            too_many = pipe.execute()[-1]
        if too_many:
            self.drop_unknown(name.decode() for name in too_many)

    def unknowns(self, names: Sequence[str] | None = None) -> list[UnknownTrack]:
        """Those of ``names`` that were not forgotten, or all, the latest first; without their photos.

        Those that do not open with our keys are left out.
        """
        return self.opened(names)[0]

    def opened(self, names: Sequence[str] | None = None) -> tuple[list[UnknownTrack], int]:
        """The same, and how many do not open with our keys."""
        if names is None:
            with self._store.link.errors():
                names = [name.decode() for name in self._store.link.client.zrevrange(self._key("unknowns"), 0, -1)]
        rows: list[list[bytes | None]] = []
        for some in in_parts(names):
            rows += self._store.link.fields([self._key("unknown", name) for name in some], UNKNOWN)
        there = {name: row for name, row in zip(names, rows, strict=True) if row[-1]}
        if gone := set(names) - there.keys():
            self.drop_unknown(gone)
        found: list[UnknownTrack] = []
        for name, row in there.items():
            with suppress(KeysError):
                found.append(self._unknown(name, row))
        return found, len(there) - len(found)

    def photo(self, name: str) -> Pixels | None:
        """The crop of the best shot of an unknown track, where it was kept."""
        store = self._store
        with store.link.errors():
            kept = store.link.client.hget(self._key("unknown", name), "photo")
        return layout.opened_photo(kept, name, store.keys, store.namespace) if kept else None

    def photos(self, names: Sequence[str]) -> int:
        """Of how many of these unknown tracks a photo is kept."""
        with self._store.link.errors():
            pipe = self._store.link.client.pipeline(transaction=False)
            for name in names:
                pipe.hexists(self._key("unknown", name), "photo")
            return sum(pipe.execute())

    def ignore(self, names: Iterable[str]) -> None:
        """Nobody cares who these are."""
        for name in names:
            key = self._key("unknown", name)
            self._store.step().only_if(1, "EXISTS", key).write("HSET", key, "ignored", 1).done()

    def drop_unknown(self, names: Iterable[str]) -> int:
        """Forget these; how many there were."""
        gone = list(names)
        with self._store.link.errors():
            pipe = self._store.link.client.pipeline()
            for name in gone:
                pipe.delete(self._key("unknown", name)).zrem(self._key("unknowns"), name)
            return sum(pipe.execute()[::2])

    # Sightings and explanations; their lists know subjects by pseudonym

    def note(self, sighting: Sighting, ttl_s: float) -> bool:
        """Keep that somebody was seen, for ``ttl_s``; not if they were forgotten meanwhile."""
        return self._noting(sighting, ttl_s).done() is not None

    def sightings(
        self, subject: str, stream: str, since_s: float, until_s: float, after: str, limit: int
    ) -> tuple[list[Sighting], str]:
        """A page of sightings, the latest first, and what to give as ``after`` for the next one; empty if none.

        Raises:
            InvalidError: ``after`` is no page.
        """
        kind = self._key("at", stream) if stream else self._key("sightings")
        kind = self._seen(subject) if subject else kind
        if not (after or "0").isdecimal():
            message = f"{after[:40]!r} is no page of sightings; give the `next` of the page before"
            raise InvalidError(message)
        begin, found = int(after or 0), list[Sighting]()
        while True:
            with self._store.link.errors():
                names = self._store.link.client.zrevrangebyscore(kind, until_s, since_s, begin, limit)
            there = self._sightings([name.decode() for name in names])
            for name in names:
                begin += 1
                sighting = there.get(name.decode())  # some are forgotten already
                if sighting and stream in {"", sighting.stream}:
                    found.append(sighting)
                if len(found) == limit:
                    return found, str(begin)
            if len(names) < limit:
                return found, ""

    def explain(self, name: str, subject_id: str, told: Mapping[str, Any], ttl_s: float) -> bool:
        """Keep why a face was taken for ``subject_id``; not if they were forgotten meanwhile."""
        store, known = self._store, self._explained(subject_id)
        (lives_ms,) = self._lives_ms(ttl_s, known)
        text = layout.sealed("explanation", json.dumps(told).encode(), name, store.keys, store.namespace)
        step = store.step().only_if(1, "EXISTS", self._key("subject", subject_id))
        step.write("SET", self._key("explanation", name), text, "PX", round(ttl_s * 1000))
        return step.write("SADD", known, name).write("PEXPIRE", known, lives_ms).done() is not None

    def explanation(self, name: str) -> dict[str, Any]:
        """What was kept under this id.

        Raises:
            UnknownError: There is none, or it was forgotten.
        """
        store = self._store
        with store.link.errors():
            kept = store.link.client.get(self._key("explanation", name))
        if kept is None:
            message = f"there is no explanation {name!r}; they are kept for a while only"
            raise UnknownError(message)
        return dict(json.loads(layout.opened("explanation", kept, name, store.keys, store.namespace)))

    # Of a subject

    def forget(self, subject_id: str) -> None:
        """Forget the sightings and explanations of a subject, also those that do not open."""
        link, explained = self._store.link, self._explained(subject_id)
        lists = self._listed(self._store.pseudonym(subject_id))
        with link.errors():
            pipe = link.client.pipeline()
            for name in link.client.smembers(explained):
                pipe.delete(self._key("explanation", name.decode()))
            for kind, names in lists.items():
                for some in in_parts(names):
                    pipe.delete(*(self._key("sighting", name) for name in some)).zrem(kind, *some)
            pipe.delete(explained).execute()

    def left(self, pseudonym: str) -> tuple[int, int]:
        """How many sightings and explanations there are of whom the log knows by this pseudonym."""
        names = set().union(*self._listed(pseudonym).values())
        with self._store.link.errors():
            return len(names), int(self._store.link.client.scard(self._key("explained", pseudonym)))

    def rename(self, old: str, new: str, ttl_s: float) -> bool:
        """What was seen of ``old`` was seen of ``new``; not all of it if ``old`` leads elsewhere meanwhile."""
        store, known, before = self._store, self._explained(new), self._explained(old)
        with store.link.errors():
            names = [name.decode() for name in store.link.client.zrange(self._seen(old), 0, -1)]
        for sighting in self._sightings(names).values():
            step = self._noting(sighting.model_copy(update={"subject_id": new}), ttl_s)
            if step.only_if(new, "HGET", self._key.renamed, old).done() is None:
                return False
        step = store.step().only_if(1, "EXISTS", self._key("subject", new)).only_if(new, "HGET", self._key.renamed, old)
        step.write("SUNIONSTORE", known, known, before).write("DEL", before)
        if step.write("PEXPIRE", known, max(self._lives_ms(ttl_s, known, before))).done() is None:
            return False
        self.forget(old)
        return True

    def reseal(self) -> int:
        """Seal everything that lies under an old key under the current one; how many pieces were."""
        store, shots = self._store, product(("vector", "photo"), self._kept("unknown"))
        count = sum(store.resealed(kind, name, self._key("unknown", name), kind) for kind, name in shots)
        pieces = ((kind, name) for kind in ("sighting", "explanation") for name in self._kept(kind))
        return count + sum(store.resealed(kind, name, self._key(kind, name)) for kind, name in pieces)

    # Matchers

    def matchers(self, now_s: float, silent_s: float) -> list[MatcherView]:
        """Those that told of themselves in the last ``silent_s``; the others are struck off after an hour."""
        with self._store.link.errors():
            kept = self._store.link.client.hgetall(self._key("matchers"))
        told = {name.decode(): json.loads(text) for name, text in kept.items()}
        views = [
            MatcherView(n, t["version"], t["rows"], max(0.0, now_s - t["at"]), t.get("shut", 0))
            for n, t in told.items()
        ]
        if gone := [view.name for view in views if view.silent_s > 3600]:
            with self._store.link.errors():
                self._store.link.client.hdel(self._key("matchers"), *gone)
        return [view for view in views if view.silent_s <= silent_s]

    def _noting(self, sighting: Sighting, ttl_s: float) -> Step:
        """The step that keeps a sighting; one too old for the lists goes itself, so that none is out of reach."""
        store, at, lists = self._store, sighting.at.timestamp(), self._lists(sighting)
        name = f"{sighting.id}|{self._store.pseudonym(sighting.subject_id)}"
        text = layout.sealed("sighting", sighting.model_dump_json().encode(), name, store.keys, store.namespace)
        with store.link.errors():
            old = store.link.client.zrangebyscore(lists[0], "-inf", at - ttl_s)
        step = store.step().only_if(1, "EXISTS", self._key("subject", sighting.subject_id))
        for each in old:
            step.write("DEL", self._key("sighting", each.decode()))
        step.write("SET", self._key("sighting", name), text, "PXAT", round((at + ttl_s) * 1000))
        for kind, lives_ms in zip(lists, self._lives_ms(ttl_s, *lists), strict=True):
            step.write("ZADD", kind, at, name).write("ZREMRANGEBYSCORE", kind, "-inf", at - ttl_s)
            step.write("PEXPIRE", kind, lives_ms)
        return step

    def _kept(self, kind: str) -> list[str]:
        """Names of all that lies there of a kind, whether a list still knows of it or not."""
        every = self._key(kind, "*")
        with self._store.link.errors():
            return [key.decode()[len(every) - 1 :] for key in self._store.link.client.scan_iter(every, count=AT_ONCE)]

    def _listed(self, pseudonym: str) -> dict[str, list[str]]:
        """The names of somebody's sightings in each list: others keep some whose time in their own list is over."""
        lists = [self._key("seen", pseudonym), self._key("sightings"), *(self._key("at", s) for s in self._kept("at"))]
        scan = partial(self._store.link.client.zscan_iter, match=f"*|{pseudonym}", count=AT_ONCE)
        with self._store.link.errors():
            return {each: [name.decode() for name, _ in scan(each)] for each in lists}

    def _lives_ms(self, ttl_s: float, *lists: str) -> list[int]:
        """How long each list must stay: it still finds what was kept while the time was longer."""
        with self._store.link.errors():
            pipe = self._store.link.client.pipeline(transaction=False)
            for kind in lists:
                pipe.pttl(kind)
            return [max(left, round(ttl_s * 1000)) for left in pipe.execute()]

    def _sightings(self, names: Sequence[str]) -> dict[str, Sighting]:
        store, found = self._store, dict[str, Sighting]()
        for some in in_parts(names):
            with store.link.errors():
                kept = store.link.client.mget([self._key("sighting", name) for name in some])
            for name, one in zip(some, kept, strict=True):
                if one:
                    text = layout.opened("sighting", one, name, store.keys, store.namespace)
                    found[name] = Sighting.model_validate_json(text)
        return found

    def _lists(self, sighting: Sighting) -> tuple[str, str, str]:
        return self._seen(sighting.subject_id), self._key("at", sighting.stream), self._key("sightings")

    def _seen(self, subject_id: str) -> str:
        return self._key("seen", self._store.pseudonym(subject_id))

    def _explained(self, subject_id: str) -> str:
        return self._key("explained", self._store.pseudonym(subject_id))

    def _unknown(self, name: str, row: Sequence[Any]) -> UnknownTrack:
        store, (stream, model, quality, masked, seen, ignored, vector) = self._store, row
        return UnknownTrack(
            id=name,
            stream=stream.decode(),
            vector=layout.opened_vector(vector, name, store.keys, store.namespace),
            model=model.decode(),
            quality=float(quality),
            masked=masked == b"1",
            seen=datetime.fromtimestamp(float(seen), UTC),
            ignored=ignored == b"1",
        )
