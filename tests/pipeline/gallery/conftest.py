"""A gallery that knows two people, for the tests of this room."""

from __future__ import annotations

import pytest

from pipeline.gallery.service import GalleryService
from tests.support.gallery_asked import GREEN, OPERATOR, RED, picture


@pytest.fixture
def service(gallery_service: GalleryService) -> GalleryService:
    gallery_service.enrol(OPERATOR, "red", picture(RED), keep_photo=True)
    gallery_service.enrol(OPERATOR, "green", picture(GREEN))
    return gallery_service
