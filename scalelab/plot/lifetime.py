"""Figure of a lifetime plan: the best N and D and the cost over served tokens, with the region where streams win."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scalelab.errors import UsageError, choice_error
from scalelab.fit.result import LEVEL, tails
from scalelab.plan.lifetime import LifetimePlan
from scalelab.plan.lifetime_curve import LifetimeCurve, curve
from scalelab.plot.layout import AxesLike, band_handle, new_panels
from scalelab.plot.style import BLUE, GREY, Look, Size, looks, styled
from scalelab.plot.ticks import log_axis, plain
from scalelab.reports.lifetime import setting

Kind = Literal["lifetime"]
KINDS: tuple[Kind, ...] = ("lifetime",)
_POINTS = 49
_SPAN = 1e3  # factor of served tokens on each side of the plan's
_REGION = 0.1  # opacity
_MOST_RATIO = 3.0  # of costs, unless the second cheapest P is above it


def plot(plan: LifetimePlan, kind: Kind | None = None, ax: AxesLike | None = None, size: Size | None = None) -> Figure:
    """Draw the best N and D, and the cost relative to the best plain model, over served tokens.

    Args:
        plan: The plan.
        kind: ``lifetime``, the only kind.
        ax: Three axes to draw into, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind, or the plan has no options.
    """
    if kind is not None and kind not in KINDS:
        raise choice_error("kind", kind, KINDS)
    if not plan.options:
        raise UsageError("the plan has no options to draw: nothing is within the limits")
    served = plan.served * np.geomspace(1 / _SPAN, _SPAN, _POINTS)
    return plot_lifetime(plan, curve(plan, served), ax=ax, size=size)


@styled
def plot_lifetime(
    plan: LifetimePlan, found: LifetimeCurve, ax: AxesLike | None = None, size: Size | None = None
) -> Figure:
    """Draw a curve of optima: N, D, and the total cost of each P over that of the best plain model.

    A line is strong where its P is the cheapest; the shaded region is where that is a P > 1. With P = 1 alone, the cost
    is relative to that of the model with the lowest N·D.
    """
    panels = new_panels(3, ax, size, panel=(3.3, 3.1), extra=0.9)
    shown, best = looks(found.optima), found.best
    other, name_of_other = _reference(found)
    rows = {"best N": "N", "best D, tokens": "D", f"cost / {name_of_other}": ""}
    banded = False
    for axes, (label, name) in zip(panels.axes, rows.items(), strict=True):
        for P, optimum in found.optima.items():
            values = getattr(optimum, name)[0] if name else optimum.total[0] / other
            _line(axes, found.served, values, best == P, shown[P])
        if name and plan.winner is not None and plan.winner.P in found.drawn:
            drawn = getattr(found.drawn[plan.winner.P], name)
            ends = np.quantile(drawn, tails(LEVEL), axis=0, method="closest_observation")  # a draw may be infinite
            color = shown[plan.winner.P].color
            axes.fill_between(found.served, *ends, where=np.isfinite(ends).all(axis=0), color=color, alpha=0.13, lw=0)
            banded = True
        _shade(axes, found.served, best > 1)
        axes.axvline(plan.served, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
        log_axis(axes.xaxis)
        log_axis(axes.yaxis, *([] if name else [plain]))
        axes.set_xlabel("served tokens")
        axes.set_ylabel(label)
        axes.margins(x=0)
    _ratios(panels.axes[2], found.totals / other)
    handles: list[Any] = [Line2D([], [], color=look.color, linewidth=2.2) for look in shown.values()]
    labels = [f"P = {P}" for P in shown]
    if (best > 1).any():
        handles.append(Patch(facecolor=BLUE, alpha=_REGION * 2, linewidth=0))
        labels.append("P > 1 is cheapest")
    if banded and plan.winner is not None:
        handles.append(band_handle())
        labels.append(f"95 % interval, P = {plan.winner.P}")
    if found.streams_win is not None:
        inner = panels.axes[2].twinx()
        inner.plot(found.served, 100 * found.streams_win, color=GREY, linestyle="--", linewidth=1.4)
        inner.set_ylim(-2, 102)
        inner.margins(x=0)
        inner.set_ylabel("draws in which P > 1 wins, %")
        inner.grid(visible=False)
        handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1.4))
        labels.append("draws in which P > 1 wins")
    handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.2))
    labels.append("the plan")
    panels.heading(f"{setting(plan)}\n{plan.belief.title}")
    panels.legend(handles, labels)
    return panels.root


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, strong: np.ndarray, look: Look) -> None:
    axes.plot(x, y, color=look.color, linewidth=1.0, alpha=0.45, zorder=2)
    wide = strong | np.append(strong[1:], False)  # up to the point before the next P is the best
    axes.plot(x, np.where(wide, y, np.nan), color=look.color, linewidth=2.2, zorder=3)


def _shade(axes: Axes, served: np.ndarray, streams: np.ndarray) -> None:
    """Shade the ranges of served tokens in which a P > 1 is the cheapest."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], streams, [False]]).astype(int)))
    for first, last in ends.reshape(-1, 2):
        low, high = float(served[first]), float(served[min(last, len(served) - 1)])
        axes.axvspan(low, high, color=BLUE, alpha=_REGION, linewidth=0)


def _reference(found: LifetimeCurve) -> tuple[np.ndarray, str]:
    """Return the cost [s] that others are compared with, and its name."""
    if found.train_best is not None and len(found.optima) == 1:
        return found.train_best, "cost of the model with the lowest N·D"
    if 1 in found.optima:
        return found.optima[1].total[0], "cost of the best P = 1"
    return found.totals.min(axis=0), "lowest cost"


def _ratios(axes: Axes, ratios: np.ndarray) -> None:
    """Limit the axis of ratios [P, s] to where the cheapest two are."""
    finite = ratios[np.isfinite(ratios)]
    lowest = np.sort(np.where(np.isfinite(ratios), ratios, np.inf).min(axis=1))[:2]
    top = max(_MOST_RATIO, 1.2 * float(lowest[np.isfinite(lowest)].max()))
    axes.set_ylim(finite.min() / 1.05, min(finite.max() * 1.05, top))
