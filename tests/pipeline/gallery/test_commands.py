"""What the verbs of ``omote gallery`` do on their own: no key and no photo is lost, and everybody has a name."""

from __future__ import annotations

import getpass
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.commands import gallery, gallery_access, gallery_audit
from pipeline.commands.gallery_access import Opened
from pipeline.gallery.errors import AwayError, RefusedError
from pipeline.gallery.keys import Keys
from pipeline.gallery.service import GalleryService
from tests.support.gallery import drawing
from tests.support.gallery_asked import ADMIN, BLUE, GREEN, RED


@pytest.fixture
def keys_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("pipeline.gallery.keys.LOOK_S", 0.0)
    Keys.new().write(tmp_path / "keys.json")
    return tmp_path / "keys.json"


def test_what_is_named_is_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gallery", "keys", "new", "keys.json"]) == 0
    assert f"OMOTE_GALLERY_KEYS_FILE={tmp_path / 'keys.json'}." in capsys.readouterr().out
    assert gallery_access.GRAPH.is_file()
    assert gallery_audit.RULES.is_file()


def test_a_key_that_came_while_dropping_another_was_asked_about_stays(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Keys.read(keys_file).current
    assert main(["gallery", "keys", "rotate", str(keys_file)]) == 0

    def meanwhile(*asked: object, **more: object) -> None:
        assert main(["gallery", "keys", "rotate", str(keys_file)]) == 0

    monkeypatch.setattr("typer.confirm", meanwhile)
    assert main(["gallery", "keys", "drop", str(keys_file), old]) == 0
    kept = Keys.read(keys_file).key_ids
    assert (len(kept), old in kept) == (2, False)


def test_of_rotations_at_the_same_time_every_key_stays(keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rotated = Keys.rotated

    def slowly(keys: Keys) -> Keys:
        time.sleep(0.05)
        return rotated(keys)

    monkeypatch.setattr(Keys, "rotated", slowly)
    threads = [threading.Thread(target=main, args=(["gallery", "keys", "rotate", str(keys_file)],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Keys.read(keys_file).key_ids) == 5


def test_keys_that_are_not_there_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for file in (tmp_path / "none.json", tmp_path / "nowhere" / "none.json"):
        assert main(["gallery", "keys", "rotate", str(file)]) == 1
        assert "omote gallery keys new" in capfd.readouterr().err


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 1234"), OSError("No username set")])
def test_a_user_without_a_name_asks_under_the_number(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def unnamed() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", unnamed)
    assert gallery_access._user() == f"uid {os.getuid()}"


@pytest.fixture
def photos(gallery_service: GalleryService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos of three people, of which the second cannot be read; `enrol` takes them into ``gallery_service``."""

    @contextmanager
    def opened(*asked: object) -> Iterator[Opened]:
        yield Opened(gallery_service, ADMIN)

    monkeypatch.setattr(gallery, "opened", opened)
    for name, colour in (("ada", RED), ("bob", BLUE), ("eve", GREEN)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(drawing(colour))
    (tmp_path / "bob" / "0.png").unlink()
    (tmp_path / "bob" / "0.png").symlink_to("/proc/self/mem")  # reading it is an error for everybody
    return tmp_path


def test_a_photo_that_cannot_be_enrolled_holds_up_no_other(
    photos: Path, gallery_service: GalleryService, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    enrol = gallery_service.enrol

    def refuse(caller: object, person: str, *shown: object, **more: object) -> object:
        if person == "ada":
            message = "the erasure of who was 'ada' is not finished yet"
            raise RefusedError(message)
        return enrol(caller, person, *shown, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(GalleryService, "enrol", lambda _, *asked, **more: refuse(*asked, **more))
    assert main(["gallery", "enrol", str(photos)]) == 0
    said = capfd.readouterr().err
    assert "is not finished yet" in said
    assert "cannot read" in said
    assert "1 of 3 photos enrolled" in said
    assert [each.id for each in gallery_service.subjects(ADMIN)] == ["eve"]


def test_what_was_refused_is_told_also_where_redis_goes_away(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def gone(_: GalleryService, caller: object, person: str, *shown: object, **more: object) -> None:
        message = "Redis is away"
        raise (AwayError if person == "eve" else RefusedError)(message if person == "eve" else f"{person} is refused")

    monkeypatch.setattr(GalleryService, "enrol", gone)
    assert main(["gallery", "enrol", str(photos)]) == 1
    said = capfd.readouterr().err
    assert "ada is refused" in said
    assert "Redis is away" in said
