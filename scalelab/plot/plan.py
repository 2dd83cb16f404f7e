"""Figures of a plan: loss over memory and latency with the limits, and the limits over N and P."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scalelab.errors import UsageError, choice_error
from scalelab.plan.answer import Plan
from scalelab.plan.frontier import Curve, frontier
from scalelab.plan.search import CostCurve
from scalelab.plot.contours import draw_contours
from scalelab.plot.layout import AxesLike, band_handle, new_panels
from scalelab.plot.style import BLUE, GREY, RED, Look, Size, looks, styled
from scalelab.plot.ticks import log_axis, plain
from scalelab.reports.plan_units import metric, setting

Kind = Literal["frontier", "contours"]
KINDS: tuple[Kind, ...] = ("frontier", "contours")

# Colour and line of each limit.
_LIMITS = {
    "memory": (RED, "--"),
    "latency": (BLUE, "-."),
    "ttft": ("#CC79A7", "-."),
    "tpot": ("#009E73", "-."),
    "training": ("#000000", (0, (1, 1))),
}


def plot(plan: Plan, kind: Kind | None = None, ax: AxesLike | None = None, size: Size | None = None) -> Figure | Axes:
    """Draw a plan: ``frontier``, loss over memory and latency with the limits, or ``contours`` of loss over N and P.

    Args:
        plan: The plan.
        kind: Kind of figure; by default ``frontier``.
        ax: Axes to draw into: two for the frontier, one for contours.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind, or the plan has no options.
    """
    if kind is not None and kind not in KINDS:
        raise choice_error("kind", kind, KINDS)
    if not plan.options:
        raise UsageError("the plan has no options to draw: nothing is within the limits")
    if kind == "contours":
        if ax is not None and not isinstance(ax, Axes):
            raise UsageError("this figure has one panel: give one axes", argument="ax")
        return plot_plan_contours(plan, ax=ax, size=size)
    return plot_plan(plan, frontier(plan), setting(plan), plan.binary, ax=ax, size=size)


@styled
def plot_plan(
    plan: Plan,
    curves: Sequence[Curve],
    heading: str = "",
    binary: bool = True,
    ax: AxesLike | None = None,
    size: Size | None = None,
) -> Figure:
    """Draw loss over memory (GiB, or GB unless `binary`) and over latency (ms).

    Curves are strong within all limits, faint beyond one, and dotted for a P larger than that of all runs. A marker is
    the best of a P, the star the best of all, whose curve has its 95 % interval as a band.

    Args:
        plan: The plan.
        curves: Loss and costs of each P.
        heading: Title of the figure.
        binary: Show memory in GiB.
        ax: Axes to draw into, two, or one that is replaced by both panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    panels = new_panels(2, ax, size, panel=(4.6, 3.6), extra=0.9)
    shown = looks(c.P for c in curves)
    units = {"memory": (2.0**30 if binary else 1e9), "latency": 1e-3}
    for axes, name in zip(panels.axes, units, strict=True):
        _draw_panel(axes, plan, curves, shown, name, units[name])
        axes.set_ylabel("loss by the law, nats per token")
    panels.axes[0].set_xlabel(f"memory, {'GiB' if binary else 'GB'}")
    panels.axes[1].set_xlabel("latency, ms")
    if panels.owns_figure and not _stacked(panels.axes):
        panels.axes[1].sharey(panels.axes[0])
        panels.axes[1].tick_params(labelleft=False)
        panels.axes[1].set_ylabel("")
    most = max(plan.problem.fit.P_levels)
    handles: list[Any] = [
        Line2D([], [], linewidth=2, linestyle=_line(P, most), **look.points()) for P, look in shown.items()
    ]
    labels = [f"P = {P}" if most >= P else f"P = {P}, no runs" for P in shown]
    if plan.winner is not None:
        handles.append(Line2D([], [], color=shown[plan.winner.P].color, linestyle="none", **_star()))
        labels.append("best")
        if plan.winner.loss.low is not None:
            handles.append(band_handle())
            labels.append("95 % interval of the best P")
    handles += [Line2D([], [], color=GREY, linestyle="--"), Line2D([], [], color=GREY, linewidth=1.0, alpha=0.6)]
    labels += ["limit", "beyond a limit"]
    if plan.target is not None:
        handles.append(Line2D([], [], color=GREY, linestyle=":"))
        labels.append("target loss")
    panels.legend(handles, labels)
    panels.heading(heading)
    return panels.root


def _star() -> dict[str, Any]:
    """Return the look of the best option."""
    return {"marker": "*", "markersize": 2.8 * rcParams["lines.markersize"], "markeredgewidth": 0.8}


