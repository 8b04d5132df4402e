"""Who is known: the protocol that operators see, and the gallery that lives in memory."""

from pipeline.gallery.memory import MemoryGallery
from pipeline.gallery.protocol import Candidates, Gallery, Template
from pipeline.gallery.subjects import Limits

__all__ = ["Candidates", "Gallery", "Limits", "MemoryGallery", "Template"]
