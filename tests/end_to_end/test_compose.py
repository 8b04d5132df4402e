import json
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from deploy.demo import crossing, wall
from deploy.demo.compose import CLIPS, compose, face_detector
from deploy.demo.film import FPS, Shot, as_rgb, largest, read_picture, read_reel
from pipeline.errors import SourceError

LANDMARKS = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]], np.float32)


def middle(picture):
    """A detector that finds one face, in the middle of the picture."""
    height, width = picture.shape[:2]
    side = min(height, width) / 2
    corner = np.array([width - side, height - side], np.float32) / 2
    return [(np.concatenate([corner, corner + side]).astype(np.float32), (corner + LANDMARKS * side))]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """One second of a grey pattern that moves, under all the names."""
    path = tmp_path_factory.mktemp("clips") / "pattern.mp4"
    pattern = cv2.resize(np.random.default_rng(0).integers(60, 200, (18, 36, 3), np.uint8), (704, 360))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for n in range(30):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pattern[:, 2 * n : 2 * n + 640].copy(), format="rgb24")))
        file.mux(stream.encode())
    return dict.fromkeys(CLIPS, path)


@pytest.fixture(scope="module")
def texture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("textures") / "blue.png"
    cv2.imwrite(str(path), np.full((40, 60, 3), (255, 60, 0), np.uint8))
    return path


@pytest.fixture
def short(monkeypatch) -> None:
    """The plan of the demo, played in one second of the wall and half a second of the crossing."""

    def hurry(camera: wall.Camera) -> wall.Camera:
        quick = replace(camera.shot, path=(0, 20))
        photos = tuple((clip, n) for n, (clip, _) in enumerate(camera.photos))
        half = None if camera.masked_from is None else 0.48
        return replace(
            camera, shot=quick, enters=camera.enters / 20, leaves=camera.leaves / 20, photos=photos, masked_from=half
        )

    monkeypatch.setattr(wall, "CAMERAS", tuple(map(hurry, wall.CAMERAS)))
    monkeypatch.setattr(wall, "SECONDS", 1)
    monkeypatch.setattr(wall, "MASK_RISES_S", 0.2)
    quick = (replace(walker, shot=replace(walker.shot, path=(0, 20))) for walker in crossing.WALKERS)
    monkeypatch.setattr(crossing, "WALKERS", tuple(quick))
    monkeypatch.setattr(crossing, "SECONDS", 1)


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def test_a_shot_plays_its_path_to_and_fro_and_holds_its_end():
    shot = Shot("any", 10, (0, 4, 2, 3), (0, 0, 1, 1))
    assert [shot.frame(n / 10) for n in range(10)] == [0, 1, 2, 3, 4, 3, 2, 3, 3, 3]


@pytest.mark.usefixtures("short")
def test_the_demo_has_every_picture_and_keeps_what_the_mask_hides(tmp_path, clips, texture):
    told: list[tuple[int, int]] = []
    compose(tmp_path, clips, texture, middle, lambda *step: told.append(step))
    shown, unmasked = pictures(tmp_path / "demo.mp4"), pictures(tmp_path / "unmasked.mp4")
    assert len(shown) == len(unmasked) == FPS
    assert shown[0].shape == (720, 1280, 3)
    assert told == [(n, 2 * FPS) for n in range(1, 2 * FPS + 1)]

    truth = json.loads((tmp_path / "truth.json").read_text())
    (masked,) = (person for person in truth["people"] if person["masked_frames"])
    first, last = masked["masked_frames"]
    x1, y1, x2, y2 = masked["panel"]
    hidden = [np.abs(a.astype(int) - b).mean(2) > 40 for a, b in zip(shown, unmasked, strict=True)]
    assert not any(each.any() for each in hidden[:first])
    assert hidden[last][y1:y2, x1:x2].mean() > 0.03
    hidden[last][y1:y2, x1:x2] = False
    assert not hidden[last].any()

    nose = np.array(masked["mask_landmarks"][str(last)][2])
    (_, landmarks) = middle(np.zeros((*wall.PANEL[::-1], 3), np.uint8))[0]
    assert nose == pytest.approx(landmarks[2] + [x1, y1], abs=1)
    assert masked["mask_landmarks"][str(first)][2][1] > nose[1] + 50


