"""Colours that mean the same in the video and in the report."""

from __future__ import annotations

from pipeline.packets import EMOTIONS

Colour = tuple[int, int, int]  # RGB, 0..255 each

# Okabe and Ito, "Color Universal Design" (2008), without black and without the blue that is lost on dark pictures.
TRACKS: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 178, 130),
    (224, 142, 190),
    (240, 228, 66),
    (232, 110, 40),
)

# The seven colours of Paul Tol's "bright" scheme (SRON/EPS/TN/09-002), each given to the feeling it suggests.
EMOTION_COLOURS: dict[str, Colour] = dict(
    zip(
        EMOTIONS,
        (
            (187, 187, 187),
            (221, 200, 70),
            (80, 134, 196),
            (238, 102, 119),
            (178, 72, 148),
            (52, 152, 72),
            (102, 204, 238),
        ),
        strict=True,
    )
)

FOR: Colour = (0, 114, 198)  # evidence for a decision
AGAINST: Colour = (220, 94, 0)  # evidence against it
INK: Colour = (14, 17, 23)
PAPER: Colour = (255, 255, 255)
HATCH: Colour = (255, 92, 168)  # of nothing else in a picture, so that an estimate is seen as one


def track_number(track_id: str) -> int:
    """The number at the end of ``<stream>:<epoch>:<number>``; 0 where there is none."""
    number = track_id.rpartition(":")[2]
    return int(number) if number.isdecimal() else 0


def track_colour(track_id: str) -> Colour:
    """The colour of a track: the same in every frame, picture and run."""
    return TRACKS[track_number(track_id) % len(TRACKS)]


def css(colour: Colour) -> str:
    """The colour as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
