"""What streams leave in a gallery for a while: faces that nobody knows, sightings of subjects, explanations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.edges import redis_layout as layout
from pipeline.edges.redis_store import GalleryStore, in_parts
from pipeline.gallery.errors import InvalidError, UnknownError
from pipeline.gallery.subjects import Sighting, UnknownTrack

MOST_UNKNOWN = 20_000  # the oldest give way


@dataclass(frozen=True, slots=True)
class MatcherView:
    """A matcher that has told of itself.

    Attributes:
        name: Host, process and a random end.
        version: How far it has read.
        rows: Templates that it holds.
        silent_s: Seconds since it said so.
    """

    name: str
    version: int
    rows: int
    silent_s: float


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
            pipe.zremrangebyrank(self._key("unknowns"), 0, -MOST_UNKNOWN - 1)
            pipe.execute()

    def unknowns(self) -> list[UnknownTrack]:
        """Those that were not forgotten, the latest first."""
        with self._store.link.errors():
            names = [name.decode() for name in self._store.link.client.zrevrange(self._key("unknowns"), 0, -1)]
        found = [self._unknown(name, row) for name, row in self._hashes("unknown", names) if row]
        self._forget_names("unknowns", set(names) - {track.id for track in found})
        return found

    def ignore(self, names: Iterable[str]) -> None:
        """Nobody cares who these are."""
        with self._store.link.errors():
            pipe = self._store.link.client.pipeline(transaction=False)
            for name in names:
                pipe.hset(self._key("unknown", name), "ignored", 1)
            pipe.execute()

    def drop_unknown(self, names: Iterable[str]) -> int:
        """Forget these; how many there were."""
        gone = list(names)
        with self._store.link.errors():
            pipe = self._store.link.client.pipeline()
            for name in gone:
                pipe.delete(self._key("unknown", name)).zrem(self._key("unknowns"), name)
            return sum(pipe.execute()[::2])

    # Sightings

    def note(self, sighting: Sighting, ttl_s: float) -> None:
        """Keep that somebody was seen, for ``ttl_s``."""
        at, name = sighting.at.timestamp(), f"{sighting.id}|{sighting.subject_id}"
        with self._store.link.errors():
            pipe = self._store.link.client.pipeline()
            pipe.set(self._key("sighting", name), sighting.model_dump_json(), pxat=round((at + ttl_s) * 1000))
            for kind in self._lists(sighting):
                pipe.zadd(kind, {name: at}).zremrangebyscore(kind, "-inf", at - ttl_s)
            pipe.execute()

    def sightings(
        self, subject: str, stream: str, since_s: float, until_s: float, after: str, limit: int
    ) -> tuple[list[Sighting], str]:
        """A page of sightings, the latest first, and what to give as ``after`` for the next one; empty if none."""
        kind = self._key("seen", subject) if subject else self._key("at", stream) if stream else self._key("sightings")
        if not (after or "0").isdecimal():
            message = f"{after[:40]!r} is no page of sightings; give the `next` of the page before"
            raise InvalidError(message)
        begin, found = int(after or 0), list[Sighting]()
        while True:
            with self._store.link.errors():
                names = self._store.link.client.zrevrangebyscore(kind, until_s, since_s, begin, limit)
                kept = self._store.link.client.mget([self._key("sighting", n.decode()) for n in names]) if names else []
            for one in kept:
                begin += 1
                sighting = Sighting.model_validate_json(one) if one else None  # some are forgotten already
                if sighting and stream in {"", sighting.stream}:
                    found.append(sighting)
                if len(found) == limit:
                    return found, str(begin)
            if len(names) < limit:
                return found, ""

    # Explanations

    def explain(self, name: str, subject_id: str, told: Mapping[str, Any], ttl_s: float) -> None:
        """Keep why a face was taken for ``subject_id``."""
        key, store = self._key("explanation", name), self._store
        sealed = store.keys.seal(json.dumps(told).encode(), f"{store.namespace}/explanation/{name}".encode())
        with store.link.errors():
            pipe = store.link.client.pipeline()
            pipe.set(key, sealed, px=round(ttl_s * 1000))
            pipe.sadd(self._key("explained", subject_id), name).pexpire(
                self._key("explained", subject_id), round(ttl_s * 1000)
            )
            pipe.execute()

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
        opened: dict[str, Any] = json.loads(store.keys.open(kept, f"{store.namespace}/explanation/{name}".encode()))
        return opened

    # Of a subject

    def forget(self, subject_id: str) -> dict[str, int]:
        """Forget the sightings and explanations of a subject; how many there were."""
        link, seen, explained = self._store.link, self._key("seen", subject_id), self._key("explained", subject_id)
        with link.errors():
            names = [name.decode() for name in link.client.zrange(seen, 0, -1)]
            reasons = [name.decode() for name in link.client.smembers(explained)]
        found = self._sightings(names)
        with link.errors():
            pipe = link.client.pipeline()
            for name in reasons:
                pipe.delete(self._key("explanation", name))
            for name, sighting in found.items():
                pipe.delete(self._key("sighting", name))
                for kind in self._lists(sighting):
                    pipe.zrem(kind, name)
            pipe.delete(seen, explained)
            pipe.execute()
        return {"matches": len(found), "explanations": len(reasons)}

    def left(self, subject_id: str) -> int:
        """How many sightings and explanations of a subject are there."""
        with self._store.link.errors():
            client = self._store.link.client
            seen = client.zcard(self._key("seen", subject_id))
            return int(seen) + int(client.scard(self._key("explained", subject_id)))

    def rename(self, old: str, new: str, ttl_s: float) -> None:
        """What was seen of ``old`` was seen of ``new``."""
        with self._store.link.errors():
            names = [name.decode() for name in self._store.link.client.zrange(self._key("seen", old), 0, -1)]
        for sighting in self._sightings(names).values():
            self.note(sighting.model_copy(update={"subject_id": new}), ttl_s)
        self.forget(old)

    # Matchers

    def matchers(self, now_s: float, silent_s: float) -> list[MatcherView]:
        """Those that told of themselves in the last ``silent_s``; the others are struck off after an hour."""
        with self._store.link.errors():
            kept = self._store.link.client.hgetall(self._key("matchers"))
        told = {name.decode(): json.loads(text) for name, text in kept.items()}
        views = [MatcherView(n, t["version"], t["rows"], max(0.0, now_s - t["at"])) for n, t in told.items()]
        if gone := [view.name for view in views if view.silent_s > 3600]:
            with self._store.link.errors():
                self._store.link.client.hdel(self._key("matchers"), *gone)
        return [view for view in views if view.silent_s <= silent_s]

    def _sightings(self, names: Sequence[str]) -> dict[str, Sighting]:
        found: dict[str, Sighting] = {}
        for some in in_parts(names):
            with self._store.link.errors():
                kept = self._store.link.client.mget([self._key("sighting", name) for name in some])
            pairs = zip(some, kept, strict=True)
            found |= {name: Sighting.model_validate_json(one) for name, one in pairs if one}
        return found

    def _lists(self, sighting: Sighting) -> tuple[str, str, str]:
        seen, at = self._key("seen", sighting.subject_id), self._key("at", sighting.stream)
        return seen, at, self._key("sightings")

    def _hashes(self, kind: str, names: Sequence[str]) -> list[tuple[str, dict[bytes, bytes]]]:
        rows: list[tuple[str, dict[bytes, bytes]]] = []
        for some in in_parts(names):
            with self._store.link.errors():
                pipe = self._store.link.client.pipeline(transaction=False)
                for name in some:
                    pipe.hgetall(self._key(kind, name))
                rows += zip(some, pipe.execute(), strict=True)
        return rows

    def _forget_names(self, kind: str, names: Iterable[str]) -> None:
        if gone := list(names):
            with self._store.link.errors():
                self._store.link.client.zrem(self._key(kind), *gone)

    def _unknown(self, name: str, row: Mapping[bytes, bytes]) -> UnknownTrack:
        store = self._store
        photo = row.get(b"photo")
        return UnknownTrack(
            id=name,
            stream=row[b"stream"].decode(),
            vector=layout.opened_vector(row[b"vector"], name, store.keys, store.namespace),
            model=row[b"model"].decode(),
            quality=float(row[b"quality"]),
            masked=row[b"masked"] == b"1",
            seen=datetime.fromtimestamp(float(row[b"seen"]), UTC),
            ignored=row.get(b"ignored") == b"1",
            photo=layout.opened_photo(photo, name, store.keys, store.namespace) if photo else None,
        )
