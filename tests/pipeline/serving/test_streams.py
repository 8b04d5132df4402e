"""The address of a camera: what may be written there, and what stands for a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.serving.streams import InvalidStreamError, StreamSpec, checked, expanded

SECRET = "hunter2"


def spec(url: str) -> StreamSpec:
    return StreamSpec(id="lobby", url=url)


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://camera.example/1",
        "RTSP://camera.example:8554/live?channel=1&subtype=0",
        "rtsps://[fd00::7]:322/1",
        "rtsp://camera.example/a%40b%20c",
        "${OMOTE_CAMERA_LOBBY}",
        "rtsp://${OMOTE_CAMERA_LOBBY}@camera.example/1",
        "rtsp://${OMOTE_CAMERA_USER}:${OMOTE_CAMERA_PASSWORD}@camera.example/1",
        "rtsp://camera.example/user=${OMOTE_CAMERA_USER}&password=${OMOTE_CAMERA_PASSWORD}",
        "rtsp://${OMOTE_CAMERA_HOST}:${OMOTE_CAMERA_PORT}/1",
    ],
)
def test_addresses_of_cameras_are_taken_as_they_are(url: str) -> None:
    assert checked(spec(url)) == spec(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://camera.example/1", "none of RTSP"),
        ("camera.example", "none of RTSP"),
        ("rtsp://", "none of RTSP"),
        ("rtsp://:554/1", "none of RTSP"),
        ("rtsp://camera.example:0/1", "none of RTSP"),
        ("rtsp://camera.example:70000/1", "none of RTSP"),
        ("rtsp://[::1/1", "none of RTSP"),
        ("file:///etc/passwd", "none of RTSP"),
        ("${OMOTE_CAMERA_SCHEME}://camera.example/1", "none of RTSP"),
        ("rtsp://camera.example/a b", "with %"),
        ("rtsp://camera.example/1\n", "with %"),
        ("rtsp://camera.example/\x00", "with %"),
        ("rtsp://${AWS_SECRET_ACCESS_KEY}@evil.example/1", "begin with OMOTE_CAMERA_"),
        ("rtsp://evil.example/${OMOTE_API_TOKEN}", "begin with OMOTE_CAMERA_"),
        ("rtsp://evil.example/${OMOTE_CAMERA_SECRETS}", "begin with OMOTE_CAMERA_"),
        ("rtsp://evil.example/${OMOTE_CAMERA_${OMOTE_CAMERA_A}}", "begin with OMOTE_CAMERA_"),
        ("rtsp://evil.example/${OMOTE_CAMERA_/../A}", "begin with OMOTE_CAMERA_"),
        ("rtsp://evil.example/${", "begin with OMOTE_CAMERA_"),
    ],
)
def test_other_addresses_are_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidStreamError, match=reason) as refused:
        checked(spec(url))
    assert "'lobby'" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"rtsp://admin:{SECRET}@camera.example/1",
        f"rtsp://{SECRET}@camera.example/1",
        f"rtsp://admin:a/b@{SECRET}@camera.example/1",
        f'rtsp://admin:"{SECRET}@camera.example/1',
        f"rtsp://admin: {SECRET}@camera.example/1",
        f"rtsp://${{OMOTE_CAMERA_USER}}:{SECRET}@camera.example/1",
        f"rtsp://${{OMOTE_CAMERA_USER}}{SECRET}@camera.example/1",
        f"rtsp:/${{OMOTE_CAMERA_USER}}/admin:{SECRET}@camera.example/1",
        f"rtsp://camera.example/1?user=admin&password={SECRET}",
        f"rtsp://camera.example/user=admin&pwd={SECRET}",
        f"admin:{SECRET}@camera.example/1",
        f"http://admin:{SECRET}@camera.example/1",
        f"${{{SECRET}",
    ],
)
def test_passwords_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidStreamError) as refused:
        checked(spec(url))
    assert SECRET not in str(refused.value)


def test_a_refused_password_comes_with_the_way_out() -> None:
    with pytest.raises(InvalidStreamError, match=r"write \$\{OMOTE_CAMERA_LOBBY\} in their place"):
        checked(spec(f"rtsp://admin:{SECRET}@camera.example/1"))


def test_variables_are_replaced_from_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMOTE_CAMERA_LOBBY", "admin:${OMOTE_CAMERA_OTHER}")
    monkeypatch.setenv("OMOTE_CAMERA_OTHER", "never")
    url = "rtsp://${OMOTE_CAMERA_LOBBY}@camera.example/1"
    assert expanded(url) == "rtsp://admin:${OMOTE_CAMERA_OTHER}@camera.example/1"
    assert expanded("rtsp://camera.example/1") == "rtsp://camera.example/1"


def test_a_variable_may_hold_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMOTE_CAMERA_LOBBY", "rtsp://admin:hunter2@camera.example/1")
    assert expanded("${OMOTE_CAMERA_LOBBY}") == "rtsp://admin:hunter2@camera.example/1"


def test_a_file_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMOTE_CAMERA_SECRETS", str(tmp_path))
    monkeypatch.setenv("OMOTE_CAMERA_LOBBY", "old:old")
    monkeypatch.setenv("OMOTE_CAMERA_YARD", "a:b")
    (tmp_path / "OMOTE_CAMERA_LOBBY").write_text("new:new\n")
    assert expanded("rtsp://${OMOTE_CAMERA_LOBBY}@camera.example/1") == "rtsp://new:new@camera.example/1"
    assert expanded("rtsp://${OMOTE_CAMERA_YARD}@camera.example/1") == "rtsp://a:b@camera.example/1"


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OMOTE_CAMERA_SECRETS", raising=False)
    with pytest.raises(InvalidStreamError, match=r"variable OMOTE_CAMERA_GONE is not set where the worker runs$"):
        expanded("rtsp://${OMOTE_CAMERA_GONE}@camera.example/1")
    monkeypatch.setenv("OMOTE_CAMERA_SECRETS", str(tmp_path))
    with pytest.raises(InvalidStreamError, match=f"OMOTE_CAMERA_GONE is not set .*{tmp_path} holds no file"):
        expanded("rtsp://${OMOTE_CAMERA_GONE}@camera.example/1")


@pytest.mark.parametrize("value", [SECRET, f"http://a:{SECRET}@h/1", f"rtsp://a:{SECRET}@h:99999/1"])
def test_a_value_that_makes_no_address_is_told_by_its_name_only(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OMOTE_CAMERA_LOBBY", value)
    with pytest.raises(InvalidStreamError, match="OMOTE_CAMERA_LOBBY") as refused:
        expanded("${OMOTE_CAMERA_LOBBY}")
    assert SECRET not in repr(refused.value)
    assert refused.value.__cause__ is None


def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMOTE_CAMERA_SECRETS", str(tmp_path))
    (tmp_path / "OMOTE_CAMERA_LOBBY").write_bytes(b"hunter2\xff")
    with pytest.raises(InvalidStreamError, match=r"the file OMOTE_CAMERA_LOBBY in .* cannot be read") as refused:
        expanded("${OMOTE_CAMERA_LOBBY}")
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
