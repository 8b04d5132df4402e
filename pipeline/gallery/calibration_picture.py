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
        figure.suptitle(
            f"What {calibration.subjects} subjects with {calibration.templates} templates promise",
            x=0.06, y=0.965, ha="left", fontsize=21, fontweight="bold",
        )  # fmt: skip
        figure.subplots_adjust(left=0.06, right=0.985, top=0.82, bottom=0.1, wspace=0.16)
        file = BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _panel(axes: Axes, kind: KindCalibration) -> None:
    if kind.curve is None:
        axes.set_axis_off()
    else:
        _rates(axes, kind.curve)
        axes.legend(loc="lower left", frameon=False, fontsize=12)
    told = f"{kind.strangers} strangers, {kind.genuine_people} people with two photos"
    axes.text(0, 1.095, NAMES[kind.kind], transform=axes.transAxes, fontsize=17, fontweight="bold")
    axes.text(0, 1.045, told, transform=axes.transAxes, color=QUIET)
    if kind.suggestion:
        _cut(axes, kind.suggestion)
    else:
        _refused(axes, kind)


def _rates(axes: Axes, curve: Curve) -> None:
    thresholds, far, limit, frr = (np.array(c) for c in (curve.thresholds, curve.far, curve.far_limit, curve.frr))
    axes.set_yscale("log")
    axes.fill_between(thresholds, np.maximum(far, LEAST), limit, color=STRANGERS, alpha=0.14, linewidth=0)
    axes.plot(thresholds, np.where(far > 0, far, np.nan), color=STRANGERS, lw=3, label="strangers taken for somebody")
    axes.plot(thresholds, limit, color=STRANGERS, lw=1.6, ls=(0, (5, 3)), label="what may be promised of them")
    if curve.unknown:
        unknown = np.array(curve.unknown)
        axes.plot(thresholds, np.where(unknown > 0, unknown, np.nan), color=QUIET, lw=2, ls=":", label="unknown tracks")
    axes.plot(thresholds, np.where(frr > 0, frr, np.nan), color=MISSED, lw=3, label="enrolled people missed")
    axes.set(xlim=(0, 1), ylim=(LEAST, 1.15), xlabel="threshold (cosine)")
    axes.yaxis.set_major_formatter(
        lambda share, _: f"{share:.4%}".rstrip("0%").rstrip(".") + " %" if share < 1 else "100 %"
    )
    axes.grid(visible=True, which="major", color="#e5e7eb", lw=1)
    axes.set_axisbelow(True)


def _cut(axes: Axes, said: Suggestion) -> None:
    """Where to cut, and what that does."""
    axes.axvline(said.threshold, color=css(INK), lw=2)
    axes.plot(
        [said.threshold] * 2, [said.promised_far, max(said.miss_rate, LEAST)], "o", color=css(INK), ms=8, zorder=5
    )
    words = f"at most {said.promised_far:.2%} of strangers\n{said.miss_rate:.1%} missed by one picture"
    left = said.threshold > 0.6
    place = {"x": said.threshold + (-0.015 if left else 0.015), "ha": "right" if left else "left", "va": "top"}
    axes.text(y=0.95, s=f"threshold {said.threshold:.3f}", fontsize=16, fontweight="bold", **place)
    axes.text(y=0.56, s=words, linespacing=1.4, **place)


def _refused(axes: Axes, kind: KindCalibration) -> None:
    words = "\n".join(fill(reason.sentence, 58) for reason in kind.refusals)
    box = {"facecolor": css(PAPER), "edgecolor": css(AGAINST), "linewidth": 2, "boxstyle": "round,pad=0.7"}
    axes.text(
        0.5, 0.55, f"No threshold is suggested\n\n{words}", transform=axes.transAxes, ha="center", va="center",
        linespacing=1.4, bbox=box, zorder=6,
    )  # fmt: skip
