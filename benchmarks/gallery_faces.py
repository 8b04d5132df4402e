"""Vectors of the aligned faces of LFW, bare and behind drawn masks, made as enrolment makes them; kept in the cache.

Each picture is enlarged to 256x256 and goes through the detector, the alignment, the quality gate, the mask classifier
and the identity net; its name says who it is, and nothing else. Masks are the photographed ones of the training data,
drawn on the picture before the detector sees it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from operators import weights
from operators.align import TEMPLATE
from operators.detect import Detect
from operators.embed import Embed
from operators.quality import Gate
from operators.unmask import Unmask
from pipeline.compute import Compute
from pipeline.packets import BareFace, Face, Floats, Frame, Pixels, TrackedFace, grow
from pipeline.policy import Policy

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for training/, which is not installed
from training.drawn_masks import Template, draw_template, read_templates
from training.faces import data_folder, read_picture

MOST = 6  # pictures of one person; most people have one
SCALE = 2  # an enlarged crop is what a detector is used to
BATCH = 32
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class FaceVectors:
    """What is known of N pictures, those without a mask first.

    Attributes:
        person: (N,) names.
        number: (N,) int, which of the person's pictures, from 0.
        drawn: (N,) bool, whether a mask was drawn on it.
        faces: (N,) int, how many faces the detector found; the rest is of the one in the middle.
        good: (N,) bool, whether the quality gate lets it pass.
        masked: (N,) bool, what the classifier says.
        quality: (N,) float32 in [0, 1].
        vectors: (N, 512) float32, unit length; zeros where there is no face.
    """

    person: NDArray[np.str_]
    number: NDArray[np.int64]
    drawn: Bools
    faces: NDArray[np.int64]
    good: Bools
    masked: Bools
    quality: Floats
    vectors: Floats

    def where(self, chosen: Bools) -> FaceVectors:
        """Those that ``chosen``, (N,), names."""
        return FaceVectors(*(getattr(self, each.name)[chosen] for each in fields(self)))


def read_vectors(every: int = 1) -> FaceVectors:
    """Vectors of every n-th person of LFW, from the cache if they were made before.

    Raises:
        SourceError: OMOTE_DATA names no folder.
        WeightsError: The weights cannot be had.
    """
    archive = data_folder() / "faces" / "lfw_train128.zip"
    kept = weights.cache() / "gallery_open_set" / f"{_stamp(archive, every)}.npz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **vars(_made(archive, every)))
        part.replace(kept)
    with np.load(kept, allow_pickle=False) as columns:
        return FaceVectors(**{each.name: columns[each.name] for each in fields(FaceVectors)})


def _stamp(archive: Path, every: int) -> str:
    """Changes with whatever changes the vectors: the pictures, the nets, this file."""
    manifest = Path(weights.__file__).with_name("weights.yaml").read_bytes()
    parts = (manifest, Path(__file__).read_bytes(), f"{archive.stat().st_size} {every}".encode())
    return sha256(b"".join(parts)).hexdigest()[:16]


def _made(archive: Path, every: int) -> FaceVectors:
    weights.pull(("models",))
    torch.set_num_threads(1)
    eye = Eye()
    with ZipFile(archive) as opened:
        chosen = list(_chosen(opened.namelist(), every))
        pictures = [read_picture(opened.read(name)) for _, _, name in chosen]
    masks = read_templates(data_folder() / "masks")
    people, numbers = [person for person, _, _ in chosen], [number for _, number, _ in chosen]
    seen = eye.look(pictures)
    hidden = eye.look([_drawn(p, masks, name) for p, (_, _, name) in zip(pictures, chosen, strict=True)])
    found = [np.concatenate(pair) for pair in zip(seen, hidden, strict=True)]
    return FaceVectors(np.array(people * 2), np.array(numbers * 2), np.repeat([False, True], len(chosen)), *found)


def _chosen(names: Sequence[str], every: int) -> Iterator[tuple[str, int, str]]:
    """Person, number of the picture and name of the file; people in alphabetical order."""
    of: dict[str, list[str]] = {}
    for name in sorted(name for name in names if name.endswith(".jpg")):
        of.setdefault(name.rpartition("_")[0], []).append(name)
    for person in sorted(of)[::every]:
        yield from ((person, number, name) for number, name in enumerate(of[person][:MOST]))


def _drawn(picture: Pixels, masks: dict[str, Template], name: str) -> Pixels:
    """The face behind a mask that its name chooses."""
    rng = np.random.default_rng(int.from_bytes(sha256(name.encode()).digest()[:8]))
    mask = masks[sorted(masks)[int(rng.integers(len(masks)))]]
    return draw_template(picture, TEMPLATE, mask, rng)[0]


class Eye:
    """The part of the graph that ends with ``embed``, for pictures that are no stream."""

    def __init__(self) -> None:
        policy = Policy(purpose="research", identification=True)
        self._detect, self._unmask = Detect(Compute()), Unmask(Compute(), policy)
        self._embed, self._gate = Embed(Compute(), policy), Gate()

    def look(self, pictures: Sequence[Pixels]) -> tuple[NDArray[np.int64], Bools, Bools, Floats, Floats]:
        """The columns of ``FaceVectors`` from ``faces`` on."""
        parts = [self._batch(pictures[n : n + BATCH]) for n in range(0, len(pictures), BATCH)]
        faces, good, masked, quality, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
        return faces, good, masked, quality, vectors

    def _batch(self, pictures: Sequence[Pixels]) -> tuple[NDArray[np.int64], Bools, Bools, Floats, Floats]:
        enlarged = [cv2.resize(picture, None, fx=SCALE, fy=SCALE) for picture in pictures]
        frames = [Frame("lfw", 0, n, 0, np.asarray(image, np.uint8)) for n, image in enumerate(enlarged)]
        found: dict[int, list[Face]] = {frame.seq: [] for frame in frames}
        for face in self._detect(frames):
            found[face.seq].append(face)
        shape = enlarged[0].shape
        faces = {n: self._unmasked(_middle(each, shape), shape) for n, each in found.items() if each}
        vectors = np.zeros((len(frames), 512), np.float32)
        vectors[list(faces)] = self._embed.vectors([face.crop for face in faces.values()])
        good = np.array([n in faces and not faces[n].quality.reasons for n in found])
        masked = np.array([n in faces and faces[n].mask_probability >= 0.5 for n in found])
        quality = np.array([faces[n].quality.score if n in faces else 0 for n in found], np.float32)
        return np.array([len(each) for each in found.values()]), good, masked, quality, vectors

    def _unmasked(self, face: Face, shape: tuple[int, ...]) -> BareFace:
        quality = self._gate.judge(face, shape[1], shape[0], predicted=False)
        tracked = grow(face, TrackedFace, track_id="", quality=quality, predicted=False, chosen=True)
        return next(iter(self._unmask([tracked])))


def _middle(faces: Sequence[Face], shape: tuple[int, ...]) -> Face:
    """The face that the crop was cut for."""
    middle = np.array([shape[1], shape[0]]) / 2
    return min(faces, key=lambda face: float(np.linalg.norm(face.box.reshape(2, 2).mean(0) - middle)))
