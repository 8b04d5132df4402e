"""Pictures come out upright, at their own times, and a damaged unit costs itself and nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from operators.decode import Decode
from pipeline.edges.files import ImageFolder, VideoFile
from pipeline.errors import SourceError
from pipeline.packets import Chunk, Codec, Frame, Unit
from pipeline.testing import noise, raw_chunks

Film = Callable[..., Path]
MS = 1_000_000
EXACT = ("clip.mov", "png")  # each picture for itself, and without loss


def decoded(chunks: Iterable[Chunk], together: int = 1, **arguments: int) -> list[Frame]:
    """Every frame of ``chunks``, given to the operator ``together`` at a time."""
    decode, whole = Decode(**arguments), list(chunks)
    state, frames = decode.start("camera"), []
    for first in range(0, len(whole), together):
        state, given = decode(state, whole[first : first + together])
        frames += given
    decode.close()
    return frames


def units_of(file: Path, size: int = 16) -> list[Chunk]:
    source = VideoFile(str(file), units=size)
    try:
        return list(source)
    finally:
        source.close()


def times_ms(frames: Sequence[Frame]) -> list[int]:
    return [frame.pts_ns // MS for frame in frames]


def with_unit(chunks: Sequence[Chunk], number: int, change: Callable[[Unit], Unit]) -> list[Chunk]:
    """``chunks`` with unit ``number`` of them all changed."""
    changed, seen = [], 0
    for chunk in chunks:
        units = tuple(change(unit) if seen + n == number else unit for n, unit in enumerate(chunk.units))
        changed.append(replace(chunk, units=units))
        seen += len(chunk.units)
    return changed


def test_pictures_come_out_as_they_were_filmed(film: Film) -> None:
    pictures = noise(9)
    frames = decoded(units_of(film(pictures, *EXACT), 4))
    assert [frame.seq for frame in frames] == list(range(9))
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.image.dtype == np.uint8
        np.testing.assert_array_equal(frame.image, picture)


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4", "libx264"])
def test_presentation_times_of_a_variable_frame_rate_are_kept(film: Film, codec: str) -> None:
    odd = [0, 40, 90, 100, 333, 400, 401, 500, 900, 1000]
    assert times_ms(decoded(units_of(film(noise(10), "clip.mkv", codec, pts_ms=odd), 3))) == odd


def test_frames_come_in_order_of_presentation_where_the_codec_reorders_them(film: Film) -> None:
    file = film(noise(20), "clip.mp4", "libx264", encoder={"bf": "3", "b_strategy": "0"})
    chunks = units_of(file, 5)
    assert any(unit.pts_ns != unit.dts_ns for chunk in chunks for unit in chunk.units)
    assert times_ms(decoded(chunks)) == list(range(0, 800, 40))


def test_a_picture_without_a_time_gets_the_step_of_those_before() -> None:
    chunks = raw_chunks(noise(5, 8, 8), units=5)
    units = chunks[0].units
    bare = (units[0], replace(units[1], pts_ns=10 * MS), replace(units[2], pts_ns=None), replace(units[3], pts_ns=None))
    assert times_ms(decoded([replace(chunks[0], units=bare)])) == [0, 10, 20, 30]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_film_taken_with_a_turned_camera_is_upright(film: Film, degrees: int) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :32] = 255, 0, 0
    file = film([picture] * 3, "clip.mp4", "mpeg4", rotation=degrees)
    frames = decoded(units_of(file))
    player = cv2.VideoCapture(str(file))  # turns films by their metadata, as players do
    shown = cv2.cvtColor(player.read()[1], cv2.COLOR_BGR2RGB)
    player.release()
    assert frames[0].image.shape == shown.shape
    assert np.abs(frames[0].image.astype(int) - shown).mean() < 8
    assert np.abs(frames[0].image.astype(int) - picture.reshape(shown.shape)).mean() > 8
    assert frames[0].image.flags.c_contiguous


# Damage

DAMAGE: dict[str, Callable[[Unit], Unit]] = {
    "zeroed": lambda unit: replace(unit, data=bytes(len(unit.data))),
    "cut": lambda unit: replace(unit, data=unit.data[: len(unit.data) // 2]),
    "flipped": lambda unit: replace(unit, data=unit.data[:400] + bytes(b ^ 0xFF for b in unit.data[400:])),
    "empty": lambda unit: replace(unit, data=b""),
    "marked": lambda unit: replace(unit, damaged=True),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("name", "codec"), [EXACT, ("clip.mp4", "mpeg4")])
def test_a_damaged_unit_loses_its_own_picture_only_and_is_counted(
    film: Film, name: str, codec: str, damage: str
) -> None:
    chunks = units_of(film(noise(10), name, codec, encoder={"g": "1"}), 4)
    whole = decoded(chunks)
    hurt = decoded(with_unit(chunks, 5, DAMAGE[damage]))
    assert times_ms(hurt) == [t for t in times_ms(whole) if t != 200]
    assert [frame.dropped_before for frame in hurt] == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert [frame.seq for frame in hurt] == list(range(9))
    for frame in hurt:
        (same,) = (other for other in whole if other.pts_ns == frame.pts_ns)
        np.testing.assert_array_equal(frame.image, same.image)


def test_damage_is_counted_across_chunks(film: Film) -> None:
    chunks = units_of(film(noise(9), *EXACT), 3)
    for number in (2, 3, 4):
        chunks = with_unit(chunks, number, DAMAGE["zeroed"])
    frames = decoded(chunks)
    assert times_ms(frames) == [0, 40, 200, 240, 280, 320]
    assert [frame.dropped_before for frame in frames] == [0, 0, 3, 0, 0, 0]


def test_a_picture_that_others_refer_to_may_be_lost_and_the_film_goes_on(film: Film) -> None:
    pictures = [np.full((48, 64, 3), 8 * n, np.uint8) for n in range(20)]
    chunks = units_of(film(pictures, "clip.mp4", "libx264", encoder={"bf": "0"}), 4)
    frames = decoded(with_unit(chunks, 6, DAMAGE["zeroed"]))
    assert len(frames) >= 18
    assert sum(frame.dropped_before for frame in frames) == 20 - len(frames)


def test_what_an_edit_list_hides_is_decoded_and_not_shown() -> None:
    (chunk,) = raw_chunks(noise(6, 8, 8), units=6)
    earlier = tuple(replace(unit, pts_ns=(unit.pts_ns or 0) - 80 * MS) for unit in chunk.units)
    frames = decoded([replace(chunk, units=earlier)])
    assert times_ms(frames) == [0, 40, 80, 120]
    assert [frame.seq for frame in frames] == [0, 1, 2, 3]


# Stills


def still(image: np.ndarray, kind: str = ".png") -> Unit:
    return Unit(cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes(), 0, 0, keyframe=True)


def stills(*units: Unit) -> Chunk:
    timed = tuple(replace(unit, pts_ns=n * 40 * MS) for n, unit in enumerate(units))
    return Chunk("photos", 0, 0, 0, Codec("still"), timed, closed=True, last=True)


def test_stills_may_differ_in_size_and_kind() -> None:
    small, large = noise(1, 8, 8)[0], noise(1, 31, 17)[0]
    frames = decoded([stills(still(small), still(large), still(large, ".jpg"), still(small, ".bmp"))])
    assert [frame.image.shape for frame in frames] == [(8, 8, 3), (31, 17, 3), (31, 17, 3), (8, 8, 3)]
    np.testing.assert_array_equal(frames[1].image, large)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_says(orientation: int) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    Image.fromarray(picture).save(file, "jpeg", exif=exif, quality=95)
    (frame,) = decoded([stills(Unit(file.getvalue(), 0, 0))])
    upright = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture),
    }[orientation]
    assert frame.image.shape == upright.shape
    assert np.abs(frame.image.astype(int) - upright).mean() < 4


def test_a_grey_or_transparent_still_becomes_rgb() -> None:
    grey = Unit(cv2.imencode(".png", np.full((8, 9), 70, np.uint8))[1].tobytes(), 0, 0)
    clear = Unit(cv2.imencode(".png", np.full((8, 9, 4), 70, np.uint8))[1].tobytes(), 0, 0)
    for frame in decoded([stills(grey, clear)]):
        assert frame.image.shape == (8, 9, 3)
        assert (frame.image == 70).all()


@pytest.mark.parametrize("damage", ["zeroed", "empty"])
def test_a_still_that_is_no_picture_is_lost_and_counted(damage: str) -> None:
    good = still(noise(1, 8, 8)[0], ".jpg")
    frames = decoded([stills(good, DAMAGE[damage](good), good)])
    assert times_ms(frames) == [0, 80]
    assert [frame.dropped_before for frame in frames] == [0, 1]


def test_a_truncated_photo_is_lost_and_counted() -> None:
    good = still(noise(1, 64, 64)[0], ".jpg")
    frames = decoded([stills(good, DAMAGE["cut"](good), good)])
    assert times_ms(frames) == [0, 80]
    assert [frame.dropped_before for frame in frames] == [0, 1]


def test_a_still_that_claims_to_be_enormous_is_lost_and_counted() -> None:
    good = still(noise(1, 8, 8)[0])
    header = b"IHDR" + (60_000).to_bytes(4) * 2 + good.data[24:29]
    bomb = good.data[:12] + header + zlib.crc32(header).to_bytes(4) + good.data[33:]
    frames = decoded([stills(good, Unit(bomb, 0, 0), good)])
    assert [frame.dropped_before for frame in frames] == [0, 1]


def test_what_is_replayed_is_decoded_for_its_successors_and_gives_no_frames(film: Film) -> None:
    chunks = units_of(film(noise(12), "clip.mp4", "libx264", encoder={"bf": "0"}), 4)
    whole, decode = decoded(chunks), Decode()
    state, given = decode(decode.start("clip"), chunks[:1])
    taken_over = Decode()
    state, silent = taken_over(state, [replace(chunks[0], replayed=True)])
    assert not list(silent)
    _, rest = taken_over(state, chunks[1:])
    for frame, expected in zip([*given, *rest], whole, strict=True):
        assert frame.seq == expected.seq
        np.testing.assert_array_equal(frame.image, expected.image)


def test_what_fails_in_a_replay_was_told_before(film: Film) -> None:
    (chunk,) = units_of(film(noise(12), "clip.mp4", "libx264", encoder={"bf": "0"}), 12)
    decode = Decode(max_pixels=1)
    state, frames = decode(decode.start("clip"), [replace(chunk, replayed=True)])
    assert not list(frames)
    with pytest.raises(SourceError, match="larger than the 1 pixels"):
        decode(state, [chunk])


# Promises for every stream


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("together", [1, 2, 100])
def test_the_result_does_not_depend_on_how_the_stream_is_cut(film: Film, size: int, together: int) -> None:
    file = film(noise(11), "clip.mp4", "libx264")
    whole, cut = decoded(units_of(file, 100)), decoded(units_of(file, size), together)
    assert [(f.seq, f.pts_ns) for f in cut] == [(f.seq, f.pts_ns) for f in whole]
    for one, other in zip(cut, whole, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_every_nth_picture_is_given_whatever_the_cut(film: Film) -> None:
    chunks = units_of(film(noise(11), *EXACT), 4)
    frames = decoded(chunks, every=3)
    assert times_ms(frames) == [0, 120, 240, 360]
    assert [frame.seq for frame in frames] == [0, 1, 2, 3]


def test_losses_between_the_pictures_that_are_given_are_summed(film: Film) -> None:
    chunks = with_unit(units_of(film(noise(12), *EXACT), 4), 4, DAMAGE["zeroed"])
    frames = decoded(chunks, every=3)
    assert sum(frame.dropped_before for frame in frames) == 1


def test_a_new_epoch_begins_anew() -> None:
    first = raw_chunks(noise(4, 8, 8), units=4)
    frames = decoded([*first, *(replace(chunk, epoch=1) for chunk in first)])
    assert [(frame.epoch, frame.seq) for frame in frames] == [(0, n) for n in range(4)] + [(1, n) for n in range(4)]


def test_a_frame_says_how_its_stream_came_in() -> None:
    chunk = raw_chunks(noise(2))[0]
    assert {frame.source for frame in decoded([chunk, replace(chunk, source="rtsp")])} == {"file", "rtsp"}


def test_two_streams_through_one_operator_stay_apart(film: Film) -> None:
    one, other = (units_of(film(noise(9, seed=n), f"{n}.mp4", "libx264"), 3) for n in (1, 2))
    decode, states, mixed = Decode(), {"1": Decode().start("1"), "2": Decode().start("2")}, []
    for pair in zip(one, other, strict=True):
        for chunk in pair:
            states[chunk.stream], frames = decode(states[chunk.stream], [chunk])
            mixed += frames
    for chunks in (one, other):
        alone = decoded(chunks)
        mine = [frame for frame in mixed if frame.stream == chunks[0].stream]
        for frame, expected in zip(mine, alone, strict=True):
            np.testing.assert_array_equal(frame.image, expected.image)


def test_pictures_larger_than_memory_allows_are_refused(film: Film) -> None:
    with pytest.raises(SourceError, match=r"a picture of 64x48 is larger than the 1000 pixels .* scale the video down"):
        decoded(units_of(film(noise(2), *EXACT)), max_pixels=1000)
    with pytest.raises(SourceError, match=r"a picture of 64x48 is larger"):
        decoded([stills(still(noise(1)[0]))], max_pixels=1000)


def test_a_codec_that_is_not_there_is_refused() -> None:
    chunk = replace(raw_chunks(noise(1))[0], codec=Codec("betamax"))
    with pytest.raises(SourceError, match="this FFmpeg has no decoder for 'betamax'; re-encode the video"):
        decoded([chunk])
    with pytest.raises(SourceError, match="'aac' is no video codec"):
        decoded([replace(chunk, codec=Codec("aac"))])


def test_a_folder_of_images_goes_through(tmp_path: Path) -> None:
    pictures = noise(3)
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    frames = decoded(ImageFolder(str(tmp_path), fps=10, units=2))
    assert times_ms(frames) == [0, 100, 200]
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(frame.image, picture)
