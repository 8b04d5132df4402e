"""Files give what is in them, and a file that cannot be used is refused with one sentence that names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from operators.decode import Decode
from pipeline.edges import Sink, Source
from pipeline.edges.files import ImageFolder, Input, JsonLines, VideoFile, Webcam
from pipeline.errors import SinkError, SourceError
from pipeline.packets import Chunk, Explanation, Frame
from pipeline.records import (
    ExplanationRecord,
    FrameRecord,
    FrameRef,
    PolicyRecord,
    Record,
    StreamRef,
    TrackRecord,
    TrackSummary,
)
from pipeline.testing import noise

Film = Callable[..., Path]
RAW = ("clip.avi", "rawvideo")


def read(source: Source) -> list[Chunk]:
    try:
        return list(source)
    finally:
        source.close()


def decoded(chunks: Sequence[Chunk]) -> list[Frame]:
    decode = Decode()
    state, frames = decode.start("camera"), []
    for chunk in chunks:
        state, given = decode(state, [chunk])
        frames += given
    return frames


def refused(path: Path | str) -> str:
    with pytest.raises(SourceError) as error:
        VideoFile(str(path))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


# Video files


@pytest.mark.parametrize("units", [1, 4, 5, 100])
def test_a_video_is_cut_into_chunks_of_units_and_the_last_says_so(film: Film, units: int) -> None:
    source = VideoFile(str(film(noise(10), "visit.mp4", "libx264")), units=units)
    chunks = read(source)
    assert source.expected_frames == 10
    assert [len(chunk.units) for chunk in chunks] == [units] * (10 // units) + [10 % units] * bool(10 % units)
    assert [chunk.seq for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert {chunk.stream for chunk in chunks} == {"visit"}
    assert chunks[0].units[0].keyframe
    assert chunks[0].codec.name == "h264"
    assert (chunks[0].codec.width, chunks[0].codec.height) == (64, 48)


def test_a_stream_may_be_given_a_name(film: Film) -> None:
    assert read(VideoFile(str(film(noise(2))), stream="door"))[0].stream == "door"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere.mp4").startswith("no such file: ")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    assert "is truncated, empty or no video" in refused(tmp_path / "empty.mp4")


@pytest.mark.parametrize("name", ["notes.mp4", "notes.txt", "notes"])
def test_a_text_is_no_video_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Dear diary, today I saw a face.\n" * 200)
    assert "no video" in refused(tmp_path / name)


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    assert "Is a directory" in refused(tmp_path)


def test_noise_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "noise.mpg").write_bytes(np.random.default_rng(0).bytes(50_000))
    assert "no video that FFmpeg reads" in refused(tmp_path / "noise.mpg")


def test_a_file_with_sound_only_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=44_100)
        for _ in range(5):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.rate = 44_100
            file.mux(stream.encode(sound))
        file.mux(stream.encode(None))
    assert refused(tmp_path / "song.mp4").endswith("has no video stream; omote needs pictures")


def test_a_video_without_a_frame_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "none.mp4"), "w", options={"movflags": "empty_moov+frag_keyframe"}) as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        file.start_encoding()
    assert refused(tmp_path / "none.mp4").endswith("has a video stream but no frames")


def test_a_video_that_was_cut_off_before_its_index_is_refused(film: Film, tmp_path: Path) -> None:
    whole = film(noise(20), "clip.mp4", "libx264").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    assert "it is truncated" in refused(tmp_path / "half.mp4")


def test_of_a_video_that_was_cut_off_after_its_index_the_frames_that_are_there_are_given_before_it_is_refused(
    film: Film, tmp_path: Path
) -> None:
    file = film(noise(20), "clip.mp4", "libx264", container={"movflags": "faststart"})
    whole, half = file.read_bytes(), tmp_path / "half.mp4"
    half.write_bytes(whole[: len(whole) // 2])
    intact, given = decoded(read(VideoFile(str(file)))), []
    with pytest.raises(SourceError, match=r"half\.mp4 is truncated: \d+ of its 20 frames are there; .* fetch the file"):
        given.extend(VideoFile(str(half), units=4))  # keeps what came before the error
    frames = decoded(given)
    assert 4 <= len(frames) < 20
    assert given[-1].last
    for frame, expected in zip(frames[:-1], intact, strict=False):
        np.testing.assert_array_equal(frame.image, expected.image)


def test_an_input_is_a_video_a_folder_an_image_or_a_camera(film: Film, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    for path, codec in (
        (film(noise(2)), "mjpeg"),
        (tmp_path / "photos", "still"),
        (tmp_path / "photos" / "a.png", "still"),
    ):
        source = Input(str(path))
        chunks = read(source)
        source.commit(chunks[0])
        assert source.expected_frames in {0, len(chunks[0].units)}
        assert chunks[0].codec.name == codec
    with pytest.raises(SourceError, match="cannot open /dev/null"):
        Input("/dev/null")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("", "no input was given; name a video, a folder of images or a camera"),
        ("nowhere.mp4", "no such file: nowhere.mp4"),
        ("nowhere.png", "nowhere.png holds no image"),
    ],
)
def test_an_input_that_is_none_is_refused(path: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        Input(path)


def test_a_video_of_pictures_without_a_size_is_refused(film: Film, tmp_path: Path) -> None:
    whole = film(noise(3), *RAW).read_bytes()
    size = whole.index(b"strf") + 12  # of the BITMAPINFOHEADER
    (tmp_path / "zero.avi").write_bytes(whole[:size] + bytes(8) + whole[size + 8 :])
    assert refused(tmp_path / "zero.avi").endswith("declares pictures of 0x0; it is damaged, re-encode it")


def test_a_video_of_enormous_pictures_is_refused_before_any_work(film: Film) -> None:
    sentence = refused(film([np.zeros((4320, 7680, 3), np.uint8)], "wall.mkv"))
    assert "pictures of 7680x4320, more than the" in sentence
    assert sentence.endswith("scale it down first, for instance to 3840x2160")


def test_a_video_of_4k_pictures_is_taken(film: Film) -> None:
    assert len(decoded(read(VideoFile(str(film([np.zeros((2160, 3840, 3), np.uint8)], "wall.mkv")))))) == 1


def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(SourceError, match="no such file: /dev/video99"):
        Webcam("/dev/video99")


@pytest.mark.parametrize("group", ["10", "100"])
def test_what_an_edit_list_hides_is_not_shown_and_not_missed(film: Film, tmp_path: Path, group: str) -> None:
    file = film(noise(60), "clip.mp4", "libx264", encoder={"g": group, "bf": "0"})
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(file)) as whole, av.open(str(trimmed), "w", options={"use_editlist": "1"}) as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(whole.streams.video[0]):
            if packet.dts is not None:
                shift = int(1.4 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                cut.mux(packet)
    with av.open(str(trimmed)) as file_again:
        shown = [round(frame.time * 1000) for frame in file_again.decode(video=0) if frame.time >= 0]
    frames = decoded(read(VideoFile(str(trimmed))))
    assert 0 < len(frames) < 60
    assert [round(frame.pts_ns / 1e6) for frame in frames] == shown
    assert frames[0].pts_ns == 0


# Folders of images


def test_images_come_by_name_at_the_rate_that_was_asked_for(tmp_path: Path) -> None:
    for number, name in ((2, "b.JPG"), (0, "a1.png"), (1, "a2.webp")):
        cv2.imwrite(str(tmp_path / name), np.full((8, 8, 3), 100 * number, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    source = ImageFolder(str(tmp_path), fps=10, units=2)
    chunks = read(source)
    assert source.expected_frames == 3
    assert [len(chunk.units) for chunk in chunks] == [2, 1]
    assert [unit.pts_ns for chunk in chunks for unit in chunk.units] == [0, 100_000_000, 200_000_000]
    assert [int(frame.image[0, 0, 0]) for frame in decoded(chunks)] == pytest.approx([0, 100, 200], abs=3)


def test_a_single_image_is_a_folder_of_one(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), np.zeros((8, 8, 3), np.uint8))
    (chunk,) = read(ImageFolder(str(tmp_path / "face.png")))
    assert (chunk.stream, chunk.last) == ("face", True)


@pytest.mark.parametrize("what", ["empty", "notes", "missing"])
def test_a_folder_without_images_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    with pytest.raises(SourceError, match=rf"{what} holds no image; omote reads \.bmp, \.jpeg, \.jpg"):
        ImageFolder(str(tmp_path / what))


def test_an_image_that_vanishes_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    source = ImageFolder(str(tmp_path))
    (tmp_path / "b.png").unlink()
    with pytest.raises(SourceError, match=r"cannot read .*b\.png: No such file"):
        read(source)


# JSON lines


def records() -> list[Record | Explanation]:
    stream, frame = StreamRef(id="camera", epoch=0, source="file"), FrameRef(seq=3, pts_ns=120_000_000, w=64, h=48)
    policy = PolicyRecord(purpose="research", emotion="off", identification="off", unmasking="off", faces="shown")
    life = TrackSummary(
        decision="unknown",
        subject_id=None,
        mask="bare",
        emotion=None,
        first_pts_ns=0,
        last_pts_ns=120_000_000,
        frames=4,
        best_quality=0.5,
    )
    return [
        FrameRecord(stream=stream, frame=frame, faces=(), policy=policy),
        TrackRecord(event="new", stream=stream, frame=frame, track_id="camera:0:1", before=None, after=life),
        Explanation(
            "camera", 0, 3, 120_000_000, "abc", "camera:0:1", "match", "Zoë", "similarity", 0.5,
            float("nan"), 0.4, 0.1, 0.0, np.zeros((4, 4, 3), np.uint8), None, {}, "none", 3.0,
        ),
    ]  # fmt: skip


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def write(sink: Sink[object], batch: Sequence[object]) -> None:
    try:
        sink.write(batch)
        sink.flush()
    finally:
        sink.close()


def test_each_record_is_one_line_that_reads_back(tmp_path: Path) -> None:
    frame, track, explanation = records()
    write(JsonLines(str(tmp_path / "new" / "all.jsonl")), [frame, track, explanation])
    first, second, third = (tmp_path / "new" / "all.jsonl").read_text("utf-8").splitlines()
    assert FrameRecord.model_validate_json(first) == frame
    assert TrackRecord.model_validate_json(second) == track
    assert json.loads(third)["record"] == "omote.explanation/1.0"
    assert json.loads(third)["completeness_error"] is None
    assert "Zoë" in third
    assert "crop" not in ExplanationRecord.model_fields


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [(["frame"], ["frame"]), (["track", "match"], ["track"]), (["frame", "explanation"], ["frame", "explanation"])],
)
def test_records_of_other_kinds_are_left_to_other_sinks(tmp_path: Path, kinds: list[str], kept: list[str]) -> None:
    write(JsonLines(str(tmp_path / "some.jsonl"), kinds), records())
    assert [line["record"] for line in lines(tmp_path / "some.jsonl")] == [f"omote.{kind}/1.0" for kind in kept]


def test_an_unknown_kind_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        SinkError, match=r"knows no kind \['frames'\]; it knows \['explanation', 'frame', 'match', 'track'\]"
    ):
        JsonLines(str(tmp_path / "x.jsonl"), ["frames"])


def test_what_was_flushed_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    sink = JsonLines(str(tmp_path / "x.jsonl"))
    sink.write(records()[:1])
    sink.flush()
    assert len(lines(tmp_path / "x.jsonl")) == 1
    sink.close()


def test_a_run_begins_its_files_anew(tmp_path: Path) -> None:
    for _ in range(2):
        write(JsonLines(str(tmp_path / "x.jsonl")), records())
    assert len(lines(tmp_path / "x.jsonl")) == 3


def test_a_file_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"cannot write .*file/x\.jsonl: .*; free some space or choose another folder"):
        JsonLines(str(tmp_path / "file" / "x.jsonl"))
    with pytest.raises(SinkError, match="Is a directory"):
        JsonLines(str(tmp_path))
    with pytest.raises(SinkError, match=r"cannot write /proc/x/y\.jsonl"):
        JsonLines("/proc/x/y.jsonl")


def test_a_full_disk_is_one_sentence() -> None:
    with pytest.raises(SinkError, match="cannot write /dev/full: No space left on device; free some space"):
        write(JsonLines("/dev/full"), records())
    with pytest.raises(SinkError, match="cannot write /dev/full: No space left on device; free some space"):
        write(JsonLines("/dev/full"), records() * 1000)
