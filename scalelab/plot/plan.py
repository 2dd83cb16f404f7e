"""Figure of a plan: loss over memory and latency with the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scalelab.errors import UsageError
from scalelab.plan.answer import Plan
from scalelab.plan.frontier import Curve, frontier
from scalelab.plot import style
from scalelab.plot.style import ShownFigure, colours, legend_below, tidy
from scalelab.reports.plan_units import setting

_LIMIT = "#777777"


def plot(plan: Plan, kind: str | None = None) -> Figure:
    """Draw loss over memory and latency with the limits and a curve for each P.

    Raises:
        UsageError: The plan has no options.
    """
    if not plan.options:
        raise UsageError("the plan has no options to draw: nothing is within the limits")
    return plot_plan(plan, frontier(plan), setting(plan), plan.binary)


def plot_plan(plan: Plan, curves: Sequence[Curve], heading: str = "", binary: bool = True) -> Figure:
    """Draw loss over memory (GiB, or GB unless `binary`) and over latency (ms).

    Curves are strong within all limits, faint beyond one, and dotted for a P larger than that of all runs. A dot is the
    best of a P, the star the best of all, whose curve has its 95 % interval as a band.
    """
    figure = ShownFigure(figsize=(9.2, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    shades = colours(c.P for c in curves)
    units = {"memory": (2.0**30 if binary else 1e9), "latency": 1e-3}
    for axes, metric in zip(panels, units, strict=True):
        tidy(axes)
        _draw_panel(axes, plan, curves, shades, metric, units[metric])
    panels[0].set_xlabel(f"memory, {'GiB' if binary else 'GB'}")
    panels[1].set_xlabel("latency, ms")
    panels[0].set_ylabel("loss by the law, nats per token")
    most = max(plan.problem.fit.P_levels)
    handles = [
        Line2D([], [], color=shade, linewidth=2, linestyle=_style(P, most), marker="o", markersize=4)
        for P, shade in shades.items()
    ]
    labels = [f"P = {P}" if most >= P else f"P = {P}, no runs" for P in shades]
    if plan.winner is not None:
        handles.append(Line2D([], [], color="black", marker="*", markersize=11, linestyle="none"))
        labels.append("best")
    handles += [Line2D([], [], color=_LIMIT, linestyle="--"), Line2D([], [], color=_LIMIT, linewidth=1.0, alpha=0.6)]
    labels += ["limit", "beyond a limit"]
    if plan.target is not None:
        handles.append(Line2D([], [], color=_LIMIT, linestyle=":"))
        labels.append("target loss")
    legend_below(figure, handles, labels, 7)
    style.heading(figure, heading, 9)
    return figure


def _style(P: int, most: int) -> Any:
    """Return the line style: dotted for a P larger than that of all runs."""
    return "-" if most >= P else ":"


def _draw_panel(
    axes: Axes, plan: Plan, curves: Sequence[Curve], shades: Mapping[int, str], metric: str, unit: float
) -> None:
    axes.set_xscale("log")
    for curve in curves:
        x, shade = getattr(curve, metric) / unit, shades[curve.P]
        look: dict[str, Any] = {"color": shade, "linestyle": _style(curve.P, max(plan.problem.fit.P_levels))}
        axes.plot(x, curve.loss, **look, linewidth=1.0, alpha=0.4, zorder=2)
        axes.plot(x, np.where(curve.within, curve.loss, np.nan), **look, linewidth=2.0, zorder=3)
        if plan.winner is not None and curve.P == plan.winner.P and np.isfinite(curve.high - curve.low).all():
            axes.fill_between(x, curve.low, curve.high, color=shade, alpha=0.1, linewidth=0, zorder=1)
    for option in plan.options:
        won = plan.winner is not None and option.P == plan.winner.P
        at = option.costs[metric].value / unit, option.loss.value
        axes.plot(
            *at,
            "*" if won else "o",
            color=shades[option.P],
            markersize=15 if won else 5,
            markeredgecolor="white",
            markeredgewidth=0.8,
            zorder=6 if won else 4,
        )
    low, high = axes.get_xlim()
    bound = plan.problem.bounds.get(metric)
    if bound is not None and bound / unit < 3 * high:  # a distant limit would squeeze the curves
        axes.axvline(bound / unit, color=_LIMIT, linestyle="--", linewidth=1.2, zorder=1)
        axes.axvspan(bound / unit, max(high, 1.1 * bound / unit), color=_LIMIT, alpha=0.08, linewidth=0, zorder=0)
        high = max(high, 1.1 * bound / unit)
    axes.set_xlim(low, high)
    if plan.target is not None:
        axes.axhline(plan.target, color=_LIMIT, linestyle=":", linewidth=1.2, zorder=1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
