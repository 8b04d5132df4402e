"""What streams leave in the gallery: who was seen, why, and the faces that nobody knows; it never slows a stream."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.edges import Sink
from pipeline.edges.named_gallery import namespace_of
from pipeline.errors import PipelineError
from pipeline.gallery.subjects import NamespacePolicy, Sighting, UnknownTrack
from pipeline.identifiers import explanation_id
from pipeline.packets import Explanation, FeltFace
from pipeline.records import ExplanationRecord

MOST_WAITING = 2000  # the oldest give way: Redis is away
MOST_TRACKS = 10_000
POLICY_S = 10.0
RETRY_S = 0.5
CLOSE_S = 3.0

log = logging.getLogger(__name__)


class GallerySink(Sink[FeltFace | Explanation]):
    """Keeps sightings, explanations of matches, and unknown tracks in the namespace of the graph's gallery.

    It writes in a thread of its own: while Redis is away what is to be written waits, and the oldest is dropped where
    too much waits. What is written twice, for a stream was replayed, is there once. A gallery in a file keeps nothing.

    Attributes:
        dropped: How many were dropped.
    """

    def __init__(self, gallery: str = "") -> None:
        """Begin to write.

        Args:
            gallery: As the graph names it, see ``NamedGallery``.

        Raises:
            KeysError: There are no keys to seal with.
        """
        self.dropped = 0
        self._best: OrderedDict[str, float] = OrderedDict()
        self._waiting: deque[Callable[[Shelf], object]] = deque()
        self._changed, self._closing = threading.Condition(), False
        namespace = namespace_of(gallery)
        self._thread = None
        if namespace:
            self._thread = threading.Thread(target=self._work, args=(Shelf(namespace),), name="to-gallery", daemon=True)
            self._thread.start()

    def write(self, batch: Sequence[FeltFace | Explanation]) -> None:
        """Take what there is to keep; it is kept a moment later."""
        if self._thread is None:
            return
        for packet in batch:
            if isinstance(packet, Explanation):
                self._explained(packet)
            elif packet.first_match:
                self._seen(packet)
            elif packet.identity.decision == "unknown" and packet.embedding is not None:
                self._unknown(packet)

    def flush(self) -> None:
        """Nothing is waited for."""

    def close(self) -> None:
        """Write what waits, as far as Redis takes it soon."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _explained(self, packet: Explanation) -> None:
        if packet.kind == "match":
            told = ExplanationRecord.of(packet).model_dump(mode="json")
            self._put(lambda shelf: shelf.tracks.explain(packet.id, packet.target, told, shelf.policy.match_ttl_s))

    def _seen(self, face: FeltFace) -> None:
        said = face.identity
        sighting = Sighting(
            id=face.track_id,
            subject_id=said.subject_id,
            stream=face.stream,
            at=_taken(face),
            score=said.score,
            threshold=said.threshold,
            margin=said.margin,
            masked=said.masked,
            gallery_version=said.gallery_version,
            explanation=explanation_id(face.stream, face.epoch, face.seq, face.track_id, "match"),
        )
        self._put(lambda shelf: shelf.note(sighting))

    def _unknown(self, face: FeltFace) -> None:
        """Keep the best face of a track; those of little quality say little about whom it shows."""
        if face.embedding is None or face.quality.score <= self._best.get(face.track_id, 0.0):
            return
        self._best[face.track_id] = face.quality.score
        self._best.move_to_end(face.track_id)
        if len(self._best) > MOST_TRACKS:
            self._best.popitem(last=False)
        track = UnknownTrack(
            face.track_id,
            face.stream,
            face.embedding.vector,
            face.embedding.model,
            face.quality.score,
            masked=face.mask_probability >= 0.5,
            seen=_taken(face),
            photo=face.crop,
        )
        self._put(lambda shelf: shelf.keep(track))

    def _put(self, job: Callable[[Shelf], object]) -> None:
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(job)
            self._changed.notify()

    def _work(self, shelf: Shelf) -> None:
        while (job := self._next()) is not None:
            try:
                job(shelf)
            except PipelineError as error:
                log.warning("%d things wait for the gallery, %d dropped: %s", len(self._waiting), self.dropped, error)
                if self._closing:
                    break
                with self._changed:
                    self._waiting.appendleft(job)
                time.sleep(RETRY_S)
        shelf.close()

    def _next(self) -> Callable[[Shelf], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting.popleft() if self._waiting else None


def _taken(face: FeltFace) -> datetime:
    """When its picture was taken, or now where that is not known; a clock that is fast has nothing kept for longer."""
    now_s = time.time()
    return datetime.fromtimestamp(min(face.capture_ns / 1e9, now_s) if face.capture_ns > 0 else now_s, UTC)


class Shelf:
    """Where it is kept, and what the namespace allows."""

    def __init__(self, namespace: str) -> None:
        from pipeline.edges.redis_link import redis_url  # noqa: PLC0415  (an extra)
        from pipeline.edges.redis_store import GalleryStore  # noqa: PLC0415
        from pipeline.edges.redis_tracks import TrackStore  # noqa: PLC0415
        from pipeline.gallery.keys import Keys  # noqa: PLC0415

        self._store = GalleryStore(redis_url(), Keys.from_environment(), namespace)
        self.tracks, self._policy, self._asked_s = TrackStore(self._store), NamespacePolicy(), -POLICY_S

    @property
    def policy(self) -> NamespacePolicy:
        """What the namespace allows, some seconds ago at most."""
        if time.monotonic() - self._asked_s > POLICY_S:
            self._policy, self._asked_s = self._store.policy(), time.monotonic()
        return self._policy

    def note(self, sighting: Sighting) -> None:
        """Somebody was seen, who is no unknown track any more."""
        self.tracks.note(sighting, self.policy.match_ttl_s)
        self.tracks.drop_unknown([sighting.id])

    def keep(self, track: UnknownTrack) -> None:
        """Keep an unknown face; its crop only where photos are kept."""
        kept = track if self.policy.keep_photos else replace(track, photo=None)
        self.tracks.keep(kept, self.policy.unknown_ttl_s)

    def close(self) -> None:
        """End the connection."""
        self._store.close()
