"""go2rtc as it is found and run."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.servers.process import listens
from pipeline.servers.rtsp_server import RtspServer, go2rtc
from tests.support.requirements import missing


def test_it_listens_at_the_same_port_after_it_was_killed(tmp_path: Path) -> None:
    try:
        server = RtspServer(tmp_path)
    except PipelineError as error:
        missing(str(error))
    with server:
        assert server.url("camera") == f"rtsp://{server.address}/camera"
        server.kill()
        assert not listens(server.port)
        server.start()
        assert listens(server.port)


def test_a_file_a_folder_and_a_packed_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, scratch = tmp_path / "go", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    (folder / "go2rtc.xz").write_bytes(lzma.compress(b"#!/bin/sh\n"))
    monkeypatch.setenv("OMOTE_GO2RTC", str(folder))
    unpacked = go2rtc(scratch)
    assert (unpacked, unpacked.read_bytes()) == (scratch / "go2rtc", b"#!/bin/sh\n")
    assert unpacked.stat().st_mode & 0o100
    (folder / "go2rtc").touch()
    assert go2rtc(scratch) == folder / "go2rtc"
    monkeypatch.setenv("OMOTE_GO2RTC", str(folder / "go2rtc"))
    assert go2rtc(scratch) == folder / "go2rtc"


@pytest.mark.parametrize("named", ["", "/no/such/place"])
def test_where_there_is_none_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("OMOTE_GO2RTC", named)
    with pytest.raises(PipelineError, match=r"there is no RTSP server on this machine: .*OMOTE_GO2RTC"):
        RtspServer(tmp_path)
