"""What keys promise: nothing opens that should not, and they tell nothing."""

from __future__ import annotations

import copy
import json
import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from pipeline.gallery.keys import Keys, KeysError, canonical

CONTEXT = b"omote:{main}:template:7"


@pytest.fixture
def keys() -> Keys:
    return Keys.new()


@pytest.fixture
def file(keys: Keys, tmp_path: Path) -> Path:
    keys.write(tmp_path / "keys.json")
    return tmp_path / "keys.json"


def secrets(file: Path) -> list[str]:
    said = json.loads(file.read_text())
    return [said["signing"], *said["data"].values()]


@pytest.mark.parametrize("data", [b"", b"\0", os.urandom(2048)])
def test_what_was_sealed_opens_and_shows_nothing(keys: Keys, data: bytes) -> None:
    blob = keys.seal(data, CONTEXT)
    assert keys.open(blob, CONTEXT) == data
    assert len(data) < 2 or data not in blob
    assert keys.key_of(blob) == keys.current


def test_the_same_data_is_never_sealed_the_same(keys: Keys) -> None:
    assert len({keys.seal(b"vector", CONTEXT) for _ in range(1000)}) == 1000


def test_no_bit_of_a_blob_can_be_changed(keys: Keys) -> None:
    blob = keys.seal(b"vector", CONTEXT)
    for bit in range(8 * len(blob)):
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(KeysError):
            keys.open(bytes(changed), CONTEXT)


def test_no_part_of_a_blob_opens(keys: Keys) -> None:
    blob = keys.seal(b"vector", CONTEXT)
    for length in range(len(blob)):
        with pytest.raises(KeysError):
            keys.open(blob[:length], CONTEXT)
    with pytest.raises(KeysError, match="changed"):
        keys.open(blob + b"\0", CONTEXT)


def test_a_blob_cannot_be_moved_to_another_place(keys: Keys) -> None:
    with pytest.raises(KeysError, match="moved from another place"):
        keys.open(keys.seal(b"vector", CONTEXT), b"omote:{main}:template:8")


def test_another_key_opens_nothing_even_under_the_same_id(keys: Keys) -> None:
    blob = keys.seal(b"vector", CONTEXT)
    with pytest.raises(KeysError, match=f"{keys.current!r} does not open: the keys do not hold it"):
        Keys.new().open(blob, CONTEXT)
    with pytest.raises(KeysError, match="the key is not the one of this id"):
        Keys(keys.current, {keys.current: os.urandom(32)}, os.urandom(32)).open(blob, CONTEXT)


def test_rotation_seals_with_a_new_key_and_opens_with_all_until_one_is_taken_away(keys: Keys) -> None:
    old, rotated = keys.seal(b"old", CONTEXT), keys.rotated()
    new = rotated.seal(b"new", CONTEXT)
    assert [rotated.open(old, CONTEXT), rotated.open(new, CONTEXT)] == [b"old", b"new"]
    assert rotated.key_of(new) == rotated.current != keys.current
    assert rotated.key_ids == (keys.current, rotated.current)
    without = rotated.without(keys.current)
    assert without.open(new, CONTEXT) == b"new"
    with pytest.raises(KeysError, match="do not hold it"):
        without.open(old, CONTEXT)


def test_the_current_key_and_one_that_is_not_there_cannot_be_taken_away(keys: Keys) -> None:
    with pytest.raises(KeysError, match="rotate first"):
        keys.without(keys.current)
    with pytest.raises(KeysError, match="is not there"):
        keys.without("00000000")


def test_pseudonyms_and_signatures_outlive_rotation_and_belong_to_one_installation(keys: Keys) -> None:
    rotated = keys.rotated()
    assert keys.pseudonym("main", "anna") == rotated.pseudonym("main", "anna")
    assert keys.public_key == rotated.public_key
    others = [keys.pseudonym("main", "anne"), keys.pseudonym("mai", "nanna"), Keys.new().pseudonym("main", "anna")]
    assert keys.pseudonym("main", "anna") not in others
    assert len(set(others)) == 3
    assert len(others[0]) == 24


