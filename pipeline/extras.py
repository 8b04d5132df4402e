"""Packages that only some of omote needs, and what installs them."""

from __future__ import annotations

EXTRAS = {
    "kafka": ("kafka",),
    "gallery": ("redis", "cryptography", "fastapi", "uvicorn"),
    "ray": ("ray", "httpx", "starlette"),
}


def remedy(error: Exception) -> str:
    """What to do about a package that could not be imported, in a sentence; any other error as Python tells it."""
    package = str(getattr(error, "name", "") or "").partition(".")[0]
    extra = next((name for name, packages in EXTRAS.items() if package in packages), "")
    return f"{package} is not installed here: install omote[{extra}]" if extra else str(error)
