"""What the doctor says of the gallery: whether Redis answers and keeps what it is told, and who follows it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing

from pipeline.commands.doctor import Finding
from pipeline.compute import Compute
from pipeline.errors import PipelineError
from pipeline.extras import remedy

FOR_EVER_S = 10.0**9


def check(compute: Compute) -> Iterator[Finding]:
    """The doctor's check, of the entry point ``omote.checks``; it does not depend on ``compute``."""
    if not os.environ.get("REDIS_URL"):
        yield Finding("gallery", "note", "not looked at: REDIS_URL is not set")
        return
    try:
        yield from gallery_findings(os.environ.get("OMOTE_GALLERY", "main"))
    except ImportError as error:
        yield Finding("gallery", "note", remedy(error))
    except PipelineError as error:
        yield Finding("gallery", "wrong", str(error))


def gallery_findings(namespace: str) -> Iterator[Finding]:
    """Redis, the keys, and who follows a gallery.

    Raises:
        GalleryError: Redis does not answer, or the keys are not those of the gallery.
    """
    from pipeline.edges.redis_link import redis_url  # noqa: PLC0415  (an extra)
    from pipeline.edges.redis_store import GalleryStore  # noqa: PLC0415
    from pipeline.edges.redis_tracks import TrackStore  # noqa: PLC0415
    from pipeline.gallery.keys import Keys  # noqa: PLC0415

    with closing(GalleryStore(redis_url(), Keys.from_environment(), namespace)) as store:
        people, templates = store.count()
        store.templates(store.template_ids()[:1])  # whether the keys open it
        yield Finding(
            "gallery", "ok", f"{namespace}: {people} subjects, {templates} templates, version {store.version()}"
        )
        if (how := store.durability()) != "always":
            text = f"Redis forces its file to the disk {how or 'never'}: set appendfsync to always to lose nothing"
            yield Finding("gallery", "note", text)
        for view in TrackStore(store).matchers(time.time(), FOR_EVER_S):
            late = view.version < store.version() or view.silent_s > 5
            text = f"matcher {view.name} holds version {view.version}, heard {view.silent_s:.0f} s ago"
            left_out = f"; {view.shut} templates are left out, for its keys do not open them" if view.shut else ""
            yield Finding("gallery", "note" if late or view.shut else "ok", text + left_out)
