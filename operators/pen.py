"""Lines, plates, letters and pixels that hide: what a picture is annotated with, at any size of picture."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from pipeline.packets import Floats, Pixels
from pipeline.palette import INK, PAPER, Colour
from pipeline.pictures import mosaic

REFERENCE_SIDE = 720  # sizes are given for a picture whose shorter side has so many pixels
SMALLEST_SCALE = 0.72  # below it letters would be illegible
SHIFT = 3  # OpenCV's fixed-point bits: lines lie between pixels

Box = tuple[int, int, int, int]  # left, top, right, bottom


class Lettering:
    """OpenCV's built-in Rubik, a variable font that has Latin, Cyrillic, Greek and CJK glyphs.

    It is made once and lent to every pen, for opening a font is slow and measuring text is not free.
    """

    def __init__(self) -> None:
        self.face = cv2.FontFace("sans")
        self.width = lru_cache(maxsize=1024)(self._width)

    def _width(self, text: str, size: int, weight: int) -> int:
        rect = cv2.getTextSize((1 << 14, 1 << 10), text, (0, 0), self.face, size, weight)
        return int(rect[2])


class Pen:
    """Draws on ``image``, (H, W, 3) uint8 RGB, in place.

    Lengths that are called *units* are pixels at 720 lines; ``px`` scales them to the picture.
    """

    def __init__(self, image: Pixels, letters: Lettering) -> None:
        self.image, self.letters = image, letters
        self.height, self.width = image.shape[:2]
        self.scale: float = max(SMALLEST_SCALE, min(self.height, self.width) / REFERENCE_SIDE)

    def px(self, units: float) -> int:
        """``units`` in pixels of this picture, at least 1."""
        return max(1, round(units * self.scale))

    def text_width(self, text: str, units: float, weight: int = 400) -> int:
        """Width in pixels of one line of text."""
        return self.letters.width(text, self.px(units), weight)

    def text(self, at: tuple[int, int], text: str, units: float, colour: Colour = PAPER, weight: int = 400) -> int:
        """Write one line from the left end of its baseline; gives the x where it ends."""
        size = self.px(units)
        cv2.putText(self.image, text, at, colour, self.letters.face, size, weight, 0, (0, 1 << 14))
        return at[0] + self.letters.width(text, size, weight)

    def plate(self, box: Box, colour: Colour = INK, opacity: float = 0.78, radius: float = 5) -> None:
        """A filled box with round corners that lets ``1 - opacity`` of the picture through."""
        left, top, right, bottom = self._inside(box)
        if right <= left or bottom <= top:
            return
        under = self.image[top:bottom, left:right]
        over = under.copy()
        _round_box(over, (0, 0, right - left - 1, bottom - top - 1), colour, self.px(radius))
        cv2.addWeighted(over, opacity, under, 1 - opacity, 0, dst=under)

    def fill(self, box: Box, colour: Colour) -> None:
        """A filled box."""
        left, top, right, bottom = self._inside(box)
        self.image[top:bottom, left:right] = colour

    def dot(self, centre: tuple[int, int], units: float, colour: Colour) -> None:
        """A filled circle of this radius."""
        at = (centre[0] << SHIFT, centre[1] << SHIFT)
        cv2.circle(self.image, at, round(units * self.scale * (1 << SHIFT)), colour, -1, cv2.LINE_AA, SHIFT)

    def frame(self, box: Box, colour: Colour, units: float = 2) -> None:
        """A box with strong corners, dark at its edges so that it shows on any ground."""
        left, top, right, bottom = box
        arm = max(3, min(right - left, bottom - top) // 5)
        corners = [
            np.array([[x + inward, y], [x, y], [x, y + downward]], np.int32)
            for x, inward in ((left, arm), (right, -arm))
            for y, downward in ((top, arm), (bottom, -arm))
        ]
        for rim, ink in ((self.px(2), INK), (0, colour)):
            cv2.rectangle(self.image, (left, top), (right, bottom), ink, self.px(units) + rim)
            cv2.polylines(self.image, corners, False, ink, self.px(2 * units) + rim)

    def dashed(self, box: Box, colour: Colour, units: float = 3, dash: float = 11) -> None:
        """A box of dashes: the place is estimated, not seen."""
        left, top, right, bottom = box
        long, thick = self.px(dash), self.px(units)
        across = [(x, y, min(x + long, right), y + thick) for x in range(left, right, 2 * long) for y in (top, bottom)]
        down = [(x, y, x + thick, min(y + long, bottom)) for y in range(top, bottom, 2 * long) for x in (left, right)]
        for rim, ink in ((1, INK), (0, colour)):
            for x0, y0, x1, y1 in across + down:
                self.fill((x0 - rim, y0 - rim, x1 + rim, y1 + rim), ink)

    def hide(self, box: Box) -> None:
        """Make the face in the box unrecognisable. The box is widened, for hair and ears are telling too."""
        left, top, right, bottom = box
        grow = (right - left) // 8
        left, top, right, bottom = self._inside((left - grow, top - 2 * grow, right + grow, bottom + grow))
        if right <= left or bottom <= top:
            return
        face = self.image[top:bottom, left:right]
        oval = np.zeros(face.shape[:2], np.uint8)
        centre, axes = ((right - left) // 2, (bottom - top) // 2), ((right - left) // 2, (bottom - top) // 2)
        cv2.ellipse(oval, centre, axes, 0, 0, 360, 255, -1)
        cv2.copyTo(mosaic(face), oval, face)

    def paste(self, picture: Pixels, at: tuple[int, int]) -> None:
        """Put ``picture`` with its upper left corner there, as far as it lies inside the image."""
        high, wide = picture.shape[:2]
        left, top, right, bottom = self._inside((*at, at[0] + wide, at[1] + high))
        if left < right and top < bottom:
            self.image[top:bottom, left:right] = picture[top - at[1] : bottom - at[1], left - at[0] : right - at[0]]

    def _inside(self, box: Box) -> Box:
        left, right = (min(max(x, 0), self.width) for x in (box[0], box[2]))
        top, bottom = (min(max(y, 0), self.height) for y in (box[1], box[3]))
        return left, top, right, bottom


def whole(box: Floats) -> Box:
    """A box of (4,) floats on the pixel grid; a box that is not finite or far outside becomes a small one."""
    left, top, right, bottom = (int(v) for v in np.clip(np.nan_to_num(box), -(1 << 14), 1 << 14).round())
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _round_box(image: Pixels, box: Box, colour: Colour, radius: int) -> None:
    left, top, right, bottom = box
    r = max(0, min(radius, (right - left) // 2, (bottom - top) // 2))
    cv2.rectangle(image, (left + r, top), (right - r, bottom), colour, -1)
    cv2.rectangle(image, (left, top + r), (right, bottom - r), colour, -1)
    for x in (left + r, right - r):
        for y in (top + r, bottom - r):
            cv2.circle(image, (x, y), r, colour, -1, cv2.LINE_AA)
