"""Predicted losses with their intervals, beside the runs of the fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scalelab.fit.answers import Prediction, Predictions
from scalelab.plot.layout import level_handle, new_panels, only_kind
from scalelab.plot.levels import MOST_NAMED, level_bar
from scalelab.plot.style import GREY, Size, looks, styled
from scalelab.plot.ticks import log_axis
from scalelab.units import format_count


@styled
def plot_predictions(
    found: Predictions, kind: str | None = None, ax: Axes | None = None, size: Size | None = None
) -> Axes:
    """Draw predicted losses with 95 % intervals over N (or the first variable of the law), and the runs in grey.

    Args:
        found: Predictions of one fit.
        kind: ``predictions``, the only kind.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind.
    """
    only_kind(kind, "predictions")
    fit = found.fit
    panels = new_panels(1, ax, size, panel=(6.4, 4.2))
    axes, name = panels.axes[0], fit.law.variables[0]
    by_D = len({row.P for row in found}) == 1 and len({row.D for row in found}) > 1
    shown = looks({_level(row, by_D) for row in found})
    if name in fit.known:
        axes.plot(fit.data.values(name), fit.data.loss, "o", color=GREY, markersize=3, alpha=0.6, mew=0)
    intervals = False
    for level, look in shown.items():
        mine = sorted(
            ((_at(row, name), row.loss) for row in found if _level(row, by_D) == level), key=lambda pair: pair[0]
        )
        x, y = np.array([at for at, _ in mine]), np.array([loss.value for _, loss in mine])
        ends = np.array([[loss.low, loss.high] for _, loss in mine], dtype=float)
        if np.isfinite(ends).all():
            axes.errorbar(x, y, [y - ends[:, 0], ends[:, 1] - y], color=look.color, linestyle="", capsize=3)
            intervals = True
        axes.plot(x, y, linestyle=":" if len(mine) > 1 else "", **look.points(1.2))
    log_axis(axes.xaxis)
    axes.set_xlabel(fit.label(name))
    axes.set_ylabel(fit.loss_label)
    handles: list[Any] = []
    labels: list[str] = []
    if len(shown) > MOST_NAMED:
        level_bar(panels, shown, "D" if by_D else "P")
    else:
        handles = [level_handle(look, "none") for look in shown.values()]
        labels = [f"D = {format_count(level)}" if by_D else f"P = {level}" for level in shown]
    if intervals:
        handles.append(Line2D([], [], color=GREY, marker="|", markersize=8))
        labels.append("95 % interval")
    if name in fit.known:
        handles.append(Line2D([], [], color=GREY, marker="o", markersize=3, linestyle=""))
        labels.append("runs of the fit")
    panels.heading(f"{fit.group}: predictions\n{fit.equation()}")
    panels.legend(handles, labels)
    return axes


def _level(row: Prediction, by_D: bool) -> float:
    return (row.D or 0.0) if by_D else row.P


def _at(row: Prediction, name: str) -> float:
    """Return the value of a variable at a prediction."""
    value = getattr(row, name) if name in ("N", "P", "D") else row.others[name]
    return float(value)
