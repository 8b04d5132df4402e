"""What a test does where something it needs is missing."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip; where everything must be there (``OMOTE_REQUIRE_ALL``), fail."""
    (pytest.fail if os.environ.get("OMOTE_REQUIRE_ALL") else pytest.skip)(what)
