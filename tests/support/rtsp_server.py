"""A real RTSP server and test cameras that can be killed, frozen and replaced; run as a script it is a camera."""

from __future__ import annotations

import lzma
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np

BITS = 16  # of the number written into each picture


class RtspServer:
    """go2rtc on a free port of this machine, and the cameras that publish to it.

    Args:
        binary: What `go2rtc` gave.
        folder: Where its configuration goes.
        streams: Names that cameras may publish to.
    """

    def __init__(self, binary: Path, folder: Path, streams: tuple[str, ...] = ("cam",)) -> None:
        self._binary, self._folder, self.port = binary, folder, _free_port()
        lines = ['api: {listen: ""}', 'webrtc: {listen: ""}', f'rtsp: {{listen: "127.0.0.1:{self.port}"}}', "streams:"]
        (folder / "go2rtc.yaml").write_text("\n".join([*lines, *(f'  {name}: ""' for name in streams)]))
        self._server: subprocess.Popen[bytes] | None = None
        self._cameras: dict[str, subprocess.Popen[bytes]] = {}
        self.start()

    def url(self, stream: str = "cam") -> str:
        return f"rtsp://127.0.0.1:{self.port}/{stream}"

    def start(self) -> None:
        """Start the server and wait until it listens. Cameras that were there come back by themselves."""
        command = [str(self._binary), "-config", str(self._folder / "go2rtc.yaml")]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(self.port)

    def kill(self) -> None:
        """A network that is gone."""
        _end(self._server)

    def freeze(self) -> None:
        """A server that keeps its connections and says nothing more."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def publish(
        self, stream: str = "cam", *, width: int = 160, height: int = 120, fps: int = 25, gop: int = 25
    ) -> None:
        """Put a camera in front of ``stream``, in place of the one before; it is back whenever the server is."""
        self.unpublish(stream)
        sizes = ["--width", str(width), "--height", str(height), "--fps", str(fps), "--gop", str(gop)]
        self._cameras[stream] = subprocess.Popen([sys.executable, __file__, self.url(stream), *sizes])

    def unpublish(self, stream: str = "cam") -> None:
        """A camera that is gone."""
        _end(self._cameras.pop(stream, None))

    def close(self) -> None:
        for camera in self._cameras.values():
            _end(camera)
        _end(self._server)

    def _signal(self, number: signal.Signals) -> None:
        if self._server is not None:
            self._server.send_signal(number)


def go2rtc(folder: Path) -> Path | None:
    """The server that ``OMOTE_GO2RTC`` names (a file, packed or not, or its folder), or the one on the PATH.

    A packed one is unpacked into ``folder``. None where there is no server.
    """
    named = os.environ.get("OMOTE_GO2RTC") or shutil.which("go2rtc")
    if not named:
        return None
    places = (Path(named), Path(named) / "go2rtc", Path(named) / "go2rtc.xz")
    found = next((place for place in places if place.is_file()), None)
    return _unpacked(found, folder / "go2rtc") if found and found.suffix == ".xz" else found


def number_in(image: np.ndarray) -> int:
    """The number that a test camera wrote into the picture (H, W, 3)."""
    height, width = image.shape[:2]
    columns = (np.arange(BITS) * 2 + 1) * width // (2 * BITS)
    return sum(int(bit) << n for n, bit in enumerate(image[height // 2, columns, 1] > 127))


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 whose bars are the bits of ``number``, lowest on the left."""
    bars = np.arange(width) * BITS // width
    row = ((number >> bars) & 1) * 255
    return np.ascontiguousarray(np.broadcast_to(row.astype(np.uint8)[None, :, None], (height, width, 3)))


def _unpacked(packed: Path, binary: Path) -> Path:
    if not binary.exists():
        with lzma.open(packed) as source, binary.open("wb") as target:
            shutil.copyfileobj(source, target)
        binary.chmod(0o755)
    return binary


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, limit_s: float = 10.0) -> None:
    until = time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait(10)


def _film(url: str, width: int, height: int, fps: int, gop: int, first: int) -> int:
    """Publish numbered pictures in real time until the server is gone; gives the next number."""
    with av.open(url, "w", format="rtsp", options={"rtsp_transport": "tcp"}) as out:
        options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(gop), "keyint_min": str(gop)}
        stream = out.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        began, number = time.monotonic(), first
        while True:
            frame = av.VideoFrame.from_ndarray(picture(number % (1 << BITS), width, height), format="rgb24")
            frame.pts, frame.time_base = number - first, Fraction(1, fps)
            try:
                out.mux(stream.encode(frame))
            except av.error.FFmpegError:
                return number
            number += 1
            time.sleep(max(0.0, began + (number - first) / fps - time.monotonic()))


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("url")
    for name in ("width", "height", "fps", "gop"):
        parser.add_argument(f"--{name}", type=int)
    given, number, home = parser.parse_args(), 0, os.getppid()
    while os.getppid() == home:  # an orphan goes home
        try:
            number = _film(given.url, given.width, given.height, given.fps, given.gop, number)
        except av.error.FFmpegError:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
