"""What a picture file says of itself before anybody decodes it: its kind, its size, its parts, which way is up.

All of it is read from a few bytes at known places, so that a file that lies costs nothing. What no decoder needs
(profiles, comments, previews, text) is left out of what is decoded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import islice
from typing import Literal

Kind = Literal["JPEG", "PNG", "WebP", "GIF", "BMP"]

UPRIGHT = 1
ORIENTATION = 0x0112  # tag of the EXIF standard, 4.6.4
MOST_PARTS = 20_000  # of one file; encoders make some thousand
MOST_SCANS = 64  # of a progressive JPEG; encoders make about ten, and each costs a pass over the whole picture
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
JPEG_NEEDED = {*range(0xC0, 0xD0), 0xDB, 0xDD, 0xEE}  # frames, tables, intervals, and how Adobe codes colour
PNG_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture.

    Attributes:
        kind: Format of the file.
        width: Pixels, as stored.
        height: Pixels, as stored.
        moves: Whether there is more than one picture.
        orientation: 1 to 8, as in EXIF.
        data: The file without what no decoder needs.
    """

    kind: Kind
    width: int
    height: int
    moves: bool
    orientation: int
    data: bytes


def header(data: bytes) -> Header | None:
    """What ``data`` says of itself; None if it is no file of a kind that is read here, or is broken."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return _gif(data)
        return _bmp(data) if data.startswith(b"BM") else None
    except (struct.error, IndexError, ValueError):
        return None


def _jpeg(data: bytes) -> Header:
    """ITU-T T.81, annex B: segments up to the first scan, which begins the rest."""
    at, size, orientation, kept = 2, None, UPRIGHT, [data[:2]]
    for _ in range(MOST_PARTS):
        while data[at + 1] == 0xFF:  # any number of fill bytes may stand before a marker
            at += 1
        marker, length = data[at + 1], 2 + struct.unpack_from(">H", data, at + 2)[0]
        if data[at] != 0xFF or length < 4 or marker == 0xDA:
            break
        if marker in JPEG_FRAMES:
            size = struct.unpack_from(">HH", data, at + 5)
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _orientation(data[at + 10 : at + length])
        if marker in JPEG_NEEDED:
            kept.append(data[at : at + length])
        at += length
    if size is None or data[at : at + 2] != b"\xff\xda" or data.count(b"\xff\xda", at) > MOST_SCANS:
        message = "no scan that can be decoded"
        raise ValueError(message)
    return Header("JPEG", size[1], size[0], False, orientation, b"".join([*kept, data[at:]]))


def _png(data: bytes) -> Header:
    """PNG specification, third edition, section 5: chunks of a length, a name, content and a checksum."""
    at, moves, orientation, kept = 8, False, UPRIGHT, [data[:8]]
    for _ in range(MOST_PARTS):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        moves |= name == b"acTL"
        if name == b"eXIf":
            orientation = _orientation(data[at + 8 : end - 4])
        if name in PNG_NEEDED:
            kept.append(data[at:end])
        if name == b"IEND" or end >= len(data):
            break
        at = end
    width, height = struct.unpack_from(">II", data, 16)
    return Header("PNG", width, height, moves, orientation, b"".join(kept))


def _webp(data: bytes) -> Header:
    """RFC 9649, section 2: the first chunk tells the size, in one of three ways; an extended file has flags."""
    orientation, first = UPRIGHT, data[12:16]
    at = 12
    for _ in range(64):
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"EXIF":
            orientation = _orientation(data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0"))
        at += 8 + length + length % 2
        if at + 8 > len(data):
            break
    if first == b"VP8X":
        wide, high = (1 + int.from_bytes(data[place : place + 3], "little") for place in (24, 27))
        return Header("WebP", wide, high, bool(data[20] & 2), orientation, data)
    if first == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return Header("WebP", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), False, orientation, data)
    width, height = struct.unpack_from("<HH", data, 26)
    return Header("WebP", width & 0x3FFF, height & 0x3FFF, False, orientation, data)


def _gif(data: bytes) -> Header:
    """GIF89a specification: blocks after the global palette; a picture may be larger than the screen it is for."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, pictures = 13 + _palette(flags), 0
    for _ in range(MOST_PARTS):
        block = data[at]
        if block == 0x2C:
            pictures += 1
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
            width, height = max(width, left + wide), max(height, top + high)
            at = _after(data, at + 11 + _palette(flags))
        elif block == 0x21:
            at = _after(data, at + 2)
        if block not in {0x2C, 0x21} or pictures > 1 or at >= len(data):
            break
    if not pictures:
        message = "no picture where there must be one"
        raise ValueError(message)
    return Header("GIF", width, height, pictures > 1, UPRIGHT, data)


def _palette(flags: int) -> int:
    """Bytes of the palette that follows."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after(data: bytes, at: int) -> int:
    """Where the sub-blocks that begin at ``at`` end; at the end of the file if they do not."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _bmp(data: bytes) -> Header:
    """The old header of OS/2 has 12 bytes and short sizes; in the others a negative height means top first."""
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header("BMP", width, abs(height), False, UPRIGHT, data)


def _orientation(exif: bytes) -> int:
    """The orientation that EXIF tells (a TIFF without a picture); upright where it tells none, or nonsense."""
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]
        first = struct.unpack_from(order + "I", exif, 4)[0]
        entries = struct.unpack_from(order + "H", exif, first)[0]
        tags = (struct.unpack_from(order + "HHIH", exif, first + 2 + 12 * n) for n in range(entries))
        found = next((value for tag, kind, _, value in islice(tags, 512) if (tag, kind) == (ORIENTATION, 3)), UPRIGHT)
    except (struct.error, KeyError):
        return UPRIGHT
    return found if 1 <= found <= 8 else UPRIGHT
