"""Whatever is sent: the right status, a problem that says what is wrong, and nothing written."""

from __future__ import annotations

import json
import random
import string
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.api_client import problem
from tests.support.gallery import SIDE, Api, base64_of, drawing, likeness

RED, GREEN, DARK = (200, 20, 30), (30, 200, 40), (60, 60, 60)
PICTURE, INVALID, REQUEST = "/problems/gallery-picture", "/problems/gallery-invalid", "/problems/invalid-request"
ENROL = "/v2/subjects/ada/faces"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def huge() -> bytes:
    """A PNG of 200 megapixels in some kilobytes."""
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 10_000, 1, 0, 0, 0, 0))
    pixels = zlib.compress(bytes(10_000 * 2501))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def animation() -> bytes:
    file, frames = BytesIO(), [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def one_pixel() -> bytes:
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return file.getvalue()


PICTURES = {
    "no face": (drawing(), "no face"),
    "two faces": (drawing(RED, GREEN), "2 faces"),
    "a poor face": (drawing(DARK), "blurred"),
    "a 1x1 image": (one_pixel(), "1x1"),
    "200 megapixels": (huge(), "40 megapixels"),
    "an animated GIF": (animation(), "moves"),
    "a truncated JPEG": (drawing(RED, kind="JPEG")[:700], "cut short"),
    "nothing": (b"", "empty"),
    "text": (b"who am I?", "no picture"),
    "a zip": (b"PK\x03\x04" + b"\0" * 100, "no picture"),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "no picture"),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("sent", ["multipart", "base64"])
def test_a_picture_that_does_not_serve(gallery: Api, kind: str, sent: str) -> None:
    data, said = PICTURES[kind]
    body: dict[str, Any] = {"files": {"file": data}} if sent == "multipart" else {"json": {"file": base64_of(data)}}
    before = gallery.written()
    assert said in problem(gallery.ask("POST", ENROL, **body), 422, PICTURE)["detail"]
    if "face" not in kind:
        problem(gallery.ask("POST", "/v2/faces/detect?recognize=1", "reader", **body), 422, PICTURE)
    assert gallery.written() == before


@pytest.mark.parametrize("text", ["%%%", "AAA", "data:image/png;base64,AAAA", "💥", "AAAA AAAA", "\ud800"])
def test_base64_that_is_none(gallery: Api, text: str) -> None:
    body = ('{"file": "' + text.encode("unicode-escape").decode() + '"}').encode()
    answer = gallery.ask("POST", ENROL, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    problem(answer, answer.status_code, PICTURE if answer.status_code == 422 else "about:blank")
    assert gallery.written()[1] == (0, 0)


def test_a_picture_taken_with_the_camera_on_its_side(gallery: Api) -> None:
    canvas = np.zeros((SIDE * 4, SIDE * 2, 3), np.uint8)
    canvas[:SIDE, :SIDE] = RED
    exif, file = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(canvas))).save(file, "PNG", exif=exif.tobytes())
    (face,) = gallery.ask("POST", "/v2/faces/detect", "reader", files={"file": file.getvalue()}).json()["faces"]
    assert face["box"] == [0, 0, SIDE, SIDE]


VECTORS: dict[str, tuple[Any, str]] = {
    "another dimension": ([[1.0] * 128], INVALID),
    "several dimensions": ([likeness(RED).tolist(), [1.0]], INVALID),
    "no length": ([[0.0] * 512], INVALID),
    "beyond float32": ([[1e300] * 512], INVALID),
    "NaN": (b'{"vectors": [[NaN]], "model": "mobilefacenet"}', REQUEST),
    "infinity": (b'{"vectors": [[Infinity, 1]], "model": "mobilefacenet"}', REQUEST),
    "text": ([["one"]], REQUEST),
    "none": ([], REQUEST),
    "an empty one": ([[]], REQUEST),
    "too many": ([[1.0]] * 257, REQUEST),
    "too long": ([[1.0] * 5000], REQUEST),
}


@pytest.mark.parametrize("kind", VECTORS)
def test_a_vector_that_is_none(gallery: Api, kind: str) -> None:
    given, wrong = VECTORS[kind]
    body: dict[str, Any] = {"json": {"vectors": given, "model": "mobilefacenet"}}
    if isinstance(given, bytes):
        body = {"content": given, "headers": {"Content-Type": "application/json"}}
    before = gallery.written()
    for path in ("/v2/subjects/ada/vectors", "/v2/vectors/search"):
        problem(gallery.ask("POST", path, **body), 422, wrong)
    assert gallery.written() == before


def test_a_vector_of_another_net(gallery: Api) -> None:
    before = gallery.written()
    given = {"vectors": [likeness(RED).tolist()], "model": "arcface-r100"}
    for path in ("/v2/subjects/ada/vectors", "/v2/vectors/search"):
        assert "arcface-r100" in problem(gallery.ask("POST", path, json=given), 422, INVALID)["detail"]
    assert gallery.written() == before


