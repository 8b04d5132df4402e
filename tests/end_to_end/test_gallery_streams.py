"""Streams against a gallery in Redis: who is enrolled is known a moment later, who is deleted no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from uuid import uuid4

import cv2
import numpy as np
import pytest
from pydantic import SecretStr

from pipeline.edges.galleries import Galleries
from pipeline.gallery.faces import Faces
from pipeline.gallery.keys import FILE_VARIABLE, Keys, KeysError
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller
from pipeline.graph import Graph, load
from pipeline.packets import BareFace, FeltFace, Pixels
from pipeline.runners.local import run_local
from pipeline.testing import MemorySource, raw_chunks
from pipeline.walk import Journey, Walk
from tests.support.serving import Cast

pytestmark = [pytest.mark.usefixtures("weights_ready")]

GRAPH = Path(__file__).parents[2] / "deploy" / "graphs" / "faces.yaml"
OPERATOR = Caller("test", "admin", "test")
KNOWN, STRANGER = "George_W_Bush", "Serena_Williams"
Records = list[tuple[str, str]]


@pytest.fixture
def gallery(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[GalleryService, Graph]]:
    """A namespace of its own, and the production graph that matches with it."""
    namespace, file = f"t{uuid4().hex[:8]}", tmp_path / "keys.json"
    Keys.new().write(file)
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    monkeypatch.setenv("REDIS_URL", redis_url)
    graph = load(GRAPH, {"gallery": f"redis:{namespace}"})
    with closing(Galleries(SecretStr(redis_url), Keys.from_environment(), Faces(lambda: graph))) as galleries:
        yield galleries.of(namespace), graph.only_sinks(["gallery", "reasons"])


def shown(face: Pixels) -> Pixels:
    """A face, (128, 128, 3) uint8 BGR, in a picture of a camera, RGB."""
    canvas = np.full((360, 640, 3), 96, np.uint8)
    canvas[90:290, 200:400] = cv2.resize(face, (200, 200))
    return np.ascontiguousarray(canvas[..., ::-1])


def film(people: Cast, name: str, frames: int = 32) -> MemorySource:
    faces = people.faces[name]
    return MemorySource(raw_chunks([shown(faces[n // 16 % len(faces)]) for n in range(frames)], stream=name))


def decisions(graph: Graph, source: MemorySource) -> Records:
    """The decision on each face, and the subject."""
    found: Records = []

    def arrived(journey: Journey, walk: Walk) -> None:
        del walk
        faces = [packet for packet in journey.out["emotion"] if isinstance(packet, FeltFace)]
        found.extend((face.identity.decision, face.identity.subject_id) for face in faces)

    run_local(graph, source, on_journey=arrived)
    return found


def enrol(service: GalleryService, people: Cast, name: str) -> None:
    picture = cv2.resize(people.faces[name][0], None, fx=2, fy=2)
    service.enrol(OPERATOR, name, np.ascontiguousarray(picture[..., ::-1]), keep_photo=True)


def eventually(ask: Callable[[], object], limit_s: float = 10) -> None:
    until = time.monotonic() + limit_s
    while not ask():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


def test_a_life_in_the_gallery(gallery: tuple[GalleryService, Graph], people: Cast) -> None:
    service, graph = gallery
    enrol(service, people, KNOWN)

    assert ("known", KNOWN) in decisions(graph, film(people, KNOWN))
    assert not [said for said in decisions(graph, film(people, STRANGER)) if said[0] == "known"]

    eventually(lambda: service.matches(OPERATOR, subject=KNOWN).sightings)
    (sighting,) = service.matches(OPERATOR, stream=KNOWN).sightings
    assert (sighting.subject_id, sighting.stream) == (KNOWN, KNOWN)
    assert sighting.score >= sighting.threshold

    eventually(lambda: service.clusters(OPERATOR))
    (cluster,) = service.clusters(OPERATOR)
    service.assign(OPERATOR, cluster.id, STRANGER)
    assert ("known", STRANGER) in decisions(graph, film(people, STRANGER))
    assert service.clusters(OPERATOR) == []

    said = service.erase(OPERATOR, KNOWN).receipt
    assert (said.removed.vectors, said.removed.photos, said.removed.matches) == (1, 1, 1)
    assert said.removed.explanations >= 1
    assert not [found for found in decisions(graph, film(people, KNOWN)) if found[0] == "known"]
    assert service.matches(OPERATOR, subject=KNOWN).sightings == ()
    assert service.erasure(OPERATOR, said.id).holds
    assert service.verify_audit(OPERATOR) == []


def test_whoever_comes_and_goes_while_a_stream_runs_is_known_and_forgotten_within_a_second(
    gallery: tuple[GalleryService, Graph], people: Cast
) -> None:
    service, graph = gallery
    matcher = graph.build_stage("embed")
    with closing(matcher):
        picture = shown(people.faces[KNOWN][1])
        (seen,) = service.desk.faces.of(picture)
        face = BareFace(**{field.name: getattr(seen, field.name) for field in fields(BareFace)})

        def best() -> str:
            (answer,) = matcher([face])
            candidates = answer.embedding.candidates
            return candidates[0].subject_id if candidates else ""

        assert best() == ""
        enrol(service, people, KNOWN)
        began = time.monotonic()
        eventually(lambda: best() == KNOWN, 1)
        service.erase(OPERATOR, KNOWN)
        eventually(lambda: best() == "", 1)
        assert time.monotonic() - began < 5


def test_a_graph_without_keys_says_what_to_do(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    for name in (FILE_VARIABLE, "OMOTE_GALLERY_KEYS"):
        monkeypatch.delenv(name, raising=False)
    graph = load(GRAPH, {"gallery": "redis:main"})
    with pytest.raises(KeysError, match=r"omote gallery keys new"):
        graph.build_stage("embed")
