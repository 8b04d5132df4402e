"""Streams against a gallery in Redis: who is enrolled is known a moment later, who is deleted no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
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
from pipeline.gallery.subjects import Caller, Limits, NamespacePolicy
from pipeline.graph import Graph, load
from pipeline.packets import BareFace, Chunk, FeltFace, Identity, Pixels
from pipeline.runners.local import run_local
from pipeline.testing import MemorySource, raw_chunks
from pipeline.walk import Journey, Walk
from tests.support.serving import Cast

pytestmark = [pytest.mark.usefixtures("weights_ready")]

GRAPH = Path(__file__).parents[2] / "deploy" / "graphs" / "faces.yaml"
OPERATOR = Caller("test", "admin", "test")
KNOWN, STRANGER = "George_W_Bush", "Serena_Williams"
TAKEN = datetime.now(UTC) - timedelta(hours=1)
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
    chunks = raw_chunks([shown(faces[n // 16 % len(faces)]) for n in range(frames)], stream=name)
    taken_ns = round(TAKEN.timestamp() * 1e9)
    return MemorySource([replace(chunk, capture_ns=taken_ns + chunk.pts_ns) for chunk in chunks])


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
    assert abs(sighting.at - TAKEN) < timedelta(seconds=2)

    assert service.desk.tracks.explanation(sighting.explanation)["target"] == KNOWN

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


SCENE = 12  # frames


def scenes(graph: Graph, people: Cast, *between: Callable[[], object]) -> list[list[Identity]]:
    """A stream that shows somebody all the time: who it is, in the embedded faces of each scene.

    The frames of a scene are read once what comes before it is done and every matcher knows of it.
    """
    often = graph.stages["track"].model_copy(update={"args": {"first_shots": 1000, "shot_every_s": 0.1}})
    hasty = replace(graph, stages={**graph.stages, "track": often}, sinks={})
    pictures = [shown(people.faces[KNOWN][1])] * SCENE * (len(between) + 1)

    def chunks() -> Iterator[Chunk]:
        for number, chunk in enumerate(raw_chunks(pictures, stream=KNOWN, units=SCENE)):
            if number:
                between[number - 1]()
            yield chunk

    found: list[list[Identity]] = []

    def arrived(journey: Journey, walk: Walk) -> None:
        del walk
        faces = [packet for packet in journey.out["emotion"] if isinstance(packet, FeltFace)]
        found.append([face.identity for face in faces if face.embedding is not None])

    run_local(hasty, MemorySource(chunks()), threads=0, on_journey=arrived)
    assert all(found)
    return [said for said in found if said]


def known_by_all(service: GalleryService, change: Callable[[], object]) -> Callable[[], None]:
    """``change``, and the moment until every matcher has seen it."""

    def act() -> None:
        change()
        version, tracks = service.desk.store.version(), service.desk.tracks
        eventually(lambda: all(each.version >= version for each in tracks.matchers(time.time(), 5)), 1)

    return act


def names(scene: list[Identity]) -> set[str]:
    return {said.subject_id for said in scene}


def test_who_is_renamed_or_erased_while_a_stream_shows_them_is_called_so_no_more(
    gallery: tuple[GalleryService, Graph], people: Cast
) -> None:
    service, graph = gallery
    enrol(service, people, KNOWN)
    before, renamed, erased = scenes(
        graph,
        people,
        known_by_all(service, lambda: service.rename(OPERATOR, KNOWN, "the president")),
        known_by_all(service, lambda: service.erase(OPERATOR, "the president")),
    )
    assert before[-1].subject_id == KNOWN
    assert names(renamed) == {"", "the president"}
    assert renamed[-1].subject_id == "the president"
    assert names(erased) == {""}


def test_who_is_enrolled_while_a_stream_shows_them_is_known_at_the_second_face(
    gallery: tuple[GalleryService, Graph], people: Cast
) -> None:
    service, graph = gallery
    *_, unknown, enrolled = scenes(
        graph, people, *[lambda: None] * 3, known_by_all(service, lambda: enrol(service, people, KNOWN))
    )
    assert {said.decision for said in unknown} == {"unknown"}
    assert [(said.decision, said.subject_id) for said in enrolled[:2]] == [("not_evaluated", ""), ("known", KNOWN)]


def test_who_is_not_to_be_found_any_more_for_the_purpose_of_the_graph_is_not_named_by_it(
    gallery: tuple[GalleryService, Graph], people: Cast
) -> None:
    service, graph = gallery
    enrol(service, people, KNOWN)

    def only_for(*purposes: str) -> Callable[[], None]:
        return known_by_all(service, lambda: service.change_subject(OPERATOR, KNOWN, purposes=purposes))

    first, other, again, withdrawn = scenes(
        graph,
        people,
        only_for("research"),
        only_for("research", graph.policy.purpose),
        known_by_all(service, lambda: service.change_subject(OPERATOR, KNOWN, consent="withdrawn")),
    )
    assert first[-1].subject_id == KNOWN
    assert names(other) == {""}
    assert again[-1].subject_id == KNOWN
    assert names(withdrawn) == {""}


def test_limits_that_the_gallery_sets_hold_in_the_stream_that_runs(
    gallery: tuple[GalleryService, Graph], people: Cast
) -> None:
    service, graph = gallery
    enrol(service, people, KNOWN)

    def held_against(limits: Limits) -> Callable[[], None]:
        def act() -> None:
            service.set_policy(OPERATOR, NamespacePolicy(limits=limits))
            time.sleep(1.2)  # a matcher asks at least once a second

        return act

    first, strict, mild = scenes(
        graph, people, held_against(Limits(threshold=0.95)), held_against(Limits(threshold=0.45))
    )
    assert (first[-1].decision, first[-1].threshold) == ("known", 0.40)
    assert {(said.decision, said.threshold) for said in strict} == {("unknown", 0.95)}
    assert {(said.decision, said.threshold) for said in mild} == {("known", 0.45)}


def test_a_graph_without_keys_says_what_to_do(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    for name in (FILE_VARIABLE, "OMOTE_GALLERY_KEYS"):
        monkeypatch.delenv(name, raising=False)
    graph = load(GRAPH, {"gallery": "redis:main"})
    with pytest.raises(KeysError, match=r"omote gallery keys new"):
        graph.build_stage("embed")
