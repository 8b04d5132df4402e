"""Films for tests of video in messages: made, sent as if through a partition, and decoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from operators.decode import Decode
from pipeline.edges.assembly import Assembly
from pipeline.edges.video_messages import BrokerChunk, Message, VideoMessage
from pipeline.packets import Chunk, Frame
from pipeline.testing import noise

SHORT = {"g": "12", "bf": "2", "x264-params": "open-gop=0:scenecut=0"}
FLAT = {"g": "12", "bf": "0", "sc_threshold": "0"}


def scene(count: int = 60, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Pictures that differ from each other and that an encoder likes."""
    still = cv2.GaussianBlur(noise(1, height, width)[0], (0, 0), 5)
    return [np.roll(still, 2 * n, axis=1) for n in range(count)]


def decoded(given: Sequence[Chunk]) -> list[Frame]:
    decode = Decode()
    state, frames = decode.start("cam"), []
    for chunk in given:
        state, more = decode(state, [chunk])
        frames += more
    return frames


def as_message(video: VideoMessage, offset: int) -> Message:
    named = replace(video, stream=video.stream or "cam")
    time_ms = named.capture_ns // 1_000_000
    return Message("video", 0, offset, named.stream.encode(), named.data, tuple(named.headers), time_ms)


def sent(videos: Sequence[VideoMessage], assembly: Assembly | None = None, first: int = 0) -> list[BrokerChunk]:
    """What comes of messages that lie one after the other in a partition."""
    taking = assembly or Assembly()
    return [chunk for n, video in enumerate(videos, first) for chunk in taking.take(as_message(video, n))]


def ended(videos: Sequence[VideoMessage]) -> list[VideoMessage]:
    return [*videos[:-1], replace(videos[-1], eos=True)]


def same(given: Sequence[Frame], wanted: Sequence[Frame]) -> bool:
    return len(given) == len(wanted) and all(
        np.array_equal(a.image, b.image) and abs(a.pts_ns - b.pts_ns) <= 1 and a.seq == b.seq
        for a, b in zip(given, wanted, strict=True)
    )
