"""The annotated video: times kept, always playable, errors in one sentence."""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.edges.video_out import AnnotatedVideo
from pipeline.errors import SinkError
from pipeline.packets import DrawnFrame

FULL = Path("/dev/full")


def frames(times_ms: list[int], height: int = 48, width: int = 64, level: int = 128) -> list[DrawnFrame]:
    image = np.full((height, width, 3), level, np.uint8)
    return [DrawnFrame("camera", 0, n, ms * 1_000_000, image) for n, ms in enumerate(times_ms)]


def written(path: Path, *batches: list[DrawnFrame]) -> None:
    video = AnnotatedVideo(str(path))
    for batch in batches:
        video.write(batch)
        video.flush()
    video.close()


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times_ms(path: Path) -> list[int]:
    return [round(frame.pts * frame.time_base * 1000) for frame in decoded(path)]


def test_presentation_times_are_kept_also_uneven_ones(tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 210, 1000, 1033]
    written(tmp_path / "out.mp4", frames(times))
    assert times_ms(tmp_path / "out.mp4") == times


def test_time_goes_on_where_a_new_connection_starts_at_zero(tmp_path: Path) -> None:
    written(tmp_path / "out.mp4", frames([0, 100, 200]), frames([0, 100]))
    assert times_ms(tmp_path / "out.mp4") == [0, 100, 200, 233, 333]


def test_it_is_h264_that_every_player_plays_with_its_colours_named(tmp_path: Path) -> None:
    written(tmp_path / "out.mp4", frames([0, 40]))
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.time_base == Fraction(1, 90_000)
        assert next(container.decode(stream)).colorspace == 5  # BT.601, which is what the pixels are in


def test_colours_survive(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[...] = (200, 60, 30)
    written(tmp_path / "out.mp4", [DrawnFrame("camera", 0, 0, 0, image)])
    middle = decoded(tmp_path / "out.mp4")[0].to_ndarray(format="rgb24")[32, 32]
    assert np.abs(middle.astype(int) - (200, 60, 30)).max() <= 6


def test_odd_sizes_lose_their_last_row_and_column(tmp_path: Path) -> None:
    written(tmp_path / "out.mp4", frames([0], 47, 63))
    (frame,) = decoded(tmp_path / "out.mp4")
    assert (frame.height, frame.width) == (46, 62)


def test_a_frame_of_another_size_is_fitted_between_black_bars(tmp_path: Path) -> None:
    written(
        tmp_path / "out.mp4",
        frames([0], 64, 128),
        [DrawnFrame("camera", 0, 1, 40_000_000, frames([0], 200, 100)[0].image)],
    )
    last = decoded(tmp_path / "out.mp4")[-1].to_ndarray(format="rgb24")
    assert last.shape == (64, 128, 3)
    assert last[:, :40].max() < 20
    assert abs(int(last[32, 64, 0]) - 128) < 6


def test_without_a_frame_there_is_no_file(tmp_path: Path) -> None:
    written(tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_what_was_written_plays_before_the_file_is_finished(tmp_path: Path) -> None:
    video = AnnotatedVideo(str(tmp_path / "out.mp4"))
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    video.write([DrawnFrame("camera", 0, n, n * 40_000_000, noise) for n in range(150)])
    seen = 0
    with suppress(av.InvalidDataError), av.open(str(tmp_path / "out.mp4")) as container:
        for _ in container.decode(video=0):
            seen += 1
    video.close()
    assert seen >= 50
    assert len(decoded(tmp_path / "out.mp4")) == 150


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    video = AnnotatedVideo(str(tmp_path / "out.mp4"))
    video.write(frames([0]))
    video.close()
    video.close()
    assert len(decoded(tmp_path / "out.mp4")) == 1


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    written(tmp_path / "a" / "b" / "out.mp4", frames([0]))
    assert len(decoded(tmp_path / "a" / "b" / "out.mp4")) == 1


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    video = AnnotatedVideo(str(tmp_path / "file" / "out.mp4"))
    with pytest.raises(SinkError, match=r"cannot write the video .*file/out\.mp4"):
        video.write(frames([0]))


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_one_sentence_and_no_crash() -> None:
    video = AnnotatedVideo(str(FULL))
    with pytest.raises(SinkError, match=r"/dev/full: No space left on device"):
        video.write(frames([0, 40]))
    with pytest.raises(SinkError, match="No space left"):
        video.write(frames([80]))
    video.close()
