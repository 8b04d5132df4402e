"""Pictures from strangers: what can be read is read upright in RGB, all else is refused in one sentence, cheaply."""

from __future__ import annotations

import base64
import random
import resource
import struct
import time
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.gallery.errors import PictureError
from pipeline.gallery.uploads import from_base64, picture

KINDS = ["JPEG", "PNG", "WEBP", "GIF", "BMP"]
RED, BLUE = (200, 20, 30), (10, 40, 190)


def sample(width: int = 48, height: int = 32) -> np.ndarray:
    """Red above, blue below."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2], pixels[height // 2 :] = RED, BLUE
    return pixels


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + b"".join(chunks) + chunk(b"IEND", b"")


def spliced(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """The JPEG with one more segment at its beginning."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content + jpeg[2:]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_rgb(kind: str) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    found = picture(encoded(sample(), kind, **lossless))
    assert (found.shape, found.dtype) == ((32, 48, 3), np.uint8)
    assert found.flags.writeable
    assert np.abs(found.astype(int) - sample()).max() < (60 if kind == "JPEG" else 3)
    assert np.abs(found[4, 4].astype(int) - RED).max() < 5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_kind_of_colour_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode in {"CMYK", "YCbCr"} else "PNG"
    found = picture(encoded(Image.fromarray(sample()).convert(mode), kind))
    assert found.shape == (32, 48, 3)
    if mode in {"P", "RGBA", "CMYK", "YCbCr"}:
        assert found[4, 4, 0] > 150 > found[-4, -4, 0]
        assert found[-4, -4, 2] > 150 > found[4, 4, 2]


def test_sixteen_bits_of_grey_keep_the_upper_eight() -> None:
    levels = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (32, 1))
    found = picture(encoded(Image.fromarray(levels)))
    assert np.array_equal(found[..., 0], levels >> 8)


