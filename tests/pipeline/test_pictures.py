"""Colours, hatching, mosaics and maps."""

import base64

import cv2
import numpy as np
import pytest

from pipeline.packets import EMOTIONS
from pipeline.palette import AGAINST, EMOTION_COLOURS, FOR, HATCH, TRACKS, css, track_colour, track_number
from pipeline.pictures import data_uri, hatched, heat, mosaic, overlaid

GREY = np.full((40, 60, 3), 128, np.uint8)


def test_a_track_has_one_colour_and_neighbouring_tracks_differ() -> None:
    assert track_colour("lobby:0:4") == track_colour("yard:2:4") != track_colour("lobby:0:5")
    assert track_number("a:b:0:17") == 17
    assert track_number("odd") == 0


def test_every_emotion_has_a_colour_of_its_own() -> None:
    assert tuple(EMOTION_COLOURS) == EMOTIONS
    assert len({*EMOTION_COLOURS.values(), *TRACKS, HATCH}) == len(EMOTIONS) + len(TRACKS) + 1


def test_css_writes_a_colour_as_hexadecimal() -> None:
    assert css((255, 0, 16)) == "#ff0010"


def test_stripes_lie_on_the_named_pixels_only_and_on_every_one_of_their_rows() -> None:
    where = np.zeros((40, 60), np.bool_)
    where[10:20, 5:50] = True
    changed = (hatched(GREY, where) != GREY).any(axis=-1)
    assert not changed[~where].any()
    assert changed[10:20].any(axis=1).all()
    assert (GREY == 128).all()


def test_a_mosaic_keeps_the_size_and_loses_the_detail() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    assert mosaic(noise).shape == noise.shape
    assert np.abs(np.diff(mosaic(noise).astype(int), axis=0)).mean() < 3


@pytest.mark.parametrize(("value", "against", "colour"), [(1, False, FOR), (-1, False, AGAINST), (1, True, AGAINST)])
def test_what_speaks_for_is_blue_and_what_speaks_against_orange(
    value: float, against: bool, colour: tuple[int, int, int]
) -> None:
    pixel = overlaid(GREY, np.full((4, 6), value, np.float32), against)[20, 30].astype(int)
    assert np.abs(pixel - colour).max() < 40


def test_no_relevance_leaves_a_grey_picture() -> None:
    shown = overlaid(GREY, np.zeros((40, 60), np.float32))
    assert np.ptp(shown, axis=-1).max() == 0


def test_heat_goes_from_blue_to_yellow_and_bears_what_is_not_a_number() -> None:
    cold, hot = (heat(np.full((40, 60), value, np.float32), GREY)[0, 0].astype(int) for value in (0, 1))
    assert cold[2] > cold[0]
    assert hot[0] > hot[2]
    assert heat(np.full((40, 60), np.nan, np.float32), GREY).shape == GREY.shape


def test_a_data_uri_is_the_picture() -> None:
    kind, _, encoded = data_uri(GREY).partition(",")
    assert kind == "data:image/jpeg;base64"
    back = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(back.astype(int) - 128).max() <= 2
