"""go2rtc on this machine: an RTSP server that cameras publish to and viewers read from."""

from __future__ import annotations

import lzma
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.servers.process import LocalServer


class RtspServer(LocalServer):
    """A go2rtc that serves RTSP and nothing else."""

    name = "go2rtc"

    def __init__(self, folder: Path, streams: Sequence[str] = ("camera",)) -> None:
        """Find the server and write its configuration.

        Args:
            folder: Where to keep everything.
            streams: Names that cameras may publish to.

        Raises:
            PipelineError: There is no go2rtc on this machine.
        """
        super().__init__(folder)
        self._binary = go2rtc(self.folder)
        lines = ['api: {listen: ""}', 'webrtc: {listen: ""}', f'rtsp: {{listen: "{self.address}"}}', "streams:"]
        (self.folder / "go2rtc.yaml").write_text("\n".join([*lines, *(f'  {name}: ""' for name in streams)]))

    def url(self, stream: str = "camera") -> str:
        """Where to publish this stream to, and where to read it."""
        return f"rtsp://{self.address}/{stream}"

    def _command(self) -> list[str]:
        return [str(self._binary), "-config", "go2rtc.yaml"]


def go2rtc(folder: Path) -> Path:
    """The server that ``OMOTE_GO2RTC`` names (a file, packed with xz or not, or its folder), or the one on the PATH.

    A packed one is unpacked into ``folder``.

    Raises:
        PipelineError: There is none.
    """
    named = os.environ.get("OMOTE_GO2RTC") or shutil.which("go2rtc") or ""
    places = [Path(named), Path(named) / "go2rtc", Path(named) / "go2rtc.xz"] if named else []
    for found in filter(Path.is_file, places):
        return _unpacked(found, folder / "go2rtc") if found.suffix == ".xz" else found.absolute()
    reason = f"OMOTE_GO2RTC names {named}, which holds none" if named else "set OMOTE_GO2RTC to go2rtc or its folder"
    message = f"there is no RTSP server on this machine: {reason}"
    raise PipelineError(message)


def _unpacked(packed: Path, binary: Path) -> Path:
    if not binary.exists():
        with lzma.open(packed) as source, binary.open("wb") as target:
            shutil.copyfileobj(source, target)
        binary.chmod(0o755)
    return binary
