"""States come back as they were, and bytes of a stranger do nothing but fail."""

from __future__ import annotations

import json
import math
import pickle
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from operators.annotate import Annotate
from operators.decode import Decode
from operators.emotion import SmoothedEmotion
from operators.identify import Identify
from operators.track import Track
from pipeline.errors import SinkError, SourceError
from pipeline.operator import KeyedOperator
from pipeline.packets import Candidate, EmbeddedFace, Embedding, EncodedFace, FeltFace, Identity, MaskState
from pipeline.policy import Policy
from pipeline.state_codec import MAX_BYTES, decode, encode
from pipeline.testing import make_face, make_frame, make_grown, noise, raw_chunks

ALLOWED = Policy(purpose="safety", identification=True, emotion=True)
Run = tuple[KeyedOperator[Any, Any, Any], Sequence[Sequence[Any]]]


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the last bit and type; a mapping may have become a plain one."""
    if isinstance(a, Mapping):
        return isinstance(b, dict) and list(a) == list(b) and same(tuple(a.values()), tuple(b.values()))
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, np.ndarray | np.generic):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return a.hex() == b.hex() if isinstance(a, float) else bool(a == b)


def again(value: Any) -> Any:
    return decode(encode({"stage": value}))["stage"]


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=512).astype(np.float32)
    return vector / np.linalg.norm(vector)


def decoding() -> Run:
    chunks = raw_chunks(noise(8), units=2)
    return Decode(), [chunks[:2], chunks[2:]]


def tracking() -> Run:
    def batch(first: int) -> list[Any]:
        boxes = [(100, 100, 200, 200), (300, 120, 380, 210)]
        frames = range(first, first + 4)
        faces = [make_face(n, tuple(side + 2.0 * n for side in box)) for n in frames for box in boxes]
        return [*(make_frame(n, 480, 640) for n in frames), *faces]

    return Track(), [batch(0), batch(4)]


def identifying() -> Run:
    def face(seq: int) -> EmbeddedFace:
        found = Embedding(unit(seq), (Candidate("anna", 0.7), Candidate("ben", 0.1)), "main", 3)
        return make_grown(
            EmbeddedFace, seq, embedding=found, track_id=f"camera:0:{seq % 2}", mask_probability=seq % 3 / 2
        )

    return Identify(ALLOWED), [[face(n) for n in range(6)], [face(n) for n in range(6, 12)]]


def feeling() -> Run:
    def face(seq: int) -> EncodedFace:
        return make_grown(EncodedFace, seq, emotion_logits=unit(seq)[:7] * 40)

    return SmoothedEmotion(ALLOWED), [[face(n) for n in range(0, 60, 3)], [face(n) for n in range(60, 120, 3)]]


def annotating() -> Run:
    def batch(first: int) -> list[Any]:
        known = Identity("known", "anna", 0.7)
        faces = [make_grown(FeltFace, n, identity=known, mask=MaskState("bare", 0.1)) for n in range(first, first + 4)]
        return [*(make_frame(n) for n in range(first, first + 4)), *faces]

    return Annotate(ALLOWED), [batch(0), batch(4)]


RUNS = (decoding, tracking, identifying, feeling, annotating)


@pytest.mark.parametrize("make", RUNS)
def test_a_state_of_every_operator_comes_back_as_it_was(make: Any) -> None:
    operator, (batch, _) = make()
    state, out = operator(operator.start("camera"), batch)
    assert list(out)
    assert state
    assert same(again(state), state)
    assert same(again(operator.start("camera")), operator.start("camera"))


@pytest.mark.parametrize("make", RUNS)
def test_an_operator_goes_on_from_a_state_that_was_read_as_if_nothing_had_been(make: Any) -> None:
    operator, (first, second) = make()
    state, _ = operator(operator.start("camera"), first)
    expected_state, expected = operator(state, second)
    expected = list(expected)
    told_state, told = operator(again(state), second)
    assert same(told_state, expected_state)
    assert same(tuple(told), tuple(expected))


def test_states_of_a_stream_are_small() -> None:
    states = {}
    for make in RUNS:
        operator, (batch, _) = make()
        states[make.__name__], _ = operator(operator.start("camera"), batch)
    assert len(encode(states)) < 20_000
    assert list(decode(encode(states))) == [make.__name__ for make in RUNS]


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            True,
            0,
            -1,
            1 << 200,
            0.1,
            -0.0,
            math.inf,
            math.nan,
            5e-324,
            "",
            "漢\n\ud800\0",
            (),
            ((), (1, "a"), None),
        ),
        *({}, {"t": {"a": 1}}, {"": ({"o": ()},)}),
        *(np.float32(0.1), np.int64(-7), np.bool_(True), np.array(1.5), np.zeros((0, 3), np.float32)),
        *(
            np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::2].T,
            np.array([[True], [False]]),
            np.array([np.nan, np.inf]),
        ),
    ],
    ids=repr,
)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert same(again(value), value)


def test_arrays_that_come_back_may_be_written_to() -> None:
    array = again(np.zeros(3))
    array[0] = 1


@dataclass(frozen=True)
class Foreign:
    x: int = 0


@pytest.mark.parametrize(
    "value", [object(), [1], {1}, {1: 2}, b"x", Foreign(), np.array(["a"]), np.array([None]), print, 1j]
)
def test_what_could_not_be_read_back_is_refused_when_it_is_written(value: Any) -> None:
    with pytest.raises(SinkError, match=r"a state holds a .*:.*, which cannot be written"):
        encode({"stage": (value,)})


def test_a_state_that_is_too_large_is_refused_when_it_is_written() -> None:
    with pytest.raises(SinkError, match=r"the states of \['track'\] take 6\d+ bytes"):
        encode({"track": np.zeros(MAX_BYTES, np.uint8)})


def test_a_field_that_an_older_version_did_not_have_takes_its_default() -> None:
    old = tampered({"s": {"o": ["operators.decode:DecodeState", {"epoch": 3}]}})
    assert decode(old)["s"].epoch == 3


def tampered(tree: Any, arrays: bytes = b"") -> bytes:
    """Bytes that hold any tree at all."""
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return b"omote.state/1\n" + zlib.compress(text + b"\n" + arrays)


def test_a_version_from_the_future_is_named() -> None:
    with pytest.raises(SourceError, match="the state is of version 2 and this omote reads version 1; upgrade"):
        decode(encode({}).replace(b"/1\n", b"/2\n"))


def test_a_field_from_the_future_is_named() -> None:
    with pytest.raises(
        SourceError, match=r"a state holds operators.decode:DecodeState with `depth`, unknown to .* upgrade"
    ):
        decode(tampered({"s": {"o": [STATE, {"depth": 1}]}}))


STATE = "operators.decode:DecodeState"
CLASSES = (
    *(
        "os:system",
        "builtins:eval",
        "subprocess:Popen",
        "pickle:loads",
        "",
        ":",
        "operators",
        "operators.",
        "operators.:X",
    ),
    *("operators.decode:Fraction", "operators.decode:replace", "operators.decode:Decode", "operators.nothing:Nothing"),
    *(
        "operators.decode:np.load",
        "operators.decode:DecodeState.__init__",
        "pipeline.graph:Graph",
        "pipeline.graph:Path",
    ),
    *(
        "pipeline.edges.files:JsonLines",
        "pipeline.walk:Journey",
        "pipeline.packets:Any",
        "operators.\0:X",
        "operators.\ud800:X",
    ),
)


@pytest.mark.parametrize("path", [*CLASSES, None, 7, [STATE], {"t": []}], ids=repr)
def test_no_other_class_can_be_named(path: Any) -> None:
    with pytest.raises(SourceError, match="the bytes are no state of omote"):
        decode(tampered({"s": {"o": [path, {}]}}))


HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "a pickle": pickle.dumps({"a": 1}),
    "no deflate": b"omote.state/1\nhello",
    "no JSON": tampered(b"hello"),
    "no mapping": tampered([1]),
    "a list": tampered({"s": [1]}),
    "two keys": tampered({"s": {"t": [], "m": {}}}),
    "no key": tampered({"s": {}}),
    "an unknown key": tampered({"s": {"x": 1}}),
    "no fields": tampered({"s": {"o": [STATE, 3]}}),
    "half an object": tampered({"s": {"o": [STATE]}}),
    "a wrong record": tampered({"s": {"o": ["pipeline.records:TrackSummary", {"frames": "many"}]}}),
    "an array of objects": tampered({"s": {"a": ["|O", [1]]}}, bytes(8)),
    "an array of arrays": tampered({"s": {"a": ["(9999,9999)f8", [0]]}}),
    "an array without end": tampered({"s": {"a": ["<f8", [1 << 62, 1 << 62]]}}, bytes(8)),
    "an array that is short": tampered({"s": {"a": ["<f8", [2]]}}, bytes(8)),
    "an array that is long": tampered({"s": {"a": ["<f8", [2]]}}, bytes(24)),
    "a negative side": tampered({"s": {"a": ["<f8", [-1]]}}, bytes(8)),
    "a side that is no number": tampered({"s": {"a": ["<f8", ["1"]]}}, bytes(8)),
    "an empty array that is wide": tampered({"s": {"a": ["<f8", [0, 10**30]]}}),
    "an array of many sides": tampered({"s": {"a": ["<f8", [1] * 99]}}, bytes(8)),
    "a shape that is no list": tampered({"s": {"a": ["<f8", 3]}}, bytes(8)),
    "a type that is no word": tampered({"s": {"a": [["<f8"], [1]]}}, bytes(8)),
    "nested without end": tampered(b'{"s":' + b'{"t":[' * 100_000 + b"]}" * 100_000 + b"}"),
    "a number without end": tampered(b'{"s":' + b"9" * 10_000 + b"}"),
    "a bomb": b"omote.state/1\n" + zlib.compress(bytes(MAX_BYTES + 1), 9),
    "more at its end": encode({}) + b"x",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(SourceError, match="the bytes are no state of omote, or a damaged one"):
        decode(data)


def test_a_state_cut_short_anywhere_is_refused() -> None:
    operator, (batch, _) = annotating()
    state, _ = operator(operator.start("camera"), batch)
    whole = encode({"annotate": state, "track": np.arange(40)})
    for length in range(len(whole)):
        with pytest.raises(SourceError):
            decode(whole[:length])


def test_damage_gives_another_state_or_a_sentence_and_nothing_else() -> None:
    operator, (batch, _) = tracking()
    state, _ = operator(operator.start("camera"), batch)
    plain = zlib.decompress(encode({"track": state}).partition(b"\n")[2])
    chance = random.Random(5)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(plain)
        for _ in range(chance.choice([1, 1, 4])):
            damaged[chance.randrange(min(len(damaged), 900))] = chance.choice(b'{}[]",:0919tamos\n.-_\x00\xff')
        try:
            decode(b"omote.state/1\n" + zlib.compress(bytes(damaged), 1))
        except SourceError:
            refused += 1
    assert refused > 500


def test_a_changed_state_is_another_state() -> None:
    operator, (batch, _) = decoding()
    state, _ = operator(operator.start("camera"), batch)
    assert not same(again(state), replace(state, frames=state.frames + 1))
