"""``omote gallery`` as a user meets it: on real faces, on a real Redis, and with everything that they may get wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import cv2
import numpy as np
import pytest

from pipeline.__main__ import main
from pipeline.commands.gallery_access import opened
from pipeline.gallery.keys import FILE_VARIABLE, Keys
from pipeline.gallery.memory import MemoryGallery
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import NamespacePolicy
from tests.support.serving import Cast

pytestmark = [pytest.mark.usefixtures("weights_ready")]

ONE, OTHER = "George_W_Bush", "Jennifer_Capriati"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def namespace() -> str:
    return f"t{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    Keys.new().write(file)
    return file


@pytest.fixture
def run(
    redis_url: str, namespace: str, keys_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """``run("list")`` is exit status, standard output and standard error of ``omote gallery list``."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("OMOTE_GALLERY", namespace)
    monkeypatch.setenv(FILE_VARIABLE, str(keys_file))

    def call(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["gallery", *map(str, words)])
        said = capfd.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture(scope="module")
def photos(people: Cast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, and files that are no photo of anybody."""
    folder = tmp_path_factory.mktemp("photos")
    for name in (ONE, OTHER):
        (folder / name).mkdir()
        cv2.imwrite(str(folder / name / "0.png"), cv2.resize(people.faces[name][0], None, fx=2, fy=2))
    (folder / ONE / "text.jpg").write_text("no picture")
    cv2.imwrite(str(folder / ONE / "black.png"), np.zeros((200, 200, 3), np.uint8))
    (folder / "Twin").mkdir()
    shutil.copy(folder / ONE / "0.png", folder / "Twin" / "0.png")
    return folder


@pytest.fixture(scope="module")
def probe(people: Cast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("probe") / "probe.png"
    cv2.imwrite(str(file), cv2.resize(people.faces[ONE][1], None, fx=2, fy=2))
    return file


def test_a_gallery_from_first_photo_to_receipt(run: Run, photos: Path, probe: Path, tmp_path: Path) -> None:
    status, _, err = run("enrol", photos)
    assert status == 0
    assert "2 of 5 photos enrolled" in err
    for reason in ("no picture", "no face", f"looks like '{ONE}'"):
        assert reason in err
    assert "this photo is enrolled already" in run("enrol", photos)[2]

    found = json.loads(run("search", probe, "--json")[1])
    assert [(each["decision"], each["subject_id"]) for each in found] == [("known", ONE)]
    assert run("verify", probe, ONE)[0] == 0
    assert run("verify", probe, OTHER)[0] == 1
    assert ONE in run("show", ONE)[1]

    assert run("export", tmp_path / "gallery.npz")[0] == 0
    assert (tmp_path / "gallery.npz").stat().st_mode & 0o077 == 0

    assert run("not-me", ONE, probe)[0] == 0
    (refuted,) = json.loads(run("search", probe, "--json")[1])
    assert refuted["decision"] == "unknown"

    assert run("merge", OTHER, ONE)[0] == 0
    assert [row["id"] for row in json.loads(run("list", "--json")[1])] == [ONE]

    status, out, _ = run("delete", ONE, "--yes", "--receipt", tmp_path / "receipt.json")
    receipt = json.loads(out)["receipt"]
    assert (receipt["removed"]["vectors"], receipt["removed"]["negatives"]) == (2, 1)
    assert ONE not in out
    assert run("erasure", receipt["id"])[0] == 0
    assert "nobody is known" in run("list")[1]

    assert run("import", tmp_path / "gallery.npz")[0] == 0
    assert len(json.loads(run("list", "--json")[1])) == 2


def test_the_log_tells_all_of_it_without_a_name(run: Run, tmp_path: Path) -> None:
    told = [json.loads(line) for line in run("audit", "list", "--json", "--limit", "1000")[1].splitlines()]
    assert {"enrol", "search", "verify", "not me", "merge", "delete", "erasure", "export", "import"} <= {
        each["action"] for each in told
    }
    assert ONE not in json.dumps(told)
    about = [json.loads(line) for line in run("audit", "list", "--subject", ONE, "--json")[1].splitlines()]
    assert {each["action"] for each in about} >= {"enrol", "verify", "delete"}
    assert run("audit", "verify")[0] == 0
    assert run("audit", "export", "--to", tmp_path / "audit.jsonl")[0] == 0
    assert run("audit", "verify", "--against", tmp_path / "audit.jsonl")[0] == 0


def test_who_has_an_exported_log_and_the_public_key_can_verify_it(run: Run, keys_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    assert run("audit", "export", "--to", file)[0] == 0
    key = Keys.read(keys_file).public_key
    asked = ("audit", "verify", "--file", file, "--public-key", key, "--redis", "redis://127.0.0.1:1/0")
    status, out, _ = run(*asked)
    assert (status, "is whole, and signed by this key" in out) == (0, True)
    file.write_bytes(file.read_bytes().replace(b'"enrol"', b'"other"', 1))
    status, out, _ = run(*asked)
    assert (status, "entry" in out) == (1, True)
    assert run("audit", "verify", "--file", tmp_path / "none", "--public-key", key)[0] == 1
    assert run("audit", "verify", "--file", file)[0] == 2


def test_a_gallery_that_is_too_small_bears_no_threshold(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("calibrate", "--picture", tmp_path / "curve.png")
    assert status == 1
    assert "enrol more" in out
    assert cv2.imread(str(tmp_path / "curve.png")) is not None


def test_api_keys_are_made_shown_once_and_revoked(run: Run, namespace: str) -> None:
    status, shown, err = run("access", "new", "door", "--role", "reader")
    assert status == 0
    assert shown.startswith("omk_")
    number = shown.split("_")[1]
    assert number in err
    listed = run("access", "list", "-n", namespace)[1]
    assert "door" in listed
    assert shown.strip() not in listed
    assert run("access", "revoke", number)[0] == 0
    assert "no API keys" in run("access", "list", "-n", namespace)[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "Nobody"], "there is no subject 'Nobody'"),
        (["delete", "Nobody", "--yes"], "there is no subject 'Nobody'"),
        (["erasure", "0" * 32], "there is no receipt"),
        (["enrol", "/nowhere"], "holds no folder of photos"),
        (["search", "/nowhere.jpg"], "cannot read /nowhere.jpg"),
        (["assign", "c1", "Nobody"], "there is no cluster"),
        (["import", "/nowhere.npz"], "no such file"),
        (["keys", "new", "/nowhere/keys.json"], "choose another folder"),
        (["delete", ONE, "--yes", "--receipt", "/nowhere/receipt.json"], "there is no folder /nowhere"),
        (["delete", ONE, "--yes", "--receipt", "/"], "it is a folder"),
        (["calibrate", "--picture", "/nowhere/curve.png"], "there is no folder /nowhere"),
        (["access", "new", "bad "], "there can be no such API key: `name`: "),
        (["access", "new", "x", "-n", "bad name"], "there can be no such API key: `namespace`: "),
        (["keys", "rotate", "/nowhere/keys.json"], "cannot read the keys file"),
        (["audit", "inspect", "--rules", "/nowhere.yaml"], "/nowhere.yaml"),
        (["access", "revoke", "0" * 16], "there is no API key"),
        (["list", "--redis", "redis://127.0.0.1:1/0"], "does not answer"),
        (["list", "--redis", "http://localhost"], "no Redis URL"),
        (["list", "-n", "../other"], "can be no name of a gallery"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], sentence: str, run: Run) -> None:
    status, _, err = run(*words)
    assert status == 1
    assert sentence in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["--per-minute", "9999999"], ["--days", "999999999"]])
def test_a_number_that_cannot_be_is_wrong_usage(words: list[str], run: Run) -> None:
    status, _, err = run("access", "new", "x", *words)
    assert status == 2
    assert words[0] in err
    assert "Traceback" not in err


def test_a_name_that_the_api_could_not_address_is_not_taken_in(run: Run, tmp_path: Path) -> None:
    gallery, vector = MemoryGallery(), np.eye(1, 512, dtype=np.float32)[0]
    gallery.enrol([Template("a/b", vector, 0.9)])
    gallery.save(tmp_path / "slash.npz")
    status, _, err = run("import", tmp_path / "slash.npz")
    assert status == 1
    assert "'a/b' can be no name" in err


def test_where_purposes_are_asked_for_the_gallery_is_still_looked_after(run: Run, namespace: str) -> None:
    with opened(namespace) as at:
        at.service.set_policy(at.caller, NamespacePolicy(purposes=("access",)))
    try:
        for words in (["audit", "list"], ["audit", "verify"], ["keys", "reseal"], ["erasure", "0" * 32]):
            assert "without a purpose" not in run(*words)[2]
            assert "without a purpose" not in run(*words, "--purpose", "care")[2]
        assert "without a purpose" in run("list")[2]
        assert run("list", "--purpose", "access")[0] == 0
    finally:
        with opened(namespace) as at:
            at.service.set_policy(at.caller, NamespacePolicy())


def test_a_receipt_is_shown_before_it_is_written(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("enrol", photos)[0] == 0

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    status, out, err = run("delete", OTHER, "--yes", "--receipt", tmp_path / "receipt.json")
    assert status == 1
    assert json.loads(out)["receipt"]["id"]
    assert "No space left" in err


def test_without_keys_or_with_others_nothing_is_read(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Keys.new().write(tmp_path / "other.json")
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "other.json"))
    status, _, err = run("show", ONE)
    assert status == 1
    assert "does not open" in err or "did not sign" in err
    monkeypatch.delenv(FILE_VARIABLE)
    assert "omote gallery keys new" in run("list")[2]
    (tmp_path / "other.json").chmod(0o644)
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "other.json"))
    assert "chmod" in run("list")[2]


def test_keys_are_rotated_without_losing_anybody(run: Run, keys_file: Path) -> None:
    before = json.loads(run("list", "--json")[1])
    old = Keys.read(keys_file).current
    status, out, _ = run("keys", "rotate", keys_file)
    assert status == 0
    assert "omote gallery keys reseal" in out
    assert "2 pieces sealed anew" in run("keys", "reseal")[1]
    assert "0 pieces sealed anew" in run("keys", "reseal")[1]
    assert run("keys", "drop", keys_file, old, "--yes")[0] == 0
    assert keys_file.stat().st_mode & 0o777 == 0o600
    assert json.loads(run("list", "--json")[1]) == before
    assert run("show", ONE)[0] == 0
