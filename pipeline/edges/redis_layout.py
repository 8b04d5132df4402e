"""How a gallery lies in Redis: the names of its keys, and templates as hashes with sealed vectors and photos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import cv2
import numpy as np

from pipeline.edges.redis_link import Word
from pipeline.gallery.errors import InvalidError
from pipeline.gallery.keys import Keys
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Subject
from pipeline.packets import Floats, Pixels

ROW = ("subject", "vector", "model", "negative", "until", "purposes")  # what a matcher needs of a template
FOR_EVER, NEVER = "", "0"  # of `until`: seconds since 1970 from which the template is not matched


class Keyspace:
    """Names of the keys of one namespace; the braces put them all on one node of a cluster."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"omote:{{{namespace}}}:"
        self.version, self.log = self("version"), self("log")
        self.subjects, self.templates, self.expiring = self("subjects"), self("templates"), self("expiring")
        self.negatives = self("negatives")
        self.renamed, self.erasures = self("renamed"), self("erasures")  # what is left to do of names

    def __call__(self, kind: str, name: str = "") -> str:
        """The key of one thing of a kind, or of the kind itself."""
        return f"{self.prefix}{kind}:{name}" if name else f"{self.prefix}{kind}"


def allowed(subject: Subject) -> dict[str, Word]:
    """What a template must know of its subject: from when on it is not matched, and for what."""
    until = NEVER if subject.consent == "withdrawn" else FOR_EVER
    if until != NEVER and subject.expires is not None:
        until = repr(subject.expires.timestamp())
    return {"subject": subject.id, "until": until, "purposes": json.dumps(subject.purposes)}


def fields(template: Template, subject: Subject, keys: Keys, namespace: str) -> dict[str, Word]:
    """The hash of a template."""
    return {
        **allowed(subject),
        "vector": sealed_vector(template.vector, template.id, keys, namespace),
        "model": template.model,
        "quality": f"{template.quality:.6g}",
        "masked": int(template.masked),
        "yaw": f"{template.yaw:.6g}",
        "size": f"{template.size_px:.6g}",
        "sha256": template.source_sha256,
        "created": f"{template.created.timestamp():.6f}",
        "negative": int(template.negative),
    }


def template(name: str, kept: Mapping[bytes, bytes], keys: Keys, namespace: str) -> Template:
    """The template of a hash, without its photo."""
    text = {key.decode(): value.decode() for key, value in kept.items() if key != b"vector"}
    return Template(
        subject_id=text["subject"],
        vector=opened_vector(kept[b"vector"], name, keys, namespace),
        quality=float(text["quality"]),
        masked=text["masked"] == "1",
        id=name,
        model=text["model"],
        yaw=float(text["yaw"]),
        size_px=float(text["size"]),
        source_sha256=text["sha256"],
        created=datetime.fromtimestamp(float(text["created"]), UTC),
        negative=text["negative"] == "1",
    )


def sealed_vector(vector: Floats, name: str, keys: Keys, namespace: str) -> bytes:
    """A vector that can be opened as that of the template ``name`` only."""
    return keys.seal(vector.astype("<f4").tobytes(), _context("vector", name, namespace))


def opened_vector(sealed: bytes, name: str, keys: Keys, namespace: str) -> Floats:
    """(D,) float32."""
    return np.frombuffer(keys.open(sealed, _context("vector", name, namespace)), "<f4")


def sealed_photo(photo: Pixels, name: str, keys: Keys, namespace: str) -> bytes:
    """A crop, (H, W, 3) uint8 RGB, as a sealed PNG: a template may be made of it again."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    return keys.seal(encoded.tobytes(), _context("photo", name, namespace))


def opened_photo(sealed: bytes, name: str, keys: Keys, namespace: str) -> Pixels:
    """(H, W, 3) uint8 RGB."""
    encoded = np.frombuffer(keys.open(sealed, _context("photo", name, namespace)), np.uint8)
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def sealed(kind: str, data: bytes, name: str, keys: Keys, namespace: str) -> bytes:
    """Anything, so that it opens as this thing of this kind only."""
    return keys.seal(data, _context(kind, name, namespace))


def opened(kind: str, kept: bytes, name: str, keys: Keys, namespace: str) -> bytes:
    """What was `sealed`."""
    return keys.open(kept, _context(kind, name, namespace))


def checked(templates: Sequence[Template], dimension: int) -> None:
    """Whether these can be templates.

    Raises:
        InvalidError: One has no finite vector of unit length, or of another dimension, or no id.
    """
    for each in templates:
        length = float(np.linalg.norm(each.vector)) if each.vector.shape == (dimension,) else float("nan")
        if not abs(length - 1) <= 1e-3 or not each.id:
            message = (
                f"a template must be a finite vector of {dimension} numbers and unit length, "
                f"got shape {each.vector.shape} and length {length:.3f}"
            )
            raise InvalidError(message)


def _context(kind: str, name: str, namespace: str) -> bytes:
    return f"{namespace}/{kind}/{name}".encode()