def test_a_signature_holds_for_these_bytes_and_this_key_only(keys: Keys) -> None:
    signature = keys.sign(b"receipt")
    assert Keys.verify(keys.public_key, b"receipt", signature)
    assert not Keys.verify(keys.public_key, b"receipts", signature)
    assert not Keys.verify(keys.public_key, b"receipt", signature[:-1])
    assert not Keys.verify(Keys.new().public_key, b"receipt", signature)
    with pytest.raises(KeysError, match="'nobody' is no public key"):
        Keys.verify("nobody", b"receipt", signature)


def test_a_file_brings_back_the_same_keys(keys: Keys, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMOTE_GALLERY_KEYS_FILE", str(file))
    again = Keys.from_environment()
    assert again.open(keys.seal(b"vector", CONTEXT), CONTEXT) == b"vector"
    assert again.public_key == keys.public_key
    monkeypatch.delenv("OMOTE_GALLERY_KEYS_FILE")
    monkeypatch.setenv("OMOTE_GALLERY_KEYS", file.read_text())
    assert Keys.from_environment().public_key == keys.public_key


def test_without_keys_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMOTE_GALLERY_KEYS_FILE", raising=False)
    monkeypatch.delenv("OMOTE_GALLERY_KEYS", raising=False)
    with pytest.raises(KeysError, match="`omote gallery keys new FILE`"):
        Keys.from_environment()


def test_a_file_is_its_owners_alone_and_is_never_overwritten(keys: Keys, file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    with pytest.raises(KeysError, match="never overwritten"):
        keys.write(file)
    assert file.read_bytes() == before
    with pytest.raises(KeysError, match="cannot write"):
        keys.write(file.parent / "nowhere" / "keys.json")


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o602])
def test_a_file_that_others_may_read_or_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(KeysError, match=f"chmod 600 {file}"):
        Keys.read(file)


def damaged(said: dict[str, object]) -> list[str]:
    data = dict(said["data"])  # type: ignore[call-overload]
    key = next(iter(data))
    return [
        "",
        "[]",
        "{",
        json.dumps(said)[:-20],
        json.dumps({**said, "signing": str(said["signing"])[:-8]}),
        json.dumps({**said, "signing": "?" + str(said["signing"])[1:]}),
        json.dumps({**said, "current": "00000000"}),
        json.dumps({**said, "data": {"../../..": data[key]}}),
        json.dumps({**said, "data": {key: data[key] * 2}}),
        json.dumps({**said, "data": {key: 7}}),
        json.dumps({**said, "format": "omote.keys/2"}),
        json.dumps({**said, "more": said["signing"]}),
    ]


@pytest.mark.parametrize("number", range(12))
def test_a_damaged_file_is_refused_in_a_sentence_that_tells_no_secret(file: Path, number: int) -> None:
    hidden = secrets(file)
    file.write_text(damaged(json.loads(file.read_text()))[number])
    with pytest.raises(KeysError, match="holds no keys") as refused:
        Keys.read(file)
    chain: list[BaseException] = [refused.value]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    for secret in hidden:
        assert not any(secret[:12] in f"{each} {each!r} {vars(each)}" for each in chain)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="No such file"):
        Keys.read(tmp_path / "none")
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "picture").chmod(0o600)
    with pytest.raises(KeysError, match="it is no text"):
        Keys.read(tmp_path / "picture")


def test_keys_tell_nothing_and_are_not_pickled_or_copied(keys: Keys, file: Path) -> None:
    shown = f"{keys} {keys!r}"
    assert all(secret[:12] not in shown for secret in secrets(file))
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"Keys\.from_environment\(\)"):
            attempt(keys)


def test_canonical_json_does_not_depend_on_order_and_refuses_what_json_has_not() -> None:
    assert canonical({"b": [1.5, True], "a": "ü"}) == canonical({"a": "ü", "b": [1.5, True]})
    assert canonical({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"score": float("nan")})


