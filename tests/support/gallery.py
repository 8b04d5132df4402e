"""Fixtures: a real gallery over a real Redis, with faces that are drawn in a moment; its API, and keys to it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from pydantic import SecretStr

from pipeline.edges.redis_api_keys import ApiKeys
from pipeline.edges.redis_audit import AuditLog
from pipeline.edges.redis_gallery import RedisFeed
from pipeline.edges.redis_store import GalleryStore
from pipeline.edges.redis_tracks import TrackStore
from pipeline.gallery.desk import Desk
from pipeline.gallery.errors import AwayError
from pipeline.gallery.keys import Keys
from pipeline.gallery.matcher import Matcher
from pipeline.gallery.service import GalleryService
from pipeline.packets import EmbeddedFace, Embedding, Pixels, Quality
from pipeline.serving.gallery.access import Access
from pipeline.serving.gallery.app import gallery_api
from pipeline.serving.gallery.settings import GallerySettings
from pipeline.testing import make_grown
from tests.support.api_client import Client

SIDE = 32  # pixels of a drawn face


class DrawnFaces:
    """Finds squares of one colour on black: each is a face, each colour a person; a dark one is blurred."""

    model = "mobilefacenet"

    def of(self, picture: Pixels, least_score: float = 0.0) -> list[EmbeddedFace]:
        cells = [
            (x, y)
            for y in range(0, picture.shape[0] - SIDE + 1, SIDE)
            for x in range(0, picture.shape[1] - SIDE + 1, SIDE)
            if picture[y + SIDE // 2, x + SIDE // 2].max() > 40
        ]
        return [self._face(picture, *cell) for cell in cells] if least_score <= 0.9 else []

    def vectors(self, crops: Sequence[Pixels]) -> np.ndarray:
        return np.array([likeness(crop[64, 64]) for crop in crops])

    def close(self) -> None:
        pass

    def _face(self, picture: Pixels, x: int, y: int) -> EmbeddedFace:
        colour = picture[y + SIDE // 2, x + SIDE // 2]
        poor = colour.max() < 100
        quality = Quality(0.1 if poor else 0.9, 0.1, 0.0, float(SIDE), ("blurred",) if poor else ())
        embedding = None if poor else Embedding(likeness(colour), (), "", 0)
        return make_grown(
            EmbeddedFace,
            box=np.array([x, y, x + SIDE, y + SIDE], np.float32),
            score=0.9,
            crop=np.full((128, 128, 3), colour, np.uint8),
            quality=quality,
            mask_probability=0.02,
            embedding=embedding,
        )


def likeness(colour: Sequence[int]) -> np.ndarray:
    """The vector of a colour, (512,) float32: the same for colours that differ by what a JPEG makes of them."""
    seed = [round(int(part) / 32) for part in colour]
    vector = np.random.default_rng(seed).standard_normal(512)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@contextmanager
def away(service: GalleryService, call: str) -> Iterator[None]:
    """Redis goes away at this call of what changes the things that streams leave."""

    def gone(*asked: object) -> int:
        message = "Redis is away"
        raise AwayError(message)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(service.desk.tracks, call, gone)
        with pytest.raises(AwayError):
            yield


def drawing(*colours: tuple[int, int, int], kind: str = "PNG") -> bytes:
    """A picture file with one drawn face of each colour, side by side."""
    canvas = np.zeros((SIDE * 2, SIDE * max(2, len(colours)), 3), np.uint8)
    for number, colour in enumerate(colours):
        canvas[:SIDE, SIDE * number : SIDE * (number + 1)] = colour
    file = BytesIO()
    Image.fromarray(canvas).save(file, kind)
    return file.getvalue()


@dataclass
class Api:
    """The API of one namespace that nobody else has."""

    app: FastAPI
    keys: ApiKeys
    service: GalleryService

    def __post_init__(self) -> None:
        self._client = Client(self.app)
        self._keys: dict[tuple[Any, ...], str] = {}

    def key(self, role: str = "admin", **more: Any) -> str:
        """A key of a role."""
        name = (role, *sorted(more.items()))
        if name not in self._keys:
            given = {"namespace": self.service.desk.store.namespace, "per_minute": 100_000, **more}
            self._keys[name] = self.keys.new(role, role, **given)[0]
        return self._keys[name]

    def ask(self, method: str, path: str, role: str = "operator", **more: Any) -> httpx.Response:
        headers = {"x-api-key": self.key(role), **more.pop("headers", {})}
        return self._client.ask(method, f"/api{path}", headers=headers, **more)

    def bare(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Without a key."""
        return self._client.ask(method, path, **more)

    def enrol(self, subject: str, *colours: tuple[int, int, int]) -> httpx.Response:
        return self.ask("POST", f"/v2/subjects/{subject}/faces", files={"file": drawing(*colours)})

    def written(self) -> tuple[Any, ...]:
        """What stands in the gallery; the audit log aside."""
        store = self.service.desk.store
        return store.version(), store.count(), store.policy()


@pytest.fixture(scope="session")
def closing() -> Iterator[ThreadPoolExecutor]:
    """Closes what tests have opened while the next ones run: a matcher ends when its wait for changes does."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def open_gallery(redis_url: str, closing: ThreadPoolExecutor) -> Iterator[Callable[..., GalleryService]]:
    """``open_gallery()`` opens a new namespace; ``open_gallery(faces, url)`` with other faces, or elsewhere."""
    opened: list[GalleryService] = []
    own = Keys.new()

    def make(faces: Any = None, url: str = redis_url, namespace: str = "", keys: Keys = own) -> GalleryService:
        address, name = SecretStr(url), namespace or f"t{uuid4().hex[:10]}"
        store = GalleryStore(address, keys, name)
        matcher = Matcher(RedisFeed(GalleryStore(address, keys, name)), name)
        desk = Desk(store, TrackStore(store), matcher, faces or DrawnFaces(), AuditLog(address, name, keys))
        opened.append(GalleryService(desk))
        return opened[-1]

    yield make
    for service in opened:
        closing.submit(service.close)


@pytest.fixture
def gallery_service(open_gallery: Callable[..., GalleryService]) -> GalleryService:
    return open_gallery()


@pytest.fixture(scope="session")
def served(redis_url: str) -> Iterator[tuple[FastAPI, ApiKeys, dict[str, GalleryService]]]:
    """One API for all tests, its keys, and the galleries that it finds by their namespaces."""
    services: dict[str, GalleryService] = {}
    keys = ApiKeys(SecretStr(redis_url))
    app = gallery_api(services.__getitem__, Access(keys), GallerySettings())
    yield app, keys, services
    keys.close()
    app.state.serving.threads.close()


@pytest.fixture
def gallery(
    gallery_service: GalleryService, served: tuple[FastAPI, ApiKeys, dict[str, GalleryService]]
) -> Iterator[Api]:
    """The API of a namespace that nobody else has."""
    app, keys, services = served
    namespace = gallery_service.desk.store.namespace
    services[namespace] = gallery_service
    yield Api(app, keys, gallery_service)
    for key in keys.list(namespace):
        keys.revoke(key.id)
    del services[namespace]


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
