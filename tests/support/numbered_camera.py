"""A test camera that writes a number into each picture; run as a script it is that camera."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from fractions import Fraction

import av
import av.error
import numpy as np

from pipeline.servers.process import LocalProcess

BITS = 16  # of the number written into each picture


class NumberedCamera(LocalProcess):
    """Publishes numbered pictures to ``url`` in real time; it is back whenever the server is."""

    name = "the test camera"

    def __init__(self, url: str, *, width: int = 160, height: int = 120, fps: int = 25, gop: int = 25) -> None:
        sizes = {"width": width, "height": height, "fps": fps, "gop": gop}
        self._arguments = [url, *(f"--{name}={value}" for name, value in sizes.items())]

    def _command(self) -> list[str]:
        return [sys.executable, __file__, *self._arguments]


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
