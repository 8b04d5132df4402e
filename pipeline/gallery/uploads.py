"""Pictures that strangers send: decoded if they are what they say, refused in one sentence if not."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.gallery.errors import PictureError
from pipeline.gallery.picture_headers import Header, header
from pipeline.packets import Pixels

LEAST_SIDE, LONGEST_SIDE, MOST_PIXELS = 16, 16_384, 40_000_000

# By name, for `Image.open` would try every format there is, and warns of large pictures on its own.
DECODERS: Final[dict[str, type[ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
}
# What Pillow raises where a file is broken; nothing of it is promised, so this is what fuzzing it has shown.
BROKEN: Final = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(AssertionError, SyntaxError, RuntimeError, MemoryError, Warning),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
# How a picture as it is stored is put upright, by its orientation (EXIF 2.32, 4.6.4).
TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def picture(data: bytes) -> Pixels:
    """The picture in a file of JPEG, PNG, WebP, GIF or BMP: (H, W, 3) uint8 RGB, upright.

    Its size is judged by its header: what is too large is never decoded. What is transparent lies on white.

    Raises:
        PictureError: It is empty, no picture, damaged, too small, too large, or moves.
    """
    if not data:
        message = "the picture is empty; send a JPEG, PNG, WebP, GIF or BMP file"
        raise PictureError(message)
    told = header(data)
    if told is None:
        message = "this is no picture, or a damaged one; send a JPEG, PNG, WebP, GIF or BMP file"
        raise PictureError(message)
    _check(told)
    try:
        return _decoded(told)
    except BROKEN as error:
        message = f"the {told.kind} picture is damaged or cut short; send the whole file"
        raise PictureError(message) from error


def from_base64(text: str) -> bytes:
    """The bytes of ``text``, which is base64 and nothing else (RFC 4648, section 4).

    Raises:
        PictureError: There are other signs in it, or it is cut short.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        message = "the picture is no base64: send the file's bytes in the standard alphabet, padded, without a prefix"
        raise PictureError(message) from error


def _check(told: Header) -> None:
    width, height = told.width, told.height
    if told.moves:
        message = f"the {told.kind} picture moves; send one still picture"
        raise PictureError(message)
    if min(width, height) < LEAST_SIDE:
        message = f"the picture has {width}x{height} pixels; no side may be shorter than {LEAST_SIDE}"
        raise PictureError(message)
    if width * height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
        message = (
            f"the picture has {width}x{height} pixels; at most {MOST_PIXELS // 1_000_000} megapixels are read, "
            f"and no side longer than {LONGEST_SIDE}: send a smaller one"
        )
        raise PictureError(message)


def _decoded(told: Header) -> Pixels:
    with DECODERS[told.kind](BytesIO(told.data)) as image:
        if image.size != (told.width, told.height):
            message = f"the file says {told.width}x{told.height}, its decoder {image.size}"
            raise ValueError(message)
        image.load()
        upright = image.transpose(TURNS[told.orientation]) if told.orientation in TURNS else image
        return np.array(_rgb(upright), np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, of which Pillow would keep the lower half
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    above = image.convert("RGBA")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(above, mask=above.getchannel("A"))
    return ground
