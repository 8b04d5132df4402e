"""What a demuxer gives, as packets of our own: the codec of a stream and its encoded units."""

from __future__ import annotations

from typing import Any

import av
from av.video.stream import VideoStream

from pipeline.packets import Codec, Unit


def codec_of(video: VideoStream, rotation: int = 0) -> Codec:
    """What a decoder of ``video`` must know; ``rotation`` as in `Codec`."""
    context = video.codec_context
    pixel_format = context.pix_fmt or ""
    return Codec(context.name, context.extradata or b"", context.width, context.height, pixel_format, rotation)


def unit_of(packet: av.Packet[Any]) -> Unit:
    """One packet of a container, its times in nanoseconds."""
    tick = float(packet.time_base * 1_000_000_000) if packet.time_base else 0.0
    pts_ns, dts_ns = (None if time is None else round(time * tick) for time in (packet.pts, packet.dts))
    return Unit(bytes(packet), pts_ns, dts_ns, packet.is_keyframe, packet.is_corrupt)
