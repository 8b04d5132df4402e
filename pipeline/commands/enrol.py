"""``omote enrol``: put people into a gallery from a folder of folders of photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.commands.options import GraphFile, Values, loaded
from pipeline.edges import Source
from pipeline.edges.files import STILLS
from pipeline.errors import PolicyError, SourceError
from pipeline.gallery import MemoryGallery, Template
from pipeline.graph import Graph
from pipeline.packets import Chunk, Codec, EmbeddedFace, Unit
from pipeline.runners.local import run_local
from pipeline.walk import Journey, Walk


def enrol(
    graph: GraphFile,
    photos: Annotated[Path, typer.Argument(help="A folder with one folder of photos for each person.")],
    into: Annotated[Path, typer.Option(help="The gallery file to write.")],
    variables: Values = None,
    keep_photos: Annotated[bool, typer.Option(help="Keep the aligned crops, so that reports can show them.")] = False,
) -> None:
    """Enrol everybody in a folder of folders; say which photos were refused and why."""
    declared = loaded(graph, variables)
    if not declared.policy.identification:
        message = f"{graph}: enrolment needs policy.identification and a purpose; set them in the graph"
        raise PolicyError(message)
    gallery, refused = enrolled(declared, photos, keep_photos=keep_photos)
    gallery.save(into)
    console = Console(stderr=True)
    table = Table("person", "photo", "refused because", box=None)
    for photo, reason in refused.items():
        table.add_row(photo.parent.name, photo.name, reason)
    if refused:
        console.print(table)
    names = ", ".join(gallery.subjects)
    console.print(f"{gallery.version} templates of {len(gallery.subjects)} people ({names}) in {into}", highlight=False)


def enrolled(graph: Graph, photos: Path, *, keep_photos: bool) -> tuple[MemoryGallery, dict[Path, str]]:
    """A gallery of everybody under ``photos``, and the photos that were refused with the reason.

    The photos go through the part of ``graph`` that ends with its ``embed`` stage.

    Raises:
        SourceError: There is no photo, or none of them could be used.
    """
    source = Photos(photos)
    faces: dict[str, list[EmbeddedFace]] = {}
    seen: Counter[str] = Counter()

    def arrived(journey: Journey, walk: Walk) -> None:
        del walk
        stream = journey.chunk.stream
        faces[stream] = [p for p in journey.out["embed"] if isinstance(p, EmbeddedFace)]
        seen[stream] += journey.frames

    run_local(graph.up_to("embed"), source, on_journey=arrived)
    verdicts = {photo: _verdict(faces[key], seen[key]) for key, photo in source.photos.items()}
    good = {photo: face for photo, face in verdicts.items() if isinstance(face, EmbeddedFace)}
    refused = {photo: reason for photo, reason in verdicts.items() if isinstance(reason, str)}
    if not good:
        first, reason = next(iter(refused.items()))
        message = f"none of the {len(refused)} photos under {photos} can be enrolled; {first.name}: {reason}"
        raise SourceError(message)
    templates = [_template(photo, face, keep_photos=keep_photos) for photo, face in good.items()]
    gallery = MemoryGallery(model=templates[0].model)
    gallery.enrol(templates)
    return gallery, refused


def _verdict(faces: list[EmbeddedFace], pictures: int) -> EmbeddedFace | str:
    """The face to enrol, or why there is none."""
    if not pictures:
        return "no picture that can be read"
    if len(faces) != 1:
        return "no face" if not faces else f"{len(faces)} faces; crop it to one"
    if faces[0].embedding is None:
        return ", ".join(faces[0].quality.reasons) or "no vector"
    return faces[0]


def _template(photo: Path, face: EmbeddedFace, *, keep_photos: bool) -> Template:
    masked = face.mask_probability >= 0.5
    if face.embedding is None:
        message = f"{photo} has no vector"
        raise SourceError(message)
    kept = face.crop if keep_photos else None
    model = face.embedding.model
    return Template(photo.parent.name, face.embedding.vector, face.quality.score, masked, kept, model=model)


class Photos(Source):
    """Photos of people, each one a stream of its own.

    Attributes:
        photos: The files by the id of their stream.
    """

    def __init__(self, folder: Path) -> None:
        """List the folders.

        Raises:
            SourceError: There is no folder of photos in ``folder``.
        """
        listed = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in STILLS)
        if not listed:
            message = f"{folder} holds no folder of photos; enrol expects {folder}/<person>/<photo>.jpg"
            raise SourceError(message)
        self.photos = {f"{photo.parent.name}/{photo.name}": photo for photo in listed}
        self.expected_frames = len(listed)

    def __iter__(self) -> Iterator[Chunk]:
        for stream, photo in self.photos.items():
            unit = Unit(photo.read_bytes(), 0, 0, keyframe=True)
            yield Chunk(stream, 0, 0, 0, Codec("still"), (unit,), closed=True, last=True)

    def commit(self, chunk: Chunk) -> None:
        """A folder keeps no position."""

    def close(self) -> None:
        """Nothing is held open."""