def test_what_is_transparent_lies_on_white() -> None:
    clear = np.dstack([sample(), np.zeros((32, 48), np.uint8)])
    assert np.array_equal(picture(encoded(clear)), np.full((32, 48, 3), 255))
    palette = Image.fromarray(sample()).quantize(4)
    palette.info["transparency"] = bytes([0, 0, 0, 0])
    assert np.array_equal(picture(encoded(palette)), np.full((32, 48, 3), 255))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_is_upright_whatever_way_the_camera_was_held(kind: str, orientation: int) -> None:
    upright = np.zeros((40, 64, 3), np.uint8)
    upright[:12, :12], upright[:12, -12:], upright[-12:, :12] = 250, 170, 90
    undone = {1: [], 2: [1], 3: [0, 1], 4: [0], 5: ["t"], 6: ["t", 0], 7: [0, 1, "t"], 8: ["t", 1]}
    stored = upright
    for step in undone[orientation]:
        stored = stored.transpose(1, 0, 2) if step == "t" else np.flip(stored, step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = picture(encoded(np.ascontiguousarray(stored), kind, exif=exif.tobytes()))
    assert found.shape == upright.shape
    assert np.abs(found[6::28, 6::52].astype(int) - upright[6::28, 6::52]).max() < 12


def test_nonsense_in_exif_is_no_reason_to_refuse() -> None:
    jpeg = encoded(sample(), "JPEG")
    tag = struct.pack("<HHII", 0x0112, 3, 1, 99)
    for exif in (b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + tag, b"\0" * 60):
        assert picture(spliced(jpeg, 0xE1, b"Exif\0\0" + exif)).shape == (32, 48, 3)


def test_profiles_previews_and_text_are_not_even_looked_at() -> None:
    bomb = zlib.compress(b"\0" * 50_000_000)
    pixels = chunk(b"IDAT", zlib.compress(bytes(32 * (1 + 3 * 48))))
    extras = [chunk(b"iCCP", b"p\0\0" + bomb), chunk(b"zTXt", b"t\0\0" + bomb), chunk(b"iTXt", b"t\0\1\0\0\0" + bomb)]
    assert picture(png(48, 32, *extras, pixels)).shape == (32, 48, 3)
    jpeg = spliced(encoded(sample(), "JPEG"), 0xE2, b"MPF\0" + b"\xff" * 500)
    assert picture(spliced(jpeg, 0xE2, b"ICC_PROFILE\0" + b"\xff" * 500)).shape == (32, 48, 3)


def refused(data: bytes) -> str:
    with pytest.raises(PictureError) as error:
        picture(data)
    said = str(error.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("data", [b"GIF89a", b"\xff\xd8\xff", b"BM", b"RIFF\0\0\0\0WEBP", b"%PDF-1.7", b"\0" * 100])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert "no picture" in refused(data)
    assert "empty" in refused(b"")


def test_other_formats_are_refused() -> None:
    for kind in ("TIFF", "ICO", "PPM", "TGA", "JPEG2000"):
        assert "send a JPEG, PNG" in refused(encoded(sample(), kind))


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_a_picture_too_small_for_a_face_is_refused(size: tuple[int, int]) -> None:
    assert f"{size[0]}x{size[1]}" in refused(encoded(sample(*size)))


def claims(kind: str, width: int, height: int) -> bytes:
    """A small file that says it holds a picture of this size."""
    if kind == "PNG":
        return png(width, height, chunk(b"IDAT", zlib.compress(b"\0" * 10_000_000)))
    data = bytearray(encoded(sample(), kind))
    if kind == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif kind == "GIF":
        struct.pack_into("<HH", data, 6, width, height)
    elif kind == "BMP":
        struct.pack_into("<ii", data, 18, width, -height)
    else:
        struct.pack_into("<HH", data, 26, width & 0x3FFF, height & 0x3FFF)
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_two_hundred_megapixels_costs_nothing(kind: str) -> None:
    data = claims(kind, 16_000, 12_500)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    assert "at most 40 megapixels" in refused(data)
    assert time.perf_counter() - began < 0.2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # KiB


def test_a_picture_of_a_gif_may_not_outgrow_its_screen() -> None:
    data = bytearray(encoded(sample(), "GIF"))
    struct.pack_into("<HH", data, data.index(b"\x2c\0\0\0\0") + 5, 16_000, 16_000)
    assert "16000x16000" in refused(bytes(data))


def test_a_narrow_ribbon_is_too_long() -> None:
    assert "no side longer" in refused(claims("PNG", 2_000_000, 16))


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    jpeg = encoded(sample(), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    assert picture(jpeg).shape == (32, 48, 3)
    refused(jpeg[:-2] + scan * 1000 + jpeg[-2:])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_picture_that_moves_is_refused(kind: str) -> None:
    frames = [Image.fromarray(np.roll(sample(), 5 * n, 0)) for n in range(3)]
    moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, loop=0)
    assert "moves" in refused(moving)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_cut_short_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = encoded(noise, kind)
    assert picture(whole).shape == (64, 64, 3)
    for part in (0.3, 0.6, 0.9):
        refused(whole[: int(len(whole) * part)])


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_is_refused_or_read_and_nothing_else(kind: str) -> None:
    chance = random.Random(7)
    whole = encoded(sample(), kind, **({"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"} if kind in {"JPEG", "PNG"} else {}))
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 3, 10])):
            data[chance.randrange(len(data) if chance.random() < 0.3 else min(len(data), 64))] = chance.randrange(256)
        try:
            found = picture(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
        except PictureError:
            continue
        assert found.ndim == 3
        assert found.shape[2] == 3


def test_base64_is_read_strictly() -> None:
    assert from_base64(base64.b64encode(b"\xff\x00face").decode()) == b"\xff\x00face"
    for text in ("data:image/png;base64,AAAA", "AAA", "AA==AA", "A A A A", "AAAA\n", "-_-_", "é" * 4, "====", "A" * 5):
        with pytest.raises(PictureError, match="base64"):
            from_base64(text)
