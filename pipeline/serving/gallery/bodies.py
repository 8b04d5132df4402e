"""Bodies of requests: never longer or slower than they may be, and never on a disk."""

from __future__ import annotations

import asyncio
import json
from io import BytesIO
from typing import Any

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message, Receive

from pipeline.gallery.errors import PictureError
from pipeline.gallery.uploads import from_base64
from pipeline.packets import Pixels

MOST_PARTS = 8
IMAGE = {"type": "string", "format": "binary", "description": "A JPEG, PNG, WebP, GIF or BMP file."}
BASE64 = {"type": "string", "contentEncoding": "base64", "maxLength": 24 << 20, "description": "The same, in base64."}


class MissingFileError(PictureError):
    """The body holds no file where there must be one."""


class InMemory(MultiPartParser):
    """Keeps what it reads in memory: a face that was on a disk once cannot be forgotten for certain."""

    spool_max_size = 1 << 40


def limited(receive: Receive, most_bytes: int, within_s: float) -> Receive:
    """``receive`` as long as the body is neither too long nor too slow, however it is sent."""
    left, until = most_bytes, asyncio.get_running_loop().time() + within_s

    async def receive_some() -> Message:
        nonlocal left
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            text = f"the body did not arrive within {within_s:g} s"
            raise HTTPException(408, text) from None
        left -= len(message.get("body", b""))
        if left < 0:
            text = f"the body is longer than {most_bytes} bytes"
            raise HTTPException(413, text)
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
        return await _parts(request, names)
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


async def _parts(request: Request, names: tuple[str, ...]) -> list[bytes]:
    parser = InMemory(request.headers, request.stream(), max_files=MOST_PARTS, max_fields=MOST_PARTS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        message = f"the body is no multipart/form-data that can be read: {error.message}"
        raise HTTPException(400, message) from error
    try:
        return [await _part(form.getlist(name), name) for name in names]
    finally:
        await form.close()


async def _part(found: list[UploadFile | str], name: str) -> bytes:
    if len(found) != 1 or not isinstance(found[0], UploadFile):
        message = f"send one file in the part {name!r}, with a file name"
        raise MissingFileError(message)
    return await found[0].read()


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
        HTTPException: It is no JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        message = "the body is no JSON that can be read"
        raise HTTPException(400, message) from None
