"""How encoded units reach FFmpeg's decoders."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import av.error
from av.video.codeccontext import VideoCodecContext

from pipeline.errors import SourceError
from pipeline.packets import Codec, Unit

NANOSECOND = Fraction(1, 1_000_000_000)


def decoder_of(codec: Codec, threads: int = 1) -> VideoCodecContext:
    """A decoder for a stream of this codec.

    Args:
        codec: What the stream is encoded with.
        threads: More than one delays pictures by as many.

    Raises:
        SourceError: This FFmpeg does not know the codec, or it is none of video.
    """
    try:
        decoder = av.CodecContext.create(codec.name, "r")
    except (ValueError, av.error.FFmpegError) as error:
        message = f"this FFmpeg has no decoder for {codec.name!r}; re-encode the video, for instance to H.264"
        raise SourceError(message) from error
    if not isinstance(decoder, VideoCodecContext):
        message = f"{codec.name!r} is no video codec"
        raise SourceError(message)
    if codec.extradata:
        decoder.extradata = codec.extradata
    if codec.width and codec.height:
        decoder.width, decoder.height = codec.width, codec.height
    if codec.pixel_format:
        decoder.pix_fmt = codec.pixel_format
    decoder.thread_count = threads
    return decoder


def packet_of(unit: Unit) -> av.Packet[Any]:
    """The unit as a decoder takes it; its frames have the presentation time in nanoseconds."""
    packet: av.Packet[Any] = av.Packet(unit.data)
    packet.pts, packet.dts, packet.time_base = unit.pts_ns, unit.dts_ns, NANOSECOND
    packet.is_keyframe = unit.keyframe  # without it FFmpeg takes a PNG for a difference to the one before
    return packet
