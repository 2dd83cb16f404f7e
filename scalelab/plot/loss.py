"""Loss over N with a curve for each P (Figure 2 of arXiv 2505.10475), and loss contours (Figure 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from scalelab.errors import UsageError
from scalelab.fit import FitResult
from scalelab.laws.base import Array
from scalelab.plot.style import colours, count_axis, new_axes, title
from scalelab.units import format_count

_MOST_CURVES = 8


def plot_loss(fit: FitResult, axes: Axes | None = None) -> Figure:
    """Draw measured losses over N, the fitted law and its 95 % bootstrap band, with a colour for each P or D.

    Curves extend a little beyond the measured N, where they are dashed. If both P and D vary, colours are P, with
    curves for up to four values of D.
    """
    if "N" not in fit.known or not {*fit.law.variables} <= {"N", "P", "D"}:
        return _plot_other(fit, axes)
    figure, axes = (axes.figure, axes) if axes is not None else new_axes()  # type: ignore[assignment]
    data = fit.data
    low, high = data.N.min(), data.N.max()
    grid = np.geomspace(low / 1.25, high * 1.6, 200)
    inside = (grid >= low * 0.999) & (grid <= high * 1.001)
    by_P = "D" not in fit.law.variables or "P" in fit.law.variables
    shown = np.unique(data.P if by_P else data.D)
    shade = colours(shown)
    tokens = _some(np.unique(data.D)) if "D" in fit.law.variables and by_P else [None]
    for value in shown:
        mine = (data.P if by_P else data.D) == value
        label = f"P = {value:g}" if by_P else f"D = {format_count(value)}"
        many = len(shown) > _MOST_CURVES
        axes.plot(data.N[mine], data.loss[mine], "o", color=shade[value], markersize=5, label=None if many else label)
        for D in tokens:
            at = (value if "P" in fit.law.variables else 1.0, D) if by_P else (1.0, value)
            curve = fit.losses(grid, *at)
            axes.plot(grid, curve, "--", color=shade[value], linewidth=0.9, alpha=0.7)
            axes.plot(grid[inside], curve[inside], "-", color=shade[value], linewidth=1.4)
            if fit.draws and not many:
                axes.fill_between(grid, *fit.band(grid, *at), color=shade[value], alpha=0.12, linewidth=0)
    for D in tokens:
        if D is not None:
            height = float(fit.losses(grid[-1], shown[0], D))
            axes.annotate(f" D {format_count(D)}", (grid[-1], height), fontsize=8, va="center", annotation_clip=False)
    count_axis(axes)
    axes.set_xlabel(fit.label("N"))
    axes.set_ylabel(fit.loss_label)
    title(axes, f"{fit.group}\n{fit.equation()}")
    if len(shown) <= _MOST_CURVES:
        axes.legend(frameon=False)
    return figure  # type: ignore[return-value]


def _plot_other(fit: FitResult, axes: Axes | None) -> Figure:
    """Draw a law of one variable over it, or, for several variables, predicted against measured losses."""
    name, *others = fit.law.variables
    if others:
        from scalelab.plot.checks import plot_predicted

        return plot_predicted(fit, axes)
    figure, axes = (axes.figure, axes) if axes is not None else new_axes()  # type: ignore[assignment]
    values = fit.data.values(name)
    grid = np.geomspace(values.min() / 1.25, values.max() * 1.6, 200)
    inside = (grid >= values.min() * 0.999) & (grid <= values.max() * 1.001)
    curve = fit.losses(**{name: grid})
    axes.plot(values, fit.data.loss, "o", markersize=5)
    axes.plot(grid, curve, "--", color="C0", linewidth=0.9, alpha=0.7)
    axes.plot(grid[inside], curve[inside], "-", color="C0", linewidth=1.4)
    if fit.draws:
        axes.fill_between(grid, *fit.band(**{name: grid}), color="C0", alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel(fit.label(name))
    axes.set_ylabel(fit.loss_label)
    title(axes, f"{fit.group}\n{fit.equation()}")
    return figure  # type: ignore[return-value]


def plot_contours(fit: FitResult, D: float | None = None, axes: Axes | None = None) -> Figure:
    """Draw contours of the predicted loss over N and P, with the runs; the box is the measured range.

    Args:
        fit: A fit of a law with N and P.
        D: Training tokens, for laws with D; by default the largest of the runs.
        axes: Axes to draw into.

    Raises:
        UsageError: The law has no N or no P.
    """
    if not {"N", "P"} <= set(fit.law.variables):
        raise UsageError(f"contours need a law with N and P, not {fit.law.name!r}")
    figure, axes = (axes.figure, axes) if axes is not None else new_axes()  # type: ignore[assignment]
    data = fit.data
    if "D" in fit.law.variables:
        D = D or float(data.D.max())
    N = np.geomspace(data.N.min() / 1.5, data.N.max() * 2.5, 120)
    P = np.geomspace(1, max(2.0, 2 * data.P.max()), 100)
    losses = fit.losses(N[None, :], P[:, None], D)
    shades: Any = {"cmap": "viridis_r", "norm": Normalize(float(losses.min()), float(losses.max()))}
    axes.contourf(N, P, losses, levels=14, alpha=0.3, **shades)
    lines = axes.contour(N, P, losses, levels=14, colors="black", linewidths=0.7)
    axes.clabel(lines, fmt="%.3g", fontsize=7)
    here = np.ones(len(data.N), bool) if D is None else data.D == D
    points = axes.scatter(data.N[here], data.P[here], c=data.loss[here], edgecolors="black", zorder=3, **shades)
    figure.colorbar(points, ax=axes, label=fit.loss_label)
    corners = [data.N.min(), data.N.max(), data.N.max(), data.N.min(), data.N.min()]
    axes.plot(
        corners, np.repeat([data.P.min(), data.P.max()], [2, 3])[[0, 1, 2, 3, 0]], ":", color="grey", linewidth=0.9
    )
    count_axis(axes)
    axes.set_yscale("log", base=2)
    levels = 2.0 ** np.arange(0, np.ceil(np.log2(P[-1])) + 1)
    axes.set_yticks(levels, [f"{level:g}" for level in levels])
    axes.set_ylim(1 / 1.1, P[-1] * 1.05)
    axes.set_xlabel(fit.label("N"))
    axes.set_ylabel(fit.label("P"))
    at = "" if D is None else f", D {format_count(D)}"
    title(axes, f"{fit.group}{at if 'D' in fit.law.variables else ''}\n{fit.equation()}")
    return figure  # type: ignore[return-value]


def _some(levels: Array) -> list[float]:
    """Return at most four of the levels, including both ends."""
    return levels[np.unique(np.linspace(0, len(levels) - 1, 4).round().astype(int))].tolist()
