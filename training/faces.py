"""Reads the aligned faces of the training data, and says which of them are for training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Literal
from zipfile import ZipFile

import cv2
import numpy as np

from pipeline.errors import SourceError
from pipeline.packets import Pixels

Part = Literal["train", "calibrate", "test"]
ARCHIVES = ("lfw_train128.zip", "utk128.zip")


@dataclass(frozen=True, slots=True)
class FaceImage:
    """One aligned face.

    Attributes:
        person: Who it is; UTKFace names nobody, so there every picture is a person of its own.
        pixels: (128, 128, 3) uint8 RGB, aligned as ``Face.crop``.
    """

    person: str
    pixels: Pixels


def data_folder() -> Path:
    """The folder that ``OMOTE_DATA`` names.

    Raises:
        SourceError: If the variable is not set or names no folder.
    """
    folder = os.environ.get("OMOTE_DATA", "")
    if not folder or not Path(folder).is_dir():
        message = f"OMOTE_DATA must name the folder of the training data, got {folder!r}; or give it with --data"
        raise SourceError(message)
    return Path(folder)


def part_of(person: str) -> Part:
    """A person's part, by hash, so that it never depends on what else is there: 80 % train, 10 % each of the others."""
    tenth = int(sha1(f"omote {person}".encode(), usedforsecurity=False).hexdigest(), 16) % 10
    return "test" if tenth == 0 else "calibrate" if tenth == 1 else "train"


def read_faces(folder: Path, part: Part | None = None) -> Iterator[FaceImage]:
    """The faces in ``folder/faces``, of one part or of all, in the order of the archives.

    Raises:
        SourceError: If an archive is missing.
    """
    for archive in ARCHIVES:
        path = folder / "faces" / archive
        if not path.is_file():
            message = f"no {path}; the folder of the training data must hold faces/{archive}"
            raise SourceError(message)
        yield from _read_archive(path, part)


def read_picture(encoded: bytes) -> Pixels:
    """A JPEG or PNG as (H, W, 3) uint8 RGB.

    Raises:
        SourceError: If it is neither.
    """
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        message = f"{len(encoded)} bytes of the training data are no picture; unpack the data again"
        raise SourceError(message)
    return np.asarray(decoded[..., ::-1], np.uint8)


def _read_archive(path: Path, part: Part | None) -> Iterator[FaceImage]:
    with ZipFile(path) as archive:
        for name in archive.namelist():
            person = _person(name)
            if name.endswith(".jpg") and part in {None, part_of(person)}:
                yield FaceImage(person, read_picture(archive.read(name)))


def _person(name: str) -> str:
    """LFW writes ``First_Last_0001.jpg``; anything else is taken whole."""
    stem = Path(name).name.removesuffix(".jpg")
    head, _, number = stem.rpartition("_")
    return head if len(number) == 4 and number.isdigit() else stem
