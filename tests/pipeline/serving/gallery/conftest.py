"""The gallery and its API, for the tests beside this file."""

from __future__ import annotations

from tests.support.gallery import closing, gallery, gallery_service, open_gallery, served

__all__ = ["closing", "gallery", "gallery_service", "open_gallery", "served"]
