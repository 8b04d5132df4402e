"""Draws what a gallery says about its thresholds: error rates of bare and of masked faces, and where to cut."""

from __future__ import annotations

from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.gallery.error_rates import Curve, Suggestion, per_thousand
from pipeline.palette import AGAINST, FOR, INK, PAPER, css

if TYPE_CHECKING:
    from pipeline.gallery.calibration import Calibration
    from pipeline.gallery.kind_calibration import KindCalibration

STRANGERS, MISSED, QUIET = css(FOR), css(AGAINST), "#6b7280"
STYLE: dict[Any, Any] = {"font.size": 14, "axes.spines.top": False, "axes.spines.right": False, "text.color": css(INK)}
TICKS = (1e-4, 1e-3, 1e-2, 1e-1, 1)
LEAST = TICKS[0]  # the lowest rate that is drawn
NAMES = {"bare": "Bare faces", "masked": "Masked faces"}


def drawn(calibration: Calibration) -> bytes:
    """A PNG of 1600 x 800 pixels; where nothing is suggested it says why."""
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
        promised, missed = per_thousand(kind.suggestion.promised_far), f"{kind.suggestion.miss_rate:.1%}"
        _say(axes, 1.115, f"at most {promised} strangers are taken for somebody", STRANGERS)
        _say(axes, 1.045, f"{missed} of the enrolled are missed by one picture", MISSED)
    else:
        why = [fill(reason.sentence, 64) for reason in kind.refusals]
        shown = why if kind.curve is None else why[:1]
        _say(axes, 1.15, "\n\n".join(["no threshold is suggested:", *shown]).replace("\n\n", "\n", 1), css(INK))
    if kind.curve is None:
        axes.set_axis_off()
        return
    _rates(axes, kind.curve)
    if kind.suggestion:
        _cut(axes, kind.suggestion)
    axes.legend(loc="lower left", frameon=False, fontsize=12)


def _say(axes: Axes, y: float, words: str, colour: str) -> None:
    """A line above the axes, or several from there down."""
    above = "top" if "\n" in words else "baseline"
    axes.text(0, y, words, transform=axes.transAxes, color=colour, fontsize=15, va=above, linespacing=1.3)


def _rates(axes: Axes, curve: Curve) -> None:
    thresholds, far, limit, frr = (np.array(c) for c in (curve.thresholds, curve.far, curve.far_limit, curve.frr))
    axes.set_yscale("log")
    axes.fill_between(thresholds, far, limit, where=far > 0, color=STRANGERS, alpha=0.14, linewidth=0)
    axes.plot(thresholds, _seen(far), color=STRANGERS, lw=3.5, label="strangers taken for somebody")
    axes.plot(thresholds, limit, color=STRANGERS, lw=1.8, ls=(0, (5, 3)), label="what can be promised")
    if curve.unknown:
        axes.plot(thresholds, _seen(np.array(curve.unknown)), color=QUIET, lw=2.2, ls=":", label="unknown tracks")
    axes.plot(thresholds, _seen(frr), color=MISSED, lw=3.5, label="enrolled people missed")
    axes.set(xlim=(0, 1), ylim=(LEAST, 1.2), xlabel="threshold (cosine)")
    axes.set_yticks(TICKS, [f"{tick:.4g} %" for tick in 100 * np.array(TICKS)])
    axes.grid(visible=True, which="major", color="#e5e7eb", lw=1)
    axes.set_axisbelow(True)


def _seen(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without what a logarithmic scale cannot show."""
    return np.where(shares > 0, shares, np.nan)


def _cut(axes: Axes, said: Suggestion) -> None:
    """Where the threshold cuts the curves."""
    axes.axvline(said.threshold, color=css(INK), lw=2.2)
    for share, colour in ((said.promised_far, STRANGERS), (said.miss_rate, MISSED)):
        axes.plot(said.threshold, max(share, LEAST), "o", ms=11, mfc=colour, mec=css(PAPER), mew=2, zorder=5)
    aside, ha = (-0.015, "right") if said.threshold > 0.7 else (0.015, "left")
    axes.text(said.threshold + aside, 1.5 * LEAST, f"{said.threshold:.3f}", fontsize=22, fontweight="bold", ha=ha)
