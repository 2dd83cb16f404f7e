"""Loss over N with a curve for each P (Figure 2 of arXiv 2505.10475), of one fit or of several in panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scalelab.fit import FitResult
from scalelab.laws.base import Array
from scalelab.plot.layout import AxesLike, Panels, band_handle, dashed_handle, level_handle, new_panels
from scalelab.plot.levels import MOST_NAMED, level_bar
from scalelab.plot.style import BLUE, Look, Size, looks, styled
from scalelab.plot.ticks import log_axis
from scalelab.units import format_count


@styled
def plot_loss(fit: FitResult, ax: Axes | None = None, size: Size | None = None) -> Figure:
    """Draw measured losses over N, the fitted law and its 95 % bootstrap band, with a look for each P or D.

    Curves extend a little beyond the measured N, where they are dashed. If both P and D vary, looks are P, with
    curves for up to four values of D. A law of another variable is drawn over that; a law of several others as
    predicted against measured losses.

    Args:
        fit: The fit.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    if not _over_N(fit) and len(fit.law.variables) > 1:
        from scalelab.plot.checks import plot_predicted

        return plot_predicted(fit, ax, size)
    panels = new_panels(1, ax, size, panel=(6.4, 4.2))
    shown = _draw(fit, panels.axes[0])
    panels.heading(f"{fit.group}\n{fit.equation()}")
    _explain(panels, shown, *_marks([fit]))
    return panels.root


@styled
def plot_loss_panels(fits: Mapping[str, FitResult], ax: AxesLike | None = None, size: Size | None = None) -> Figure:
    """Draw loss over N of several groups, such as corpora, with a panel for each and the same look for each P.

    Args:
        fits: Fits by the name of their group.
        ax: Axes to draw into, one for each group, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    panels = new_panels(len(fits), ax, size, panel=(3.6, 3.0))
    levels = sorted({level for fit in fits.values() for level in _levels(fit)})
    shared, shown = looks(levels), {}
    for (name, fit), axes in zip(fits.items(), panels.axes, strict=True):
        shown |= _draw(fit, axes, shared)
        axes.set_title(name, parse_math=False)
    for axes in panels.axes[1:]:
        if axes.get_ylabel() == panels.axes[0].get_ylabel() and not axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel("")
    _explain(panels, dict(sorted(shown.items())), *_marks([*fits.values()]))
    return panels.root


def _over_N(fit: FitResult) -> bool:
    return "N" in fit.known and {*fit.law.variables} <= {"N", "P", "D"}


def _by_P(fit: FitResult) -> bool:
    """Return whether looks are P; else D."""
    return "D" not in fit.law.variables or "P" in fit.law.variables


def _levels(fit: FitResult) -> list[float]:
    """Return the levels of P or D that have a look."""
    return np.unique(fit.data.P if _by_P(fit) else fit.data.D).tolist() if _over_N(fit) else []


def _draw(fit: FitResult, axes: Axes, shared: Mapping[float, Look] | None = None) -> dict[float, Look]:
    """Draw one fit, and return the looks of its levels."""
    axes.set_ylabel(fit.loss_label)
    if not _over_N(fit):
        _draw_one_variable(fit, axes)
        return {}
    data = fit.data
    low, high = data.N.min(), data.N.max()
    grid = np.geomspace(low / 1.25, high * 1.6, 200)
    inside = (grid >= low * 0.999) & (grid <= high * 1.001)
    by_P, levels = _by_P(fit), _levels(fit)
    look = {level: (shared or looks(levels))[level] for level in levels}
    tokens = _some(np.unique(data.D)) if "D" in fit.law.variables and by_P else [None]
    for value in levels:
        mine, color = (data.P if by_P else data.D) == value, look[value].color
        axes.plot(data.N[mine], data.loss[mine], linestyle="", zorder=3, **look[value].points())
        for D in tokens:
            at = (value if "P" in fit.law.variables else 1.0, D) if by_P else (1.0, value)
            curve = fit.losses(grid, *at)
            axes.plot(grid, curve, "--", color=color, linewidth=0.9, alpha=0.7)
            axes.plot(grid[inside], curve[inside], "-", color=color)
            if fit.draws and len(levels) <= MOST_NAMED:
                axes.fill_between(grid, *fit.band(grid, *at), color=color, alpha=0.13, linewidth=0)
    for D in tokens:
        if D is not None:
            height = np.mean([float(fit.losses(grid[-1], value, D)) for value in levels])
            text = f"D = {format_count(D)}"
            axes.annotate(text, (grid[-1], height), (4, 0), textcoords="offset points", fontsize="small", va="center")
    log_axis(axes.xaxis)
    axes.set_xlabel(fit.label("N"))
    return look


def _draw_one_variable(fit: FitResult, axes: Axes) -> None:
    """Draw a law of one variable over it."""
    (name,) = fit.law.variables
    values = fit.data.values(name)
    grid = np.geomspace(values.min() / 1.25, values.max() * 1.6, 200)
    inside = (grid >= values.min() * 0.999) & (grid <= values.max() * 1.001)
    curve = fit.losses(**{name: grid})
    axes.plot(values, fit.data.loss, "o", color=BLUE, zorder=3)
    axes.plot(grid, curve, "--", color=BLUE, linewidth=0.9, alpha=0.7)
    axes.plot(grid[inside], curve[inside], "-", color=BLUE)
    if fit.draws:
        axes.fill_between(grid, *fit.band(**{name: grid}), color=BLUE, alpha=0.13, linewidth=0)
    log_axis(axes.xaxis)
    axes.set_xlabel(fit.label(name))


def _marks(fits: Sequence[FitResult]) -> tuple[bool, bool]:
    """Return whether looks are P, and whether there are bands."""
    bands = any(fit.draws and (not _over_N(fit) or len(_levels(fit)) <= MOST_NAMED) for fit in fits)
    return all(_by_P(fit) for fit in fits), bands


def _explain(panels: Panels, shown: Mapping[float, Look], by_P: bool, bands: bool) -> None:
    handles: list[Any] = []
    labels: list[str] = []
    if len(shown) > MOST_NAMED:
        level_bar(panels, shown, "P" if by_P else "D, training tokens")
    else:
        handles = [level_handle(look) for look in shown.values()]
        labels = [f"P = {level:g}" if by_P else f"D = {format_count(level)}" for level in shown]
    if not shown:
        handles.append(Line2D([], [], color=BLUE, marker="o"))
        labels.append("runs and law")
    if bands:
        handles.append(band_handle())
        labels.append("95 % interval")
    panels.legend([*handles, dashed_handle()], [*labels, "beyond the runs"])


def _some(levels: Array) -> list[float]:
    """Return at most four of the levels, including both ends."""
    return levels[np.unique(np.linspace(0, len(levels) - 1, 4).round().astype(int))].tolist()
