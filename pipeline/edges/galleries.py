"""Opens namespaces of the gallery for those who serve them: each once, with all that answers for it."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

from pydantic import SecretStr

from pipeline.edges.redis_audit import AuditLog
from pipeline.edges.redis_gallery import RedisFeed
from pipeline.edges.redis_store import GalleryStore
from pipeline.edges.redis_tracks import TrackStore
from pipeline.gallery.desk import Desk
from pipeline.gallery.faces import Faces
from pipeline.gallery.keys import Keys
from pipeline.gallery.matcher import Matcher
from pipeline.gallery.service import GalleryService


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
        self._lock = Lock()

    def of(self, namespace: str) -> GalleryService:
        """The gallery of a namespace.

        Raises:
            AwayError: It was not opened yet, and Redis does not answer.
        """
        with self._lock:
            if namespace not in self._opened:
                self._opened[namespace] = self._open(namespace)
            return self._opened[namespace]

    def opened(self) -> list[GalleryService]:
        """Those that were asked for."""
        with self._lock:
            return list(self._opened.values())

    def ready(self) -> None:
        """Load the nets, so that the first picture does not wait for them.

        Raises:
            PipelineError: They cannot be loaded.
        """
        self._faces.ready()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            for service in self._opened.values():
                service.close()
            self._opened.clear()
        self._faces.close()

    def _open(self, namespace: str) -> GalleryService:
        store = GalleryStore(self._url, self._keys, namespace)
        feed = RedisFeed(GalleryStore(self._url, self._keys, namespace), self._faces.model)
        matcher = Matcher(feed, namespace, later=self._later)
        log = AuditLog(self._url, namespace, self._keys)
        return GalleryService(Desk(store, TrackStore(store), matcher, self._faces, log, self._topics))
