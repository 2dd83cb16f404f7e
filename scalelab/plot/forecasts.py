"""Scored forecasts: errors with intervals, over the distance from the runs of the fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scalelab.analysis.rollout import Rollout
from scalelab.analysis.scoring import Calibration, Scored
from scalelab.errors import UsageError
from scalelab.plot.layout import new_panels, only_kind
from scalelab.plot.style import BLUE, GREY, RED, Size, looks, styled
from scalelab.plot.ticks import log_axis, plain
from scalelab.units import format_number

_Y_LABEL = "forecast loss above the measured, %"
_WIDTH = 1.25  # factor between the first and last of several forecasts at the same distance


@styled
def plot_calibration(
    found: Calibration, kind: str | None = None, ax: Axes | None = None, size: Size | None = None
) -> Axes:
    """Draw the error of each forecast with its 95 % interval over the factor outside the runs.

    Args:
        found: Scored forecasts.
        kind: ``calibration``, the only kind.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind.
    """
    only_kind(kind, "calibration")
    panels = new_panels(1, ax, size, panel=(6.4, 4.0))
    axes = panels.axes[0]
    axes.axhline(0, color=GREY, linewidth=1)
    at = _spread([row.forecast.factor for row in found.rows])
    for held, color in ((True, BLUE), (False, RED)):
        rows = [(x, row) for x, row in zip(at, found.rows, strict=True) if row.held == held]
        _bars(axes, rows, color, "o" if held else "X")
    log_axis(axes.xaxis, plain)
    axes.set_xlabel("factor outside the range of the fitted runs")
    axes.set_ylabel(_Y_LABEL)
    total = found.bands[-1]
    panels.heading(f"{found.title}: {total.held:.0%} of {total.count} intervals of 95 % held")
    handles = [Line2D([], [], color=c, marker=m, linestyle="-") for c, m in ((BLUE, "o"), (RED, "X"))]
    panels.legend(handles, ["measured loss in the interval", "outside the interval"])
    return axes


@styled
def plot_rollout(found: Rollout, kind: str | None = None, ax: Axes | None = None, size: Size | None = None) -> Axes:
    """Draw the error of each forecast with its 95 % interval over the compute of its run, by budget of the fit.

    Args:
        found: A rollout.
        kind: ``rollout``, the only kind.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind.
    """
    only_kind(kind, "rollout")
    panels = new_panels(1, ax, size, panel=(6.4, 4.0))
    axes = panels.axes[0]
    axes.axhline(0, color=GREY, linewidth=1)
    steps = [step for step in found.steps if step.rows]
    if not steps:
        raise UsageError("no part of the runs could be fitted, so there is nothing to draw")
    shown = looks(range(len(steps)))
    at = iter(_spread([row.forecast.factor for step in steps for row in step.rows]))
    for number, step in enumerate(steps):
        _bars(axes, [(next(at), row) for row in step.rows], shown[number].color, shown[number].marker)
    log_axis(axes.xaxis, plain)
    axes.set_xlabel("factor outside the range of the fitted runs")
    axes.set_ylabel(_Y_LABEL)
    panels.heading(f"{found.group}: rollout of the {found.law} law, intervals of 95 %")
    handles = [Line2D([], [], linestyle="-", **look.points()) for look in shown.values()]
    labels = [f"{step.runs} runs up to {format_number(step.budget, 2)} {found.unit}" for step in steps]
    panels.legend(handles, labels)
    return axes


def _spread(factors: Sequence[float]) -> list[float]:
    """Return places on a logarithmic axis near `factors`, side by side where several are the same."""
    rounded = [round(float(np.log(factor)), 2) for factor in factors]
    places, seen = [], dict.fromkeys(rounded, 0)
    for factor, level in zip(factors, rounded, strict=True):
        count = rounded.count(level)
        places.append(factor * _WIDTH ** ((seen[level] + 0.5) / count - 0.5))
        seen[level] += 1
    return places


def _bars(axes: Axes, rows: Sequence[tuple[float, Scored]], color: str, marker: str) -> None:
    if not rows:
        return
    measured = np.array([row.measured for _, row in rows])
    middle, low, high = (
        100 * (np.array([getattr(row.forecast, name) for _, row in rows]) / measured - 1)
        for name in ("loss", "low", "high")
    )
    axes.errorbar(
        [x for x, _ in rows],
        middle,
        [middle - low, high - middle],
        color=color,
        marker=marker,
        markersize=4,
        linestyle="",
        capsize=2,
    )
