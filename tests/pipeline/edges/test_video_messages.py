"""Video in messages: cut and put together again, and what may be committed on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from pipeline.edges.annex_b import START, annex_b
from pipeline.edges.assembly import Assembly
from pipeline.edges.files import Input
from pipeline.edges.playing import live, played, recorded
from pipeline.edges.video_cutting import cut, fits, recut
from pipeline.edges.video_messages import (
    ACCESS_UNIT,
    CONTAINERS,
    CONTENT_TYPES,
    JPEG,
    Message,
    Poison,
    VideoMessage,
    chunks,
    pictures,
    read,
)
from pipeline.errors import SourceError
from pipeline.packets import Codec
from tests.support.video import FLAT, SHORT, as_message, decoded, ended, same, scene, sent

Film = Callable[..., Path]
LONG = {"g": "1000", "sc_threshold": "0"}


# Cutting


@pytest.mark.parametrize("content_type", CONTAINERS)
def test_a_film_in_chunks_shows_the_same_pictures_as_the_file(film: Film, content_type: str) -> None:
    path = str(film(scene(), "a.mp4", "libx264", encoder=SHORT))
    assert fits(Input(path), content_type, 1.0)
    videos = ended(list(cut(Input(path), content_type, 1.0)))
    assert [video.pts_ns for video in videos] == [0, 960_000_000, 1_920_000_000]
    assert [(video.frames, video.codec, video.width, video.height) for video in videos[:2]] == [
        (24, "h264", 64, 48)
    ] * 2
    assert same(decoded(sent(videos)), decoded(list(Input(path))))


def test_each_chunk_can_be_shown_without_the_others(film: Film) -> None:
    path = str(film(scene(), "a.mp4", "libx264", encoder=SHORT))
    alone = [decoded(sent([video])) for video in cut(Input(path), "video/mp2t", 0.5)]
    assert [len(frames) for frames in alone] == [12] * 5


def test_access_units_show_the_same_pictures_as_the_file(film: Film) -> None:
    path = str(film(scene(), "a.mp4", "libx264", encoder=FLAT))
    assert fits(Input(path), ACCESS_UNIT, 1.0)
    videos = ended(list(cut(Input(path), ACCESS_UNIT)))
    assert [video.seq for video in videos if video.keyframe] == [0, 12, 24, 36, 48]
    assert same(decoded(sent(videos)), decoded(list(Input(path))))


def test_jpegs_are_passed_on_as_they_are(film: Film) -> None:
    path = str(film(scene(20), "a.mkv", "mjpeg"))
    assert fits(Input(path), JPEG, 1.0)
    videos = ended(list(cut(Input(path), JPEG)))
    frames, wanted = decoded(sent(videos)), decoded(list(Input(path)))
    assert [frame.pts_ns for frame in frames] == [frame.pts_ns for frame in wanted]
    error = [np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(frames, wanted, strict=True)]
    assert max(error) < 2  # two decoders of JPEG


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_what_cannot_be_cut_is_encoded_anew_and_looks_the_same(film: Film, content_type: str) -> None:
    path = str(film(scene(), "a.mp4", "libx264", encoder=LONG))
    videos = ended(list(recut(Input(path), content_type, 1.0)))
    if content_type in CONTAINERS:
        assert not fits(Input(path), content_type, 1.0)
        assert [video.frames for video in videos] == [25, 25, 10]
        assert [len(decoded(sent([video]))) for video in videos] == [25, 25, 10]
    frames, wanted = decoded(sent(videos)), decoded(list(Input(path)))
    assert [(f.seq, f.pts_ns) for f in frames] == [(f.seq, f.pts_ns) for f in wanted]
    error = [np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(frames, wanted, strict=True)]
    assert max(error) < 4


def test_groups_that_lean_on_the_one_before_are_never_cut_apart(film: Film) -> None:
    leaning = {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-pyramid=0:scenecut=0:b-adapt=0"}
    path = str(film(scene(), "open.mp4", "libx264", encoder=leaning))
    assert not fits(Input(path), "video/mp2t", 1.0)
    with pytest.raises(SourceError, match="its groups of pictures are not closed; use --reencode"):
        list(cut(Input(path), "video/mp2t", 0.4))
    delayed = str(film(scene(), "delayed.mp4", "libx264", encoder=SHORT))
    assert not fits(Input(delayed), ACCESS_UNIT, 1.0)


def test_what_is_encoded_anew_keeps_its_colours(tmp_path: Path) -> None:
    path = str(tmp_path / "wide.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU709, ColorRange.JPEG
        for picture in scene(10):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            wide = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.JPEG}
            container.mux(stream.encode(frame.reformat(format="yuv420p", **wide)))
        container.mux(stream.encode(None))
    wanted = decoded(list(Input(path)))
    for content_type in ("video/mp2t", ACCESS_UNIT, JPEG):
        frames = decoded(sent(ended(list(recut(Input(path), content_type)))))
        difference = frames[5].image.mean((0, 1)) - wanted[5].image.mean((0, 1))
        assert np.abs(difference).max() < 3, content_type


def test_a_turned_film_and_a_folder_of_pictures_of_odd_size_come_upright(film: Film, tmp_path: Path) -> None:
    path = str(film(scene(10), "turned.mp4", "libx264", encoder=SHORT, rotation=90))
    assert not fits(Input(path), "video/mp2t", 1.0)
    frames = decoded(sent(list(recut(Input(path), "video/mp2t"))))
    assert {frame.image.shape for frame in frames} == {(64, 48, 3)}
    wanted = decoded(list(Input(path)))
    assert np.abs(frames[5].image.astype(int) - wanted[5].image).mean() < 4
    for number, picture in enumerate(scene(3, 33, 47)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    folder = decoded(sent(list(recut(Input(str(tmp_path)), "video/mp4"))))
    assert [frame.image.shape for frame in folder] == [(32, 46, 3)] * 3


def test_units_with_lengths_become_units_with_start_codes() -> None:
    box = bytes([1, 66, 0, 10, 0xFF, 0xE1, 0, 3]) + b"\x67sp" + bytes([1, 0, 2]) + b"\x68p"
    codec = Codec("h264", box)
    unit = (4).to_bytes(4) + b"\x65abc" + (2).to_bytes(4) + b"\x06d"
    plain = START + b"\x65abc" + START + b"\x06d"
    assert annex_b(unit, codec, keyframe=False) == plain
    assert annex_b(unit, codec, keyframe=True) == START + b"\x67sp" + START + b"\x68p" + plain
    own = START + b"\x67own" + START + b"\x65abc"
    assert annex_b(own, Codec("h264"), keyframe=True) == own
    assert annex_b(plain, Codec("h264", own), keyframe=True) == own + plain


# Playing


def test_a_loop_is_one_stream_whose_time_goes_on(film: Film) -> None:
    path = str(film(scene(30), "a.mp4", "libx264", encoder=SHORT))
    cutter = partial(cut, content_type="video/mp2t", seconds=0.5)
    videos = list(recorded(played(lambda: Input(path), cutter, 3), realtime=False))
    assert [video.seq for video in videos] == list(range(9))
    assert [video.eos for video in videos] == [False] * 8 + [True]
    frames = decoded(sent(videos))
    assert [frame.pts_ns for frame in frames] == [n * 40_000_000 for n in range(90)]
    for_ever = played(lambda: Input(path), cutter, 0)
    assert [video.seq for video in islice(for_ever, 20)] == list(range(20))


def test_a_recording_is_played_at_the_pace_at_which_it_was_taken(film: Film) -> None:
    path = str(film(scene(30), "a.mp4", "libx264", encoder=SHORT))
    cutter = partial(cut, content_type="video/mp2t", seconds=0.4)
    since = time.time_ns()
    arrivals = [
        (video, time.time_ns() - since) for video in recorded(played(lambda: Input(path), cutter), realtime=True)
    ]
    for video, after_ns in arrivals[:2]:
        assert 0 <= after_ns - (video.pts_ns + 480_000_000) < 300_000_000  # once its last picture was taken
        assert abs(video.capture_ns - since - video.pts_ns) < 300_000_000


def test_a_camera_numbers_its_messages_in_each_connection() -> None:
    given = [VideoMessage("", epoch, 9, 0, JPEG, b"x", capture_ns=epoch * 5) for epoch in (1, 1, 2, 2, 2)]
    numbered = list(live(given))
    assert [(video.epoch, video.seq) for video in numbered] == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert numbered[0].capture_ns == 5


# Reading


def jpeg(seq: int, stream: str = "cam", **more: object) -> VideoMessage:
    given = {"data": b"\xff\xd8%d" % seq, "capture_ns": 10**18 + seq * 40_000_000, **more}
    return VideoMessage(stream, 0, seq, seq * 40_000_000, JPEG, **given)  # type: ignore[arg-type]


def unit(seq: int, *, keyframe: bool = False, stream: str = "cam", **more: object) -> VideoMessage:
    return replace(jpeg(seq, stream), content_type=ACCESS_UNIT, keyframe=keyframe, **more)  # type: ignore[arg-type]


def test_a_message_means_what_its_headers_say() -> None:
    video = VideoMessage("cam", 3, 7, 280, "video/mp4", b"data", False, True, 5_000_000, 25, "h264", 64, 48)
    assert read(as_message(video, 0)) == video
    bare = Message("video", 0, 0, b"cam", b"data")
    assert read(bare) == VideoMessage("cam", 0, 0, 0, "video/mp2t", b"data")
    for schema in (b"omote.video/1.9", b"urn:their-own"):
        assert read(replace(bare, headers=(("schema", schema),))) == read(bare)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message("video", 0, 0, None, b"x"), "neither a key nor a header `stream-id`"),
        (Message("video", 0, 0, b"cam", None), "the message of stream 'cam' is empty"),
        (
            Message("video", 0, 0, b"cam", b"x", (("content-type", b"video/avi"),)),
            "content-type 'video/avi' is not one",
        ),
        (
            Message("video", 0, 0, b"cam", b"x", (("schema", b"omote.video/2.0"),)),
            "omote.video/2.0 came and this omote understands omote.video/1; upgrade it",
        ),
        (
            Message("video", 0, 0, b"cam", b"x", (("ce_dataschema", b"omote.video/3.1"),)),
            "omote.video/3.1 came and this omote understands omote.video/1; upgrade it",
        ),
        (
            Message("video", 0, 0, b"cam", b"x", (("ce_dataschema", b"omote.frame/1.0"),)),
            "'omote.frame/1.0' names nothing that can be read here; this omote understands omote.video/1",
        ),
        (
            Message("video", 0, 0, b"cam", b"x", (("seq", b"7th"),)),
            "header 'seq' must be a whole number of 64 bits, got",
        ),
        (
            Message("video", 0, 0, b"cam", b"x", (("pts-ns", b"1" * 30),)),
            "header 'pts-ns' must be a whole number of 64",
        ),
        (
            Message("video", 0, 0, b"cam", b"x", (("epoch", b"1" * 5000),)),
            "header 'epoch' must be a whole number of 64",
        ),
        (Message("video", 0, 0, b"cam", b"\xff\xfe"), "message 0 of stream 'cam' is no video/mp2t"),
    ],
)
def test_a_message_that_cannot_be_read_says_why(message: Message, reason: str) -> None:
    (poison,) = Assembly().take(message)
    assert isinstance(poison, Poison)
    assert reason in poison.reason
    assert poison.messages == (message,)
    assert (poison.units, poison.position, poison.watermark) == ((), 1, 1)


@pytest.mark.parametrize("content_type", CONTAINERS)
def test_a_chunk_that_was_cut_off_is_not_taken_for_a_short_one(film: Film, content_type: str) -> None:
    path = str(film(scene(24), "a.mp4", "libx264", encoder=SHORT))
    (video,) = cut(Input(path), content_type, 1.0)
    for share in (0.2, 0.5, 0.9):
        short = replace(video, data=video.data[: int(len(video.data) * share)])
        (poison,) = sent([short])
        assert isinstance(poison, Poison), share
    assert pictures(video) == 24
    assert pictures(replace(video, frames=0)) == 24


def test_a_long_message_comes_in_parts_of_which_only_the_last_may_be_committed(film: Film) -> None:
    path = str(film(scene(24), "a.mp4", "libx264", encoder=SHORT))
    (video,) = cut(Input(path), "video/mp2t", 1.0)
    video = replace(video, capture_ns=10**18, eos=True)
    parts = chunks(video, as_message(video, 41), 10)
    assert [(len(p.units), p.partial, p.closed, p.last, p.position) for p in parts] == [
        (10, True, False, False, 42),
        (10, True, False, False, 42),
        (4, False, True, True, 42),
    ]
    assert [p.capture_ns - p.pts_ns for p in parts] == [10**18] * 3