@pytest.mark.parametrize("path", ["/v2/vectors/search", "/v2/faces/detect", "/v2/subjects/ada/not-me"])
@pytest.mark.parametrize("body", [b'{"vectors": [' + b"[]," * 3_000_000 + b"[]]}", b"[" + b'"a",' * 3_000_000 + b"1]"])
def test_a_json_of_millions_of_values_is_not_read(
    gallery: Api, monkeypatch: pytest.MonkeyPatch, path: str, body: bytes
) -> None:
    """All others wait while one is read."""
    before, loads = gallery.written(), json.loads
    read: list[int] = []
    monkeypatch.setattr(json, "loads", lambda text, **more: (read.append(len(text)), loads(text, **more))[1])
    problem(gallery.ask("POST", path, content=body, headers={"Content-Type": "application/json"}), 413)
    assert len(body) not in read
    assert gallery.written() == before


def test_the_mistakes_of_a_huge_vector_are_not_counted(gallery: Api) -> None:
    given = {"vectors": [["a"] * 512] * 256, "model": "mobilefacenet"}
    said = problem(gallery.ask("POST", "/v2/vectors/search", json=given), 422, REQUEST)
    assert len(said["errors"]) == 1


def test_as_many_vectors_as_may_be_are_read(gallery: Api) -> None:
    given = {"vectors": [likeness(RED).tolist()] * 256, "model": "mobilefacenet"}
    assert len(gallery.ask("POST", "/v2/vectors/search", json=given).json()["identities"]) == 256


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v2/subjects/nobody", None),
        ("PATCH", "/v2/subjects/nobody", {"consent": "given"}),
        ("DELETE", "/v2/subjects/nobody", None),
        ("GET", "/v2/subjects/nobody/coverage", None),
        ("GET", "/v2/subjects/nobody/faces", None),
        ("GET", "/v2/subjects/nobody/negatives", None),
        ("POST", "/v2/subjects/nobody/verify", {"file": base64_of(drawing(RED))}),
        ("POST", "/v2/subjects/nobody/not-me", {"file": base64_of(drawing(RED))}),
        ("POST", "/v2/subjects/merge", {"source": "nobody", "into": "none"}),
        ("GET", "/v2/faces/none", None),
        ("GET", "/v2/faces/none/photo", None),
        ("DELETE", "/v2/faces/none", None),
        ("GET", "/v2/unknowns/clusters?after=none", None),
        ("POST", "/v2/unknowns/clusters/none/assign", {"subject": "ada"}),
        ("POST", "/v2/unknowns/clusters/none/ignore", None),
        ("GET", "/v2/erasures/none", None),
        ("DELETE", "/v2/keys/none", None),
        ("GET", "/v2/problems/none", None),
    ],
)
def test_what_is_not_there(gallery: Api, method: str, path: str, body: Any) -> None:
    before = gallery.written()
    kind = "about:blank" if "problems" in path else "/problems/gallery-unknown"
    problem(gallery.ask(method, path, "admin", json=body), 404, kind)
    assert gallery.written() == before


NAMES = [
    "../../etc/passwd",
    "..",
    ".",
    "a/b",
    "a\\b",
    "",
    " ",
    " ada",
    "a\nb",
    "a\0b",
    "\u202eada\n",
    "x" * 257,
    "\ud800",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_play_tricks(gallery: Api, name: str) -> None:
    before = gallery.written()
    body = ('{"id": "' + name.replace("\\", "\\\\").encode("unicode-escape").decode() + '"}').encode()
    body = body if name != "a\0b" else b'{"id": "a\\u0000b"}'
    answer = gallery.ask("POST", "/v2/subjects", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 422, REQUEST)
    quoted = "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "surrogatepass"))
    for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/faces")):
        found = gallery.ask(method, f"/v2/subjects/{quoted}{end}", files={"file": drawing(RED)} if end else None)
        assert found.status_code in {404, 405, 415, 422} or (name in {"", "."} and method == "GET"), (method, name)
    assert gallery.written() == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/subjects", {"id": "ada", "colour": "red"}),
        ("/v2/subjects", {"id": "ada", "consent": "maybe"}),
        ("/v2/subjects", {"id": "ada", "metadata": {"deep": {"er": 1}}}),
        ("/v2/subjects", {"id": "ada", "metadata": {"long": "x" * 20_000}}),
        ("/v2/subjects", {"id": "ada", "expires": "2030-01-01T00:00:00"}),
        ("/v2/subjects", {"id": "ada", "expires": "soon"}),
        ("/v2/subjects/merge", {"source": "ada"}),
        ("/v2/keys", {"name": "desk", "role": "owner"}),
        ("/v2/keys", {"name": "desk", "role": "reader", "namespace": "another"}),
        ("/v2/keys", {"name": "desk", "role": "reader", "per_minute": 0}),
        ("/v2/calibrate", {"promised_far": 0}),
        ("/v2/calibrate", {"promised_far": "NaN"}),
        ("/v2/subjects/ada/not-me", {"nose": 1}),
        ("/v2/subjects", []),
        ("/v2/subjects", None),
    ],
)
def test_bodies_of_another_shape(gallery: Api, path: str, body: Any) -> None:
    before = gallery.written()
    said = problem(gallery.ask("POST", path, "admin", json=body), 422, REQUEST)
    assert said["errors"]
    assert gallery.written() == before


