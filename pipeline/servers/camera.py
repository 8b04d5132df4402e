"""A camera that plays a video file for ever; ``python -m pipeline.servers.camera FILE URL`` is that camera."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import av
import av.error

from pipeline.errors import SourceError
from pipeline.servers.process import LocalProcess

AGAIN_S = 0.2
LATE_S = 1.0  # a camera that is later than this does not catch up


class FileCamera(LocalProcess):
    """Publishes a video file to an RTSP server, in real time and in a loop; it is back whenever the server is.

    It ends by itself when whoever started it is gone.
    """

    name = "the test camera"

    def __init__(self, clip: Path, url: str, log: Path | None = None) -> None:
        """Look at the file.

        Args:
            clip: A video; its packets are sent as they are.
            url: Where to publish it, as `RtspServer.url` gives it.
            log: Where to write what goes wrong.

        Raises:
            SourceError: There is no video in the file.
        """
        self._clip, self._url, self.log = clip.absolute(), url, log
        check_playable(self._clip)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "pipeline.servers.camera", str(self._clip), self._url]


def publish(clip: Path, url: str) -> None:
    """Send the packets of ``clip`` to ``url`` until the server is gone; time goes on from one round to the next.

    Raises:
        FFmpegError: The server is gone, or does not take this kind of video.
        SourceError: There is no video in the file.
    """
    options = {"rtsp_transport": "tcp"}
    with av.open(str(clip)) as model, av.open(url, "w", format="rtsp", options=options) as out:
        stream = out.add_stream_from_template(model.streams.video[0])
        began_s, home = time.monotonic(), os.getppid()
        for packet, time_s in looped(clip):
            if os.getppid() != home:
                return
            ahead_s = began_s + time_s - time.monotonic()
            began_s -= min(0.0, ahead_s + LATE_S)
            time.sleep(max(0.0, ahead_s))
            packet.stream = stream
            out.mux(packet)


def looped(clip: Path) -> Iterator[tuple[av.Packet[Any], float]]:
    """The packets of ``clip`` for ever, and when each is to be sent, in seconds; neither time ever runs backwards.

    Raises:
        SourceError: There is no video in the file.
    """
    end = 0
    for _ in count():
        shift, step = None, 1
        for packet, dts in _packets(clip):
            shift = end - dts if shift is None else shift
            step = packet.duration or max(dts + shift - end, step)
            packet.pts, packet.dts = (packet.pts or 0) + shift, dts + shift
            end = dts + shift
            yield packet, float(end * (packet.time_base or 0))
        end += step


def check_playable(clip: Path) -> None:
    """Look for the first picture.

    Raises:
        SourceError: There is no video in the file.
    """
    next(_packets(clip))


def _packets(clip: Path) -> Iterator[tuple[av.Packet[Any], int]]:
    """The packets of ``clip`` that have a time, and the time at which each is to be decoded."""
    found = False
    try:
        with av.open(str(clip)) as container:
            for packet in container.demux(video=0):
                if packet.size and packet.pts is not None and packet.dts is not None:
                    found = True
                    yield packet, packet.dts
    except (av.error.FFmpegError, OSError, IndexError) as error:
        message = f"{clip} cannot be played: {getattr(error, 'strerror', None) or error}; give a video file"
        raise SourceError(message) from error
    if not found:
        message = f"{clip} cannot be played: there are no pictures in it; give a video file"
        raise SourceError(message)


def main() -> None:
    """Play until whoever started this is gone."""
    clip, url = sys.argv[1:]
    home = os.getppid()
    while os.getppid() == home:
        try:
            publish(Path(clip), url)
        except av.error.FFmpegError as error:
            sys.stderr.write(f"{error}\n")
            time.sleep(AGAIN_S)


if __name__ == "__main__":
    main()