def _stacked(both: Sequence[Axes]) -> bool:
    places = [axes.get_subplotspec() for axes in both]
    return any(place is None or place.rowspan.start > 0 for place in places)


def _line(P: int, most: int) -> Any:
    """Return the line style: dotted for a P larger than that of all runs."""
    return "-" if most >= P else ":"


def _draw_panel(
    axes: Axes, plan: Plan, curves: Sequence[Curve], shown: Mapping[int, Look], name: str, unit: float
) -> None:
    for curve in curves:
        x, color = getattr(curve, name) / unit, shown[curve.P].color
        look: dict[str, Any] = {"color": color, "linestyle": _line(curve.P, max(plan.problem.fit.P_levels))}
        axes.plot(x, curve.loss, **look, linewidth=1.0, alpha=0.4, zorder=2)
        axes.plot(x, np.where(curve.within, curve.loss, np.nan), **look, linewidth=1.8, zorder=3)
        if plan.winner is not None and curve.P == plan.winner.P and np.isfinite(curve.high - curve.low).all():
            axes.fill_between(x, curve.low, curve.high, color=color, alpha=0.13, linewidth=0, zorder=1)
    log_axis(axes.xaxis, plain)
    for option in plan.options:
        won = plan.winner is not None and option.P == plan.winner.P
        look = shown[option.P].points(1.2) | (_star() if won else {})
        axes.plot(option.costs[name].value / unit, option.loss.value, **look, zorder=6 if won else 4)
    low, high = axes.get_xlim()
    bound = plan.problem.bounds.get(name)
    if bound is not None and bound / unit < 3 * high:  # a distant limit would squeeze the curves
        axes.axvline(bound / unit, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        axes.axvspan(bound / unit, max(high, 1.1 * bound / unit), color=GREY, alpha=0.08, linewidth=0, zorder=0)
        high = max(high, 1.1 * bound / unit)
    axes.set_xlim(low, high)
    if plan.target is not None:
        axes.axhline(plan.target, color=GREY, linestyle=":", linewidth=1.2, zorder=1)


@styled
def plot_plan_contours(plan: Plan, ax: Axes | None = None, size: Size | None = None) -> Figure:
    """Draw contours of loss over N and P with a line for each limit: what is left of all lines is within them.

    Args:
        plan: A plan with options, of a law with N and P.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: The law has no P, or the plan only one.
    """
    problem, fit = plan.problem, plan.problem.fit
    levels = np.array(sorted(option.P for option in plan.options), dtype=float)
    if "P" not in fit.law.variables or len(levels) < 2:
        raise UsageError("contours need a law with N and P, and a plan with several `P`")
    D = problem.D if "D" in fit.law.variables else None
    sizes = np.array([option.N.value for option in plan.options])
    low, high = min(sizes.min(), fit.data.N.min()) / 1.6, max(sizes.max(), fit.data.N.max()) * 1.8
    panels = new_panels(1, ax, size, panel=(6.4, 4.4))
    axes = panels.axes[0]
    draw_contours(panels, fit, np.geomspace(low, high, 120), np.geomspace(levels[0], levels[-1], 80), D)
    handles, labels = [Line2D([], [], color="black", linewidth=0.6)], ["equal loss by the law"]
    curves = [CostCurve(problem, int(P), np.array([low, high])) for P in levels]
    for name, bound in problem.bounds.items():
        N = np.array([float(curve.largest({name: np.array([bound])})[0]) for curve in curves])
        if N.max() < low or N.min() >= 0.999 * high:
            continue  # nowhere in the figure
        color, line = _LIMITS[name]
        axes.plot(N, levels, color=color, linestyle=line, linewidth=2.0)
        axes.fill_betweenx(levels, N, high, color=color, alpha=0.12, linewidth=0)
        handles.append(Line2D([], [], color=color, linestyle=line, linewidth=2.0))
        labels.append(f"{name} {metric(plan, name, bound)}")
    for option in plan.options:
        won = plan.winner is not None and option.P == plan.winner.P
        look: dict[str, Any] = {"color": "black", "marker": "o", "markeredgecolor": "white"} | (_star() if won else {})
        axes.plot(option.N.value, option.P, **look, zorder=5, clip_on=False)
    axes.set_xlim(low, high)
    handles.append(Line2D([], [], color="black", marker="o", linestyle="none", markeredgecolor="white"))
    labels.append("best N of a P")
    if plan.winner is not None:
        handles.append(Line2D([], [], color="black", linestyle="none", **_star()))
        labels.append("best")
    panels.heading(setting(plan))
    panels.legend(handles, labels)
    return panels.root