@pytest.mark.parametrize(
    "query",
    [
        *("subjects?limit=0", "subjects?limit=1001", "subjects?after=" + "x" * 300, "matches?from=yesterday"),
        *(
            "audit?after=-1",
            "audit?after=99999999999999999999",
            "matches?from=2026-01-01T00:00:00",
            "subjects?after=%00",
        ),
    ],
)
def test_queries_that_make_no_sense(gallery: Api, query: str) -> None:
    problem(gallery.ask("GET", f"/v2/{query}", "admin"), 422, REQUEST)


def test_policies_that_cannot_be(gallery: Api) -> None:
    before = gallery.written()
    for wrong in ({"limits": {"threshold": 2}}, {"limits": {"margin": -1}}, {"unknown_ttl_s": 0}, {"colour": 1}, [], 7):
        problem(gallery.ask("PUT", "/v2/policies", "admin", json=wrong), 422, REQUEST)
    assert gallery.written() == before


def test_who_has_not_consented_is_not_enrolled(gallery: Api) -> None:
    assert gallery.ask("PUT", "/v2/policies", "admin", json={"require_consent": True}).status_code == 200
    before = gallery.written()
    problem(gallery.enrol("ada", RED), 403, "/problems/gallery-forbidden")
    assert gallery.written() == before


def test_a_subject_is_added_once(gallery: Api) -> None:
    assert gallery.ask("POST", "/v2/subjects", json={"id": "ada"}).status_code == 201
    problem(gallery.ask("POST", "/v2/subjects", json={"id": "ada"}), 409, "/problems/gallery-duplicate")
    problem(gallery.ask("POST", "/v2/subjects/merge", json={"source": "ada", "into": "ada"}), 422, INVALID)


def test_wrong_methods_and_types_are_told_the_right_ones(gallery: Api) -> None:
    answer = gallery.ask("PUT", "/v2/subjects/ada")
    problem(answer, 405)
    assert answer.headers["allow"] == "GET, PATCH, DELETE"
    problem(gallery.ask("POST", ENROL, content=b"x", headers={"Content-Type": "image/png"}), 415)


def test_the_inside_is_told_to_nobody(gallery: Api) -> None:
    def broken(picture: Any, least_score: float = 0.0) -> Any:
        message = "hunter2 at /secret"
        raise RuntimeError(message)

    gallery.service.desk.faces.of = broken  # type: ignore[method-assign]
    answer = gallery.ask("POST", "/v2/faces/detect", files={"file": drawing(RED)})
    problem(answer, 500)
    assert "hunter2" not in answer.text


def test_garbage_in_addresses_breaks_nothing(gallery: Api) -> None:
    chance = random.Random(5)
    tricks = ["..%2f..%2fetc%2fpasswd", "%00", "%ff%fe", "%ed%a0%80", "%2e%2e/", "//", "a" * 9000, "%0d%0aX-Evil:%201"]
    tricks += ["".join(chance.choices(string.ascii_letters + "%/;:@&=+$,-_.!~*'()", k=30)) for _ in range(60)]
    for trick in tricks:
        for root in ("/v1/recognition/faces/", "/v1/static/", "/v2/subjects/", "/v2/"):
            answer = gallery.ask("GET", root + trick)
            assert answer.status_code in {200, 401, 404, 405, 422}, (root, trick)
            assert "x-evil" not in answer.headers


@pytest.mark.parametrize("value", [b'"\\ud800"', b"NaN", b"1e999", b"-Infinity", b'{"a": 1}', b"[1]"])
def test_metadata_that_json_cannot_hold(gallery: Api, value: bytes) -> None:
    gallery.ask("POST", "/v2/subjects", json={"id": "ada"})
    before = gallery.written()
    kind = {"Content-Type": "application/json"}
    for body in (b'{"a": %s}' % value, b'{"\\ud800": 1, "a": %s}' % value):
        added = gallery.ask("POST", "/v2/subjects", content=b'{"id": "bob", "metadata": %s}' % body, headers=kind)
        changed = gallery.ask("PATCH", "/v2/subjects/ada", content=b'{"metadata": %s}' % body, headers=kind)
        for answer in (added, changed):
            problem(answer, 422, REQUEST)
    assert gallery.written() == before
