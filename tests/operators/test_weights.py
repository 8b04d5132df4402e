"""Weights and clips: pulled by the registries' clients, checked by sha256, refused by name."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from pathlib import Path

import pytest
import yaml

from operators import archives, weights
from operators.archives import Archive
from pipeline.errors import WeightsError

FILES = {"toy/net.bin": b"weights", "toy/faces/s1/1.pgm": b"one", "toy/faces/s2/1.pgm": b"two"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path) -> Path:
    """The smallest wheel that pip accepts, with ``FILES`` in it."""
    wheel = folder / "toy-1.0-py3-none-any.whl"
    about = {
        "toy-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
        "toy-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "toy-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in (FILES | about).items():
            archive.writestr(name, content)
    return wheel


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the package registry, an empty cache, and a manifest of what the folder holds."""
    folder = tmp_path / "registry"
    folder.mkdir()
    wheel = make_wheel(folder)
    monkeypatch.setenv("OMOTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    toy = {"registry": "pypi", "version": "1.0", "file": wheel.name, "bytes": wheel.stat().st_size}
    listing = f"{sha256(b'one')}  s1/1.pgm\n{sha256(b'two')}  s2/1.pgm\n".encode()
    about = {"role": "toy", "archive": "toy", "licence": "MIT", "research": False}
    manifest = {
        "archives": {"toy": toy | {"sha256": archives.sha256(wheel)}},
        "assets": {
            "net": about | {"group": "models", "member": "toy/net.bin", "bytes": 7, "sha256": sha256(b"weights")},
            "faces": about
            | {"group": "benchmarks", "member": "toy/faces/s*/*.pgm", "bytes": 6, "sha256": sha256(listing)},
        },
    }
    written = tmp_path / "weights.yaml"
    written.write_text(yaml.safe_dump(manifest))
    monkeypatch.setattr(weights, "_MANIFEST", written)
    return folder


def stock(registry: Path) -> Path:
    """Put the wheel where an earlier pull would have left it."""
    stocked = weights.cache() / "archives" / "toy-1.0-py3-none-any.whl"
    stocked.parent.mkdir(parents=True)
    stocked.write_bytes(next(registry.iterdir()).read_bytes())
    return stocked


def states() -> dict[str, str]:
    return {row.name: row.state for row in weights.table() if row.source != "omote"}


def test_a_pull_fetches_by_pip_and_takes_out_only_what_is_wanted(registry: Path) -> None:
    told = []
    weights.pull(["models"], lambda *progress: told.append(progress))
    assert weights.path("net").read_bytes() == b"weights"
    assert states() == {"net": "verified", "faces": "missing"}
    size = next(registry.iterdir()).stat().st_size
    assert told[-1] == ("toy", size, size)


def test_a_folder_of_files_is_one_asset(registry: Path) -> None:
    stock(registry)
    weights.pull(["benchmarks"])
    assert (weights.path("faces") / "s2" / "1.pgm").read_bytes() == b"two"


def test_what_is_here_is_not_fetched_again(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock(registry)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    weights.pull(["models", "benchmarks"])
    weights.pull(["models", "benchmarks"])
    assert set(states().values()) == {"verified"}


def test_a_missing_asset_names_itself_and_the_way_out(registry: Path) -> None:
    with pytest.raises(WeightsError, match=r"net is not in .* run `omote models pull`"):
        weights.path("net")
    with pytest.raises(WeightsError, match="no asset 'nte'"):
        weights.path("nte")


def test_an_asset_that_was_altered_is_refused_by_name_and_repaired_by_a_pull(registry: Path) -> None:
    stock(registry)
    weights.pull(["models"])
    weights.path("net").write_bytes(b"altered")
    assert states()["net"] == "damaged"
    with pytest.raises(WeightsError, match="pinned for net"):
        weights.path("net")
    weights.pull(["models"])
    assert weights.path("net").read_bytes() == b"weights"


def test_a_file_that_is_missing_from_a_folder_is_noticed(registry: Path) -> None:
    stock(registry)
    weights.pull(["benchmarks"])
    (weights.path("faces") / "s1" / "1.pgm").unlink()
    assert states()["faces"] == "damaged"


def test_an_archive_with_a_wrong_hash_is_refused_with_both_hashes_and_removed(registry: Path) -> None:
    stocked = stock(registry)
    right = archives.sha256(stocked)
    stocked.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=rf"toy 1.0 has sha256 {sha256(b'something else')}, but {right} is pinned"):
        weights.pull(["models"])
    assert not stocked.exists()


def test_a_registry_that_does_not_answer_is_one_sentence(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(WeightsError, match=r"pip could not fetch toy 1\.0 \(ERROR: .* run `omote models pull` again"):
        weights.pull(["models"])
    assert list((weights.cache() / "archives").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_sentence(registry: Path, tmp_path: Path) -> None:
    weights.cache().write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match=r"toy 1\.0 cannot be stored in .* set OMOTE_CACHE"):
        weights.pull(["models"])


NPM = Archive("npm", "@toy/net", "1.0.0", "toy-net-1.0.0.tgz", 7, sha256(b"tarball"))


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")


def test_npm_packs_what_the_manifest_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked; printf tarball > toy-net-1.0.0.tgz')
    fetched = archives.fetch(NPM, tmp_path / "archives", lambda *_: None)
    assert fetched.read_bytes() == b"tarball"
    assert (tmp_path / "asked").read_text().split()[-1] == "@toy/net@1.0.0"


def test_what_npm_complains_of_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, monkeypatch, "echo npm error code ENOTFOUND >&2; exit 1")
    with pytest.raises(WeightsError, match=r"npm could not fetch @toy/net 1\.0\.0 \(npm error code ENOTFOUND\)"):
        archives.fetch(NPM, tmp_path / "archives", lambda *_: None)


def test_a_machine_without_npm_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match="npm is not on the PATH"):
        archives.fetch(NPM, tmp_path / "archives", lambda *_: None)


def test_our_own_weights_have_a_card_that_vouches_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_OWN", tmp_path)
    (tmp_path / "ours.safetensors").write_bytes(b"numbers")
    facts = {"role": "toy", "version": 3, "licence": "Apache-2.0", "research": False, "sha256": sha256(b"numbers")}
    (tmp_path / "ours.md").write_text(f"---\n{yaml.safe_dump(facts)}---\n# Ours\n")
    row = weights.table()[-1]
    assert (row.name, row.version, row.bytes, row.state) == ("ours", "3", 7, "verified")
    assert weights.own("ours").read_bytes() == b"numbers"
    (tmp_path / "ours.safetensors").write_bytes(b"changed")
    assert weights.table()[-1].state == "damaged"
    with pytest.raises(WeightsError, match="no weights 'theirs'"):
        weights.own("theirs")


def test_weights_without_a_card_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_OWN", tmp_path)
    (tmp_path / "ours.safetensors").write_bytes(b"numbers")
    with pytest.raises(WeightsError, match="'ours' need a model card"):
        weights.table()


def test_the_manifest_pins_every_asset_to_an_archive() -> None:
    groups = {asset.name: asset.group for asset in weights.assets()}
    assert groups["retinaface"] == groups["mobilefacenet"] == groups["expression"] == "models"
    assert {asset.group for asset in weights.assets()} == {"models", "clips", "benchmarks"}
    assert all(len(asset.sha256) == len(asset.archive.sha256) == 64 for asset in weights.assets())
