"""States of keyed operators as bytes, for the changelog: exact, compact, and safe to read from anybody.

The bytes are ``omote.state/1``, a line end, and a deflated JSON tree with a line end and the bytes of its
arrays, one after the other in the order of the tree. Numbers, strings and None stand for themselves;
everything else is an object with one key: ``t`` a tuple, ``m`` a mapping, ``a`` an array (type and shape; no
shape for a single number of NumPy), ``o`` an object (class and fields). Nothing is pickled: the classes that
bytes may name are the records and the frozen dataclasses of our own packages.
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
from pipeline.graph import find
from pipeline.records import Record

VERSION = 1
MAX_BYTES = 64 << 20  # of a tree and its arrays
MARK = re.compile(rb"omote\.state/(\d{1,9})\n")
TYPES = frozenset({"|b1", "|i1", "|u1", *(f"<{kind}{size}" for kind in "iuf" for size in (2, 4, 8))})
PLAIN = (str, int, float, bool, type(None))


def encode(states: Mapping[str, Any]) -> bytes:
    """The bytes of ``states``, by stage.

    Raises:
        SinkError: A state holds something that could not be read back, or is larger than ``MAX_BYTES``.
    """
    blobs: list[bytes] = []
    tree = {name: _tree(state, name, blobs) for name, state in states.items()}
    plain = b"\n".join([json.dumps(tree, separators=(",", ":")).encode(), b"".join(blobs)])
    if len(plain) > MAX_BYTES:
        message = f"the states of {sorted(states)} take {len(plain)} bytes, more than the {MAX_BYTES} that are read back"
        raise SinkError(message)
    return b"omote.state/%d\n" % VERSION + zlib.compress(plain, 1)


def decode(data: bytes) -> dict[str, Any]:
    """The states that `encode` was given.

    Raises:
        SourceError: The bytes are damaged, were not written by `encode`, or by a later version of it.
    """
    mark = MARK.match(data)
    if mark and int(mark[1]) > VERSION:
        message = f"the state has version {int(mark[1])} and this omote reads up to {VERSION}; upgrade it to go on"
        raise SourceError(message)
    try:
        if not mark:
            raise _Damaged("it does not begin as one")  # noqa: TRY301
        head, _, blob = _inflated(data[mark.end() :]).partition(b"\n")
        reading = _Reading(blob)
        states = {str(name): reading.value(tree) for name, tree in json.loads(head).items()}
        reading.finish()
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, OverflowError, zlib.error) as error:
        message = f"the bytes are no state of omote ({_short(error)}); without it the stream begins anew"
        raise SourceError(message) from error
    return states
