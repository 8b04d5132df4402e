"""States of keyed operators as bytes, for the changelog: exact, compact, and safe to read from anybody.

The bytes are ``omote.state/1``, a line end, and deflated: a tree in JSON, a line end, and the bytes of its
arrays in the order of the tree. Strings, numbers and None stand for themselves; anything else is an object
with one key: ``t`` a tuple, ``m`` a mapping, ``a`` an array by type and shape (None for a single number of
NumPy), ``o`` an object by class and fields. Nothing is pickled: the only classes that bytes may name are the
records and the plain frozen dataclasses of our own packages.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from pipeline.errors import GraphError, SinkError, SourceError
from pipeline.graph import ROOMS, find
from pipeline.records import Record

VERSION = 1
MAX_BYTES = 64 << 20  # of a tree and its arrays, before they are deflated
MARK = re.compile(rb"omote\.state/(\d{1,9})\n")
TYPES = frozenset({"|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8"})
PLAIN = (str, int, float, bool, type(None))


def encode(states: Mapping[str, Any]) -> bytes:
    """The bytes of ``states``, by name of the stage.

    Raises:
        SinkError: A state holds what could not be read back, or takes more than ``MAX_BYTES``.
    """
    arrays: list[bytes] = []
    tree = {name: _tree(state, arrays) for name, state in states.items()}
    plain = b"\n".join((json.dumps(tree, separators=(",", ":")).encode(), b"".join(arrays)))
    if len(plain) > MAX_BYTES:
        message = f"the states of {sorted(states)} take {len(plain)} bytes; no more than {MAX_BYTES} can be read back"
        raise SinkError(message)
    return b"omote.state/%d\n" % VERSION + zlib.compress(plain, 1)


def decode(data: bytes) -> dict[str, Any]:
    """The states that `encode` was given.

    Raises:
        SourceError: The bytes are damaged, nothing of omote's, or a newer omote wrote them.
    """
    mark = MARK.match(data)
    if mark and int(mark[1]) != VERSION:
        message = f"the state is of version {int(mark[1])} and this omote reads version {VERSION}; upgrade it"
        raise SourceError(message)
    try:
        return _decoded(data[mark.end() if mark else len(data) :])
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, OverflowError, zlib.error) as error:
        message = "the bytes are no state of omote, or a damaged one"
        raise SourceError(message) from error


def _tree(value: Any, arrays: list[bytes]) -> Any:
    if type(value) in PLAIN:
        return value
    if isinstance(value, tuple) and type(value) is tuple:
        return {"t": [_tree(item, arrays) for item in value]}
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {"m": {key: _tree(item, arrays) for key, item in value.items()}}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.str in TYPES:
        arrays.append(value.tobytes())
        return {"a": [value.dtype.str, list(value.shape) if isinstance(value, np.ndarray) else None]}
    if _may_be_named(type(value)):
        given = {name: _tree(getattr(value, name), arrays) for name in _names(type(value))}
        return {"o": [_path(type(value)), given]}
    message = (
        f"a state holds a {_path(type(value))}, which cannot be written to the changelog; states are made of frozen "
        "dataclasses and records of operators and pipeline, tuples, mappings by name, arrays, numbers and strings"
    )
    raise SinkError(message)


def _decoded(deflated: bytes) -> dict[str, Any]:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(deflated, MAX_BYTES)
    if not inflater.eof or inflater.unused_data:
        message = "it ends too early, too late, or is too large"
        raise ValueError(message)
    head, _, rest = plain.partition(b"\n")
    arrays = _Arrays(rest)
    states = {str(name): _value(tree, arrays) for name, tree in json.loads(head).items()}
    arrays.finish()
    return states


@dataclass(slots=True)
class _Arrays:
    """The arrays that are still to be read from ``data``."""

    data: bytes
    at: int = 0

    def next(self, kind: str, shape: list[int] | None) -> Any:
        if kind not in TYPES or any(type(side) is not int or side < 0 for side in shape or ()):
            message = f"no array is of type {kind!r} and shape {shape}"
            raise ValueError(message)
        count, start, dtype = math.prod(shape or ()), self.at, np.dtype(kind)
        self.at += count * dtype.itemsize
        if self.at > len(self.data):
            message = "an array ends too early"
            raise ValueError(message)
        flat = np.frombuffer(self.data, dtype, count, start).copy()
        return flat[0] if shape is None else flat.reshape(shape)

    def finish(self) -> None:
        if self.at != len(self.data):
            message = "there is more than the arrays"
            raise ValueError(message)


def _value(tree: Any, arrays: _Arrays) -> Any:
    if type(tree) in PLAIN:
        return tree
    ((kind, content),) = tree.items()
    match kind:
        case "t":
            return tuple(_value(item, arrays) for item in content)
        case "m":
            return {key: _value(item, arrays) for key, item in content.items()}
        case "a":
            return arrays.next(*content)
        case "o":
            path, given = content
            kind = _named(path)
            if strange := sorted(set(given) - set(_names(kind))):
                message = f"a state holds {path} with `{strange[0]}`, unknown to this omote; upgrade it"
                raise SourceError(message)
            return kind(**{name: _value(item, arrays) for name, item in given.items()})
    message = f"nothing is called {kind!r}"
    raise ValueError(message)


def _named(path: str) -> type:
    try:
        kind = find(path)
    except GraphError as error:
        raise ValueError(str(error)) from error
    if path != _path(kind) or not _may_be_named(kind):
        message = f"{path!r} is not made of a state's bytes"
        raise ValueError(message)
    return kind


def _may_be_named(kind: type) -> bool:
    """Whether objects of ``kind`` are their fields and nothing else, so that making one runs no code of its own."""
    if not kind.__module__.startswith(ROOMS):
        return False
    if issubclass(kind, Record):
        return True
    return is_dataclass(kind) and kind.__dataclass_params__.frozen and not hasattr(kind, "__post_init__")  # type: ignore[attr-defined]


def _names(kind: Any) -> list[str]:
    return list(kind.model_fields) if issubclass(kind, Record) else [field.name for field in fields(kind)]


def _path(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"
