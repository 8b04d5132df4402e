"""Draws what a gallery says about its thresholds: error rates of bare and of masked faces, and where to cut."""

from __future__ import annotations

from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.gallery.error_rates import Curve, Suggestion
from pipeline.palette import AGAINST, FOR, INK, PAPER, css

if TYPE_CHECKING:
    from pipeline.gallery.calibration import Calibration
    from pipeline.gallery.kind_calibration import KindCalibration

STRANGERS, MISSED, QUIET = css(FOR), css(AGAINST), "#6b7280"
STYLE = {"font.size": 13, "axes.spines.top": False, "axes.spines.right": False, "text.color": css(INK)}
LEAST = 1e-4  # the lowest rate that is drawn
NAMES = {"bare": "Bare faces", "masked": "Masked faces"}


def drawn(calibration: Calibration) -> bytes:
    """A PNG of 1600 x 800 pixels; what is refused says why."""
    with rc_context(STYLE):
        figure = Figure((16, 8), dpi=100, facecolor=css(PAPER))
        FigureCanvasAgg(figure)
        for axes, kind in zip(figure.subplots(1, 2), (calibration.bare, calibration.masked), strict=True):
            _panel(axes, kind)
        figure.subplots_adjust(left=0.055, right=0.985, top=0.79, bottom=0.095, wspace=0.15)
        file = BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _panel(axes: Axes, kind: KindCalibration) -> None:
    axes.text(0, 1.19, NAMES[kind.kind], transform=axes.transAxes, fontsize=23, fontweight="bold")
    if kind.suggestion:
        _say(axes, 1.115, kind.suggestion.promise, STRANGERS)
        _say(axes, 1.045, f"{kind.suggestion.miss_rate:.1%} of the enrolled are missed by one picture", MISSED)
    else:
        _say(axes, 1.115, "no threshold is suggested:", css(INK))
        _say(axes, 1.075, fill("; ".join(r.sentence for r in kind.refusals), 88), QUIET, va="top")
    if kind.curve is None:
        axes.set_axis_off()
        return
    _rates(axes, kind.curve)
    if kind.suggestion:
        _cut(axes, kind.suggestion)
    axes.legend(loc="lower left", frameon=False)