def test_ten_thousand_vectors_open_in_well_under_a_second(keys: Keys) -> None:
    blobs = [keys.seal(os.urandom(2048), CONTEXT) for _ in range(10_000)]
    since = time.perf_counter()
    for blob in blobs:
        keys.open(blob, CONTEXT)
    assert time.perf_counter() - since < 0.5  # 0.04 s on a machine with nothing else to do


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys look after their file whenever they are used."""
    monkeypatch.setattr("pipeline.gallery.keys.LOOK_S", 0.0)


@pytest.mark.usefixtures("looks")
def test_whoever_runs_with_a_file_follows_it_while_keys_are_rotated_and_dropped(file: Path) -> None:
    running, old = Keys.read(file), Keys.read(file).current
    before = running.seal(b"before", CONTEXT)
    rotated = Keys.read(file).rotated()
    rotated.replace(file)
    assert running.open(rotated.seal(b"new", CONTEXT), CONTEXT) == b"new"
    after = running.seal(b"after", CONTEXT)
    assert running.key_of(after) == running.current == rotated.current
    assert running.open(before, CONTEXT) == b"before"
    rotated.without(old).replace(file)
    assert running.seal(b"", CONTEXT)
    assert running.key_ids == (rotated.current,)
    with pytest.raises(KeysError, match="do not hold it"):
        running.open(before, CONTEXT)


def test_a_file_is_looked_at_once_a_second_at_most(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, looked = [1000.0], []
    monkeypatch.setattr("pipeline.gallery.keys.time.monotonic", lambda: now[0])
    running, strange = Keys.read(file), Keys.new().seal(b"", CONTEXT)
    monkeypatch.setattr("pipeline.gallery.keys._seen", lambda status: looked.append(1))
    monkeypatch.setattr(Keys, "_take", lambda self, path: None)
    for now[0] in (1000.5, 1001.5, 1001.6, 1002.4, 1002.6):
        running.seal(b"", CONTEXT)
        with pytest.raises(KeysError):
            running.open(strange, CONTEXT)
    assert len(looked) == 2


@pytest.mark.usefixtures("looks")
@pytest.mark.parametrize("harm", ["gone", "open", "garbage", "another's"])
def test_keys_stay_as_they_were_where_their_file_is_none_any_more(file: Path, harm: str) -> None:
    running = Keys.read(file)
    blob = running.seal(b"vector", CONTEXT)
    if harm == "another's":
        Keys.new().replace(file)
    elif harm == "open":
        running.rotated().replace(file)
        file.chmod(0o644)
    elif harm == "garbage":
        file.write_text("{")
    else:
        file.unlink()
    assert running.key_of(running.seal(b"", CONTEXT)) == running.key_of(blob)
    assert running.open(blob, CONTEXT) == b"vector"


@pytest.mark.usefixtures("looks")
def test_threads_that_seal_while_keys_are_rotated_seal_what_opens(file: Path) -> None:
    running = Keys.read(file)
    over, blobs = threading.Event(), []

    def seal() -> None:
        while not over.is_set():
            blobs.append(running.seal(b"vector", CONTEXT))

    threads = [threading.Thread(target=seal) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        Keys.read(file).rotated().replace(file)
        time.sleep(0.02)
    over.set()
    for thread in threads:
        thread.join()
    last = Keys.read(file)
    assert len({last.key_of(blob) for blob in blobs}) > 1
    assert {last.open(blob, CONTEXT) for blob in blobs} == {b"vector"}


def test_a_file_is_replaced_whole_stays_its_owners_and_a_link_to_it_stays(keys: Keys, file: Path) -> None:
    (file.parent / "link.json").symlink_to(file)
    keys.rotated().replace(file.parent / "link.json")
    assert (file.parent / "link.json").is_symlink()
    assert len(Keys.read(file).key_ids) == 2
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeysError, match="cannot replace"):
        keys.replace(file.parent / "none.json")
    assert sorted(each.name for each in file.parent.iterdir()) == ["keys.json", "link.json"]
