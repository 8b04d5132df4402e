"""Bodies of requests: never longer or slower than they may be, and never on a disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from pipeline.gallery.errors import PictureError
from pipeline.gallery.uploads import from_base64
from pipeline.packets import Pixels

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_PARTS = 8
MOST_VALUES = 150_000  # of a JSON: some more than 256 vectors of 512 numbers have
IMAGE = {"type": "string", "format": "binary", "description": "A JPEG, PNG, WebP, GIF or BMP file."}
BASE64 = {"type": "string", "contentEncoding": "base64", "maxLength": 24 << 20, "description": "The same, in base64."}


class Sent(Request):
    """A request whose JSON is looked at before it is read."""

    async def json(self) -> Any:
        """What the body says."""
        _count_values(await self.body())
        return await super().json()


class MissingFileError(PictureError):
    """The body holds no file where there must be one."""


class Parts:
    """The files of a body of ``multipart/form-data``, by name. They never touch a disk.

    What was on a disk once cannot be forgotten for certain, so there are no temporary files here.
    """

    def __init__(self, content_type: str, body: bytes) -> None:
        """Read the body.

        Raises:
            HTTPException: It is broken, cut short, or of too many parts.
        """
        self.files: dict[str, list[bytes]] = {}
        self._name, self._value, self._disposition = bytearray(), bytearray(), b""
        self._data, self._count, self._ended = bytearray(), 0, False
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        try:
            parser = MultipartParser(boundary, self._callbacks())
            parser.write(body)
        except FormParserError as error:
            message = "the body is no multipart/form-data that can be read"
            raise HTTPException(400, message) from error
        if not self._ended:
            message = "the multipart/form-data is cut short: its last boundary is missing"
            raise HTTPException(400, message)

    def _callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._count += 1
        if self._count > MOST_PARTS:
            message = f"the body has more than {MOST_PARTS} parts"
            raise HTTPException(400, message)
        self._disposition, self._data = b"", bytearray()

    def _header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if b"filename" in options:
            self.files.setdefault(options.get(b"name", b"").decode("utf-8", "replace"), []).append(bytes(self._data))

    def _finish(self) -> None:
        self._ended = True


def limited(receive: Receive, most_bytes: int, within_s: float, hold: Callable[[int], None]) -> Receive:
    """``receive`` as long as the body is neither too long nor too slow, however it is sent.

    ``hold`` is told of each part how many bytes it has, and may raise.
    """
    left, until = most_bytes, asyncio.get_running_loop().time() + within_s

    async def receive_some() -> Message:
        nonlocal left
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            text = f"the body did not arrive within {within_s:g} s"
            raise HTTPException(408, text) from None
        if message["type"] == "http.disconnect":
            text = "the body is cut short: whoever sent it has gone"
            raise HTTPException(400, text)
        size = len(message.get("body", b""))
        left -= size
        if left < 0:
            text = f"the body is longer than {most_bytes} bytes"
            raise HTTPException(413, text)
        hold(size)
        return message

    return receive_some


def jpeg(image: Pixels) -> bytes:
    """``image``, (H, W, 3) uint8 RGB, as a JPEG file."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92)
    return file.getvalue()


async def files(request: Request, *names: str) -> list[bytes]:
    """The files of these names: parts of ``multipart/form-data``, or base64 in ``application/json``.

    Raises:
        HTTPException: The body is of another type, or broken.
        MissingFileError: One of the files is not there.
        PictureError: One is no base64.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        parts = Parts(request.headers["content-type"], await request.body())
        return [_part(parts.files, name) for name in names]
    if kind == "application/json":
        return _decoded(await request.body(), names)
    message = "send the picture as multipart/form-data, or in base64 as application/json"
    raise HTTPException(415, message)


def declared(*names: str, **more: Any) -> dict[str, Any]:
    """What a route says in OpenAPI of a body that `files` reads; ``more`` are properties of the JSON alone."""
    parts = {"type": "object", "required": list(names), "properties": dict.fromkeys(names, IMAGE)}
    required = {} if more else {"required": list(names)}
    texts = {"type": "object", **required, "properties": {**dict.fromkeys(names, BASE64), **more}}
    content = {"multipart/form-data": {"schema": parts}, "application/json": {"schema": texts}}
    return {"requestBody": {"required": True, "content": content}}


def _part(files: dict[str, list[bytes]], name: str) -> bytes:
    found = files.get(name, [])
    if len(found) != 1:
        message = f"send one file in the part {name!r}, with a file name"
        raise MissingFileError(message)
    return found[0]


def _decoded(body: bytes, names: tuple[str, ...]) -> list[bytes]:
    given = parsed(body)
    texts = [given.get(name) for name in names] if isinstance(given, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        message = f"the JSON must hold {' and '.join(repr(name) for name in names)}, each a picture in base64"
        raise MissingFileError(message)
    return [from_base64(str(text)) for text in texts]


def parsed(body: bytes) -> Any:
    """What the JSON in ``body`` says.

    Raises:
        HTTPException: It is no JSON, or a huge one.
    """
    _count_values(body)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        message = "the body is no JSON that can be read"
        raise HTTPException(400, message) from None


def _count_values(body: bytes) -> None:
    """Refuse a JSON of millions of values: whoever reads it does nothing else for seconds."""
    if sum(body.count(sign) for sign in b",[{") > MOST_VALUES:
        message = f"the JSON of the body holds more than {MOST_VALUES} values"
        raise HTTPException(413, message)
