"""Opens namespaces of the gallery for those who serve them: each once, with all that answers for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from threading import Event, Lock, Thread

from pydantic import SecretStr

from pipeline.edges.redis_audit import AuditLog
from pipeline.edges.redis_gallery import RedisFeed
from pipeline.edges.redis_link import RedisLink
from pipeline.edges.redis_reading import NAMESPACES
from pipeline.edges.redis_store import GalleryStore
from pipeline.edges.redis_tracks import TrackStore
from pipeline.gallery.desk import JANITOR, Desk
from pipeline.gallery.errors import AwayError, GalleryError
from pipeline.gallery.faces import Faces
from pipeline.gallery.keys import Keys
from pipeline.gallery.matcher import Matcher
from pipeline.gallery.service import GalleryService

SWEEP_S = 60.0  # how often those whose date has passed are forgotten; from that date on they are not matched

log = logging.getLogger(__name__)


class Galleries:
    """The namespaces of one Redis. Safe to use from many threads."""

    def __init__(
        self,
        url: SecretStr,
        keys: Keys,
        faces: Faces,
        topics: Mapping[str, float] | None = None,
        *,
        later: bool = False,
    ) -> None:
        """Nothing is opened before it is asked for.

        Args:
            url: Where Redis is.
            keys: What seals and signs.
            faces: What finds and embeds faces; closed with the galleries.
            topics: How long messages that may name subjects stay, seconds by topic.
            later: Whether templates are read only when something is to be matched.
        """
        self._url, self._keys, self._faces, self._topics, self._later = url, keys, faces, dict(topics or {}), later
        self._opened: dict[str, GalleryService] = {}
        self._lock, self._openings = Lock(), dict[str, Lock]()
        self._over, self._janitor = Event(), Thread(target=self._sweep, name="expiry", daemon=True)
        self._every_s = SWEEP_S

    def of(self, namespace: str) -> GalleryService:
        """The gallery of a namespace.

        Raises:
            AwayError: It was not opened yet, and Redis does not answer.
        """
        with self._lock:
            opening = self._openings.setdefault(namespace, Lock())
        with opening:  # who asks for another namespace does not wait for this one
            if namespace not in self._opened:
                self._opened[namespace] = self._open(namespace, later=self._later)
            return self._opened[namespace]

    def sweep(self, every_s: float = SWEEP_S) -> None:
        """From now on forget those whose date has passed, in every namespace of this Redis, opened or not.

        Erasures and renamings that were interrupted are finished, too.

        Any number of processes may do so at once.
        """
        self._every_s = every_s
        self._janitor.start()

    def ready(self) -> None:
        """Load the nets, so that the first picture does not wait for them.

        Raises:
            PipelineError: They cannot be loaded.
        """
        self._faces.ready()

    def close(self) -> None:
        """Close all of them."""
        self._over.set()
        if self._janitor.is_alive():
            self._janitor.join()
        with self._lock:
            for service in self._opened.values():
                service.close()
            self._opened.clear()
        self._faces.close()

    def _sweep(self) -> None:
        with closing(RedisLink(self._url, AwayError, text=True)) as link:
            while not self._over.wait(self._every_s):
                try:
                    for namespace in self._namespaces(link):
                        self._forget_expired(namespace)
                except AwayError as error:
                    log.warning("who has expired is not forgotten yet: %s", error)

    def _namespaces(self, link: RedisLink) -> Iterator[str]:
        with link.errors():
            kept = set(link.client.sscan_iter(NAMESPACES))
        return (each for each in sorted(kept | set(self._opened)) if not self._over.is_set())

    def _forget_expired(self, namespace: str) -> None:
        """Do what is left to do; a namespace that nobody asked for is opened only where there is something."""
        try:
            with closing(GalleryStore(self._url, self._keys, namespace)) as store:
                if not (store.expired(time.time()) or store.erasing() or store.renamed()):
                    return
            with closing(self._open(namespace, later=True)) as service:
                service.forget_expired(JANITOR, self._over.is_set)
        except AwayError:
            raise
        except (GalleryError, ValueError) as error:  # this one waits, and the others do not
            log.warning("who has expired in %r is not forgotten yet: %s", namespace, error)

    def _open(self, namespace: str, *, later: bool) -> GalleryService:
        store = GalleryStore(self._url, self._keys, namespace)
        feed = RedisFeed(GalleryStore(self._url, self._keys, namespace), self._faces.model)
        matcher = Matcher(feed, namespace, later=later)
        audit = AuditLog(self._url, namespace, self._keys)
        return GalleryService(Desk(store, TrackStore(store), matcher, self._faces, audit, self._topics))