@pytest.mark.usefixtures("short")
def test_two_are_enrolled_with_photos_and_two_stay_unknown(tmp_path, clips, texture):
    compose(tmp_path, clips, texture, middle)
    people = json.loads((tmp_path / "truth.json").read_text())["people"]
    enrolled = {person["id"] for person in people if person["enrolled"]}
    assert (len(people), len(enrolled)) == (4, 2)
    photos = sorted((tmp_path / "enrol").rglob("*.jpg"))
    assert {photo.parent.name for photo in photos} == enrolled
    assert all(min(cv2.imread(str(photo)).shape[:2]) >= 180 for photo in photos)


@pytest.mark.usefixtures("short")
def test_the_two_who_cross_change_sides_and_meet_in_the_middle(tmp_path, clips, texture):
    compose(tmp_path, clips, texture, middle)
    truth = json.loads((tmp_path / "crossing.json").read_text())
    assert len(pictures(tmp_path / "crossing.mp4")) == truth["frames"] == FPS
    behind, before = (np.array(person["boxes"]) for person in truth["people"])
    assert [person["in_front"] for person in truth["people"]] == [False, True]
    apart = behind[:, 0] - before[:, 0]
    assert apart[0] < -500
    assert apart[-1] > 500
    assert np.abs(apart).min() < 20
    assert min(behind.min(), before.min()) >= 0


@pytest.mark.usefixtures("short")
def test_composing_again_does_nothing_until_something_changes(tmp_path, clips, texture):
    out = tmp_path / "demo"
    compose(out, clips, texture, middle)
    first = {path.name: path.read_bytes() for path in out.rglob("*.*")}
    compose(out, clips, texture, lambda _: pytest.fail("nothing is to be done"))

    other = tmp_path / "green.png"
    cv2.imwrite(str(other), np.full((40, 60, 3), (0, 200, 0), np.uint8))
    compose(out, clips, other, middle)
    assert (out / "demo.mp4").read_bytes() != first["demo.mp4"]
    compose(out, clips, texture, middle)
    assert {path.name: path.read_bytes() for path in out.rglob("*.*")} == first


def test_what_is_missing_is_named(tmp_path, clips, texture):
    stranger = tmp_path / "stranger"
    stranger.write_text("neither a clip nor a picture")
    with pytest.raises(SourceError, match="clip 'cap12' is missing; run `omote models pull`"):
        compose(tmp_path, {**clips, "cap12": tmp_path / "nothing.mp4"}, texture, middle)
    with pytest.raises(SourceError, match=r"pattern\.mp4' has no frame 30"):
        compose(tmp_path, clips, texture, middle)
    with pytest.raises(SourceError, match=r"stranger' cannot be read"):
        read_reel(stranger, [0])
    with pytest.raises(SourceError, match=r"stranger' cannot be read"):
        read_picture(stranger)


@pytest.mark.usefixtures("short")
def test_a_clip_without_a_face_is_named(tmp_path, clips, texture):
    with pytest.raises(SourceError, match="no face was found in clip 'cap13'"):
        compose(tmp_path, clips, texture, lambda _: [])


def test_photos_are_of_moments_that_the_demo_does_not_show():
    for camera in wall.CAMERAS:
        shown = set(map(camera.source, camera.frames()))
        assert not any(clip == camera.shot.clip and frame in shown for clip, frame in camera.photos)


@pytest.mark.usefixtures("weights_ready")
@pytest.mark.parametrize("camera", wall.CAMERAS, ids=lambda camera: camera.person)
def test_the_face_is_found_as_each_person_comes_and_goes(camera, clip):
    detect = face_detector()
    ends = [camera.source(camera.frames()[n]) for n in (0, -1)]
    reel = read_reel(clip(camera.shot.clip), ends)
    for end in ends:
        box, _ = largest(detect(wall._panel(camera.shot, reel[end])), camera.shot.clip)
        assert 100 < box[3] - box[1] < wall.PANEL[1]
    for source, frame in camera.photos:
        assert detect(as_rgb(read_reel(clip(source), [frame])[frame]))
