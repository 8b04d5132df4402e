"""A gallery in memory, which a file can hold between runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pipeline.errors import SinkError, SourceError
from pipeline.gallery.protocol import MODEL, Candidates, Template
from pipeline.packets import Candidate, Floats, Pixels


class MemoryGallery:
    """Exact search by one matrix product; at most ``top`` subjects are returned, and nobody is ever lost.

    Attributes:
        model: Name of the net that made the templates; a file that does not tell is of the shipped one.
        lost: See ``Gallery``.
    """

    lost = 0

    def __init__(self, path: str = "", name: str = "main", top: int = 5, model: str = "") -> None:
        """An empty gallery, or the one saved at ``path``; of the net ``model``, or whichever it is of if empty.

        Raises:
            SourceError: The file is not a gallery, or of another net.
        """
        kept, templates = _read(Path(path)) if path else (model or MODEL, [])
        if model not in {"", kept}:
            message = (
                f"{path} holds vectors of {kept!r}, and they cannot be compared with those of {model!r}; enrol anew"
            )
            raise SourceError(message)
        self.name, self.top, self.model, self.version = name, top, kept, 0
        self._templates: list[Template] = []
        self._matrix: Floats = np.zeros((0, 512), np.float32)
        self._subjects: list[str] = []
        self.enrol(templates)

    def enrol(self, templates: Iterable[Template]) -> None:
        """Add templates; each must be a finite vector of unit length, which the net ``model`` made."""
        new = list(templates)
        for template in new:
            _check(template, self.model)
        self._templates.extend(new)
        self._matrix = np.array([t.vector for t in self._templates], np.float32).reshape(-1, 512)
        self._subjects = sorted({t.subject_id for t in self._templates})
        self.version += len(new)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Ids of the enrolled, in alphabetical order."""
        return tuple(self._subjects)

    @property
    def templates(self) -> tuple[Template, ...]:
        """Everything that is enrolled, in the order in which it came."""
        return tuple(self._templates)

    def match(self, vectors: Floats, masked: Sequence[bool]) -> list[Candidates]:
        """The best subjects of each of ``vectors``, (N, 512); a subject's score is that of its best template.

        A gallery in memory holds few templates, so masked and bare faces are held against all of them.
        """
        scores = vectors @ self._matrix.T
        return [Candidates(self._best(row), self.name, self.version) for row in scores]

    def template(self, subject_id: str) -> Floats | None:
        """The subject's quality-weighted mean vector, (512,) float32 of unit length."""
        own = [t for t in self._templates if t.subject_id == subject_id]
        if not own:
            return None
        mean = np.sum([t.vector * max(t.quality, 1e-3) for t in own], axis=0, dtype=np.float32)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)

    def photo(self, subject_id: str) -> Pixels | None:
        """The photo of the subject's best template that has one."""
        kept = [t for t in self._templates if t.subject_id == subject_id and t.photo is not None]
        return max(kept, key=lambda t: t.quality).photo if kept else None

    def close(self) -> None:
        """Nothing is held open."""

    def save(self, path: str | Path) -> None:
        """Write the gallery to one file, in numpy's ``.npz`` format, unsealed: a new file is its owner's alone to read.

        Raises:
            SinkError: The file cannot be written.
        """
        columns = {
            "model": np.array(self.model, np.str_),
            "subjects": np.array([t.subject_id for t in self._templates], np.str_),
            "vectors": self._matrix,
            "qualities": np.array([t.quality for t in self._templates], np.float32),
            "masked": np.array([t.masked for t in self._templates], np.bool_),
            "kept": np.array([t.photo is not None for t in self._templates], np.bool_),
            "photos": np.array([t.photo for t in self._templates if t.photo is not None], np.uint8),
        }
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                np.savez_compressed(file, allow_pickle=False, **columns)
        except OSError as error:
            message = f"cannot write the gallery {path}: {error.strerror}; free some space or choose another folder"
            raise SinkError(message) from error

    def _best(self, row: Floats) -> tuple[Candidate, ...]:
        best: dict[str, float] = {}
        for template, score in zip(self._templates, row.tolist(), strict=True):
            best[template.subject_id] = max(score, best.get(template.subject_id, -1.0))
        ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Candidate(subject, score) for subject, score in ranked[: self.top])


def _check(template: Template, model: str) -> None:
    vector = template.vector
    if template.model != model:
        message = (
            f"the template of {template.subject_id!r} is of the net {template.model!r}, the gallery's are of {model!r}"
        )
        raise SourceError(message)
    if vector.shape != (512,) or not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1) > 1e-3:
        message = (
            f"template of {template.subject_id!r} must be a finite (512,) vector of unit length, "
            f"got shape {vector.shape} and length {float(np.linalg.norm(vector)):.3f}"
        )
        raise SourceError(message)


def _read(path: Path) -> tuple[str, list[Template]]:
    """The net and the templates of a file."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            stored = {key: archive[key] for key in ("subjects", "vectors", "qualities", "masked", "kept", "photos")}
            model = str(archive["model"]) if "model" in archive else MODEL
    except (OSError, EOFError, ValueError, LookupError, BadZipFile) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a gallery that omote saved"
        message = f"{path}: {reason}; make one with `omote enrol`"
        raise SourceError(message) from error
    photos = iter(stored["photos"])
    return model, [
        Template(str(subject), vector, float(quality), bool(masked), next(photos) if kept else None, model=model)
        for subject, vector, quality, masked, kept in zip(
            *(stored[key] for key in ("subjects", "vectors", "qualities", "masked", "kept")), strict=True
        )
    ]
