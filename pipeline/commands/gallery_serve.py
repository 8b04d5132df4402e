"""``omote gallery serve``: the gallery's API by itself, without Ray."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from pipeline.commands.gallery_access import GRAPH, FacesOf, Namespace, RedisUrl, galleries_at
from pipeline.commands.terminal import console, plain


def serve(
    namespace: Namespace = "main",
    host: Annotated[str, typer.Option(help="Interface; OMOTE_GALLERY_HOST if not given.")] = "",
    port: Annotated[int, typer.Option(help="TCP port; OMOTE_GALLERY_PORT if not given.")] = 0,
    redis: RedisUrl = "",
    graph: FacesOf = GRAPH,
) -> None:
    """Serve CompreFace's REST API and our own, for every gallery that an API key names; until Ctrl-C."""
    from pipeline.edges.redis_api_keys import ApiKeys  # noqa: PLC0415  (an extra)
    from pipeline.edges.redis_link import redis_url  # noqa: PLC0415
    from pipeline.serving.gallery.access import Access  # noqa: PLC0415
    from pipeline.serving.gallery.app import door, gallery_api, server  # noqa: PLC0415
    from pipeline.serving.gallery.settings import GallerySettings  # noqa: PLC0415

    settings = GallerySettings.from_environment(**({"host": host} if host else {}), **({"port": port} if port else {}))
    galleries = galleries_at(redis, graph)
    with closing(galleries), closing(ApiKeys(redis_url(redis))) as keys, closing(door(settings)) as entrance:
        galleries.ready()
        service = galleries.of(namespace)  # who is not there is named before anybody asks
        galleries.sweep()
        scheme = "https" if settings.certificate else "http"
        people, templates = service.desk.store.count()
        where = f"{scheme}://{settings.host}:{settings.port}/api"
        console(errors=True).print(plain(f"{where}; {namespace} has {people} subjects with {templates} templates"))
        server(gallery_api(galleries.of, Access(keys), settings), settings).run([entrance])
