"""The gallery that a graph names: a namespace in Redis, or a file."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import GraphError
from pipeline.extras import remedy
from pipeline.gallery import Candidates, Gallery, MemoryGallery
from pipeline.gallery.protocol import MODEL
from pipeline.packets import Floats, Pixels
from pipeline.policy import Policy

IN_REDIS = "redis:"


class NamedGallery:
    """``redis:<namespace>``, which follows every change; or the path of a file of `omote enrol`, read once.

    Attributes:
        model: Name of the net that made the templates.
    """

    def __init__(self, at: str = "", top: int = 5, model: str = MODEL, policy: Policy | None = None) -> None:
        """Open it; nobody is known if ``at`` is empty.

        Args:
            at: Which gallery.
            top: Most subjects of an answer.
            model: Name of the net that embeds the faces; templates of others are left out.
            policy: Whoever is not to be found for its purpose is left out.

        Raises:
            SourceError: The file is not a gallery.
            GalleryError: Redis does not answer, or there are no keys for what lies there.
            GraphError: What speaks with Redis is not installed.
        """
        self.model = model
        self._gallery = _opened(at, top, model, policy.purpose if policy else None)

    @property
    def lost(self) -> int:
        """See ``Gallery``."""
        return self._gallery.lost

    def match(self, vectors: Floats, masked: Sequence[bool]) -> list[Candidates]:
        """See ``Gallery``."""
        return self._gallery.match(vectors, masked)

    def template(self, subject_id: str) -> Floats | None:
        """See ``Gallery``."""
        return self._gallery.template(subject_id)

    def photo(self, subject_id: str) -> Pixels | None:
        """See ``Gallery``."""
        return self._gallery.photo(subject_id)

    def close(self) -> None:
        """See ``Gallery``."""
        self._gallery.close()


def namespace_of(at: str) -> str:
    """The namespace that ``redis:<namespace>`` names; empty for a file."""
    return at.removeprefix(IN_REDIS) if at.startswith(IN_REDIS) else ""


def _opened(at: str, top: int, model: str, purpose: str | None) -> Gallery:
    if not (namespace := namespace_of(at)):
        return MemoryGallery(at, top=top, model=model)
    try:
        from pipeline.edges.redis_gallery import RedisGallery  # noqa: PLC0415  (an extra)
    except ImportError as error:
        message = f"no gallery in Redis can be read: {remedy(error)}"
        raise GraphError(message) from error
    return RedisGallery(namespace, model, top, purpose)
