"""H.264 with start codes (Annex B), which needs no headers from elsewhere: what a message of a broker must be."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.packets import Codec

START = b"\x00\x00\x00\x01"
SPS = 7  # type of the NAL unit that begins what a decoder must know (ITU-T H.264, table 7-1)


def annex_b(data: bytes, codec: Codec, *, keyframe: bool) -> bytes:
    """An access unit with start codes; before a key frame come the parameter sets, where it does not hold them.

    Args:
        data: The access unit, with start codes or, if ``codec.extradata`` is an ``avcC`` box, with lengths.
        codec: The codec of its stream.
        keyframe: Whether decoding may start here.
    """
    boxed = codec.extradata[:1] == b"\x01"
    units = list(_split(data, (codec.extradata[4] & 3) + 1)) if boxed else []
    plain = b"".join(START + unit for unit in units) if boxed else data
    if not keyframe or _has_parameters(plain):
        return plain
    return (_parameters(codec.extradata) if boxed else codec.extradata) + plain


def _split(data: bytes, size: int) -> Iterator[bytes]:
    at = 0
    while at + size <= len(data):
        length = int.from_bytes(data[at : at + size])
        yield data[at + size : at + size + length]
        at += size + length


def _has_parameters(plain: bytes) -> bool:
    found = plain.split(b"\x00\x00\x01")[1:5]  # they come first, after at most a delimiter and a message or two
    return any(unit[:1] and unit[0] & 0x1F == SPS for unit in found)


def _parameters(box: bytes) -> bytes:
    """The parameter sets in an ``avcC`` box (ISO/IEC 14496-15, 5.3.3)."""
    out, at = b"", 5
    for mask in (0x1F, 0xFF):  # sequence parameter sets, then picture parameter sets
        count, at = box[at] & mask, at + 1
        for _ in range(count):
            length = int.from_bytes(box[at : at + 2])
            out, at = out + START + box[at + 2 : at + 2 + length], at + 2 + length
    return out
