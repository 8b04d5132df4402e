"""``omote gallery serve``: the gallery's API by itself, without Ray."""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pipeline.commands.gallery_access import GRAPH, FacesOf, Namespace, RedisUrl, console, galleries_at
from pipeline.errors import GraphError
from pipeline.gallery.errors import GalleryError
from pipeline.gallery.subjects import Caller

if TYPE_CHECKING:
    from pipeline.edges.galleries import Galleries

EXPIRY_S = 60.0  # how often those whose date has passed are forgotten

log = logging.getLogger(__name__)


def serve(
    namespace: Namespace = "main",
    host: Annotated[str, typer.Option(help="Interface; OMOTE_GALLERY_HOST if not given.")] = "",
    port: Annotated[int, typer.Option(help="TCP port; OMOTE_GALLERY_PORT if not given.")] = 0,
    redis: RedisUrl = "",
    graph: FacesOf = GRAPH,
) -> None:
    """Serve CompreFace's REST API and our own, for every gallery that an API key names; until Ctrl-C."""
    try:
        from pipeline.edges.redis_api_keys import ApiKeys  # noqa: PLC0415  (an extra)
        from pipeline.edges.redis_link import redis_url  # noqa: PLC0415
        from pipeline.serving.gallery.access import Access  # noqa: PLC0415
        from pipeline.serving.gallery.app import gallery_api, server  # noqa: PLC0415
        from pipeline.serving.gallery.settings import GallerySettings  # noqa: PLC0415
    except ImportError as error:
        message = f"{error.name} is not installed here: install omote[gallery]"
        raise GraphError(message) from error
    settings = GallerySettings.from_environment(**({"host": host} if host else {}), **({"port": port} if port else {}))
    galleries = galleries_at(redis, graph)
    with closing(galleries), closing(ApiKeys(redis_url(redis))) as keys:
        galleries.ready()
        service = galleries.of(namespace)  # who is not there is named before anybody asks
        over = threading.Event()
        janitor = threading.Thread(target=_forget_expired, args=(galleries, over), name="expiry", daemon=True)
        janitor.start()
        scheme = "https" if settings.certificate else "http"
        people, templates = service.desk.store.count()
        where = f"{scheme}://{settings.host}:{settings.port}/api"
        console(errors=True).print(Text(f"{where}; {namespace} has {people} subjects with {templates} templates"))
        try:
            server(gallery_api(galleries.of, Access(keys), settings), settings).run()
        finally:
            over.set()
            janitor.join()


def _forget_expired(galleries: Galleries, over: threading.Event) -> None:
    """Forget those whose date has passed; matchers do not match them from that date on."""
    caller = Caller("expiry", "operator")
    while not over.wait(EXPIRY_S):
        for service in galleries.opened():
            try:
                service.forget_expired(caller)
            except GalleryError as error:
                log.warning("who has expired is not forgotten yet: %s", error)
