"""Contours of predicted loss over N and P (Figure 3 of arXiv 2505.10475)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from scalelab.errors import UsageError
from scalelab.fit import FitResult
from scalelab.laws.base import Array
from scalelab.plot.layout import Panels, new_panels
from scalelab.plot.style import Size, pale_map, styled
from scalelab.plot.ticks import log_axis
from scalelab.units import format_count

_LEVELS = 12


@styled
def plot_contours(fit: FitResult, D: float | None = None, ax: Axes | None = None, size: Size | None = None) -> Figure:
    """Draw contours of the predicted loss over N and P, with the runs; the box is the measured range.

    Args:
        fit: A fit of a law with N and P.
        D: Training tokens, for laws with D; by default the largest of the runs.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: The law has no N or no P.
    """
    if not {"N", "P"} <= set(fit.law.variables):
        raise UsageError(f"contours need a law with N and P, not {fit.law.name!r}")
    panels = new_panels(1, ax, size, panel=(6.4, 4.2))
    axes, data = panels.axes[0], fit.data
    if "D" in fit.law.variables:
        D = D or float(data.D.max())
    N = np.geomspace(data.N.min() / 1.5, data.N.max() * 2.5, 120)
    P = np.geomspace(1, max(2.0, 2 * data.P.max()), 100)
    shades = draw_contours(panels, fit, N, P, D)
    here = np.ones(len(data.N), bool) if D is None else data.D == D
    axes.scatter(data.N[here], data.P[here], c=data.loss[here], edgecolors="black", linewidths=0.8, zorder=3, **shades)
    low, high, least, most = data.N.min(), data.N.max(), data.P.min(), data.P.max()
    corners = [low, high, high, low, low], [least, least, most, most, least]
    axes.plot(*corners, ":", color="black", linewidth=0.9)
    panels.heading(f"{fit.group}{tokens_text(fit, D)}\n{fit.equation()}")
    run = Line2D([], [], linestyle="", marker="o", markerfacecolor="white", markeredgecolor="black")
    box = Line2D([], [], color="black", linestyle=":", linewidth=0.9)
    line = Line2D([], [], color="black", linewidth=0.6)
    panels.legend([line, run, box], ["equal loss by the law", "runs, filled by measured loss", "range of the runs"])
    return panels.root


def draw_contours(panels: Panels, fit: FitResult, N: Array, P: Array, D: float | None) -> dict[str, Any]:
    """Fill the panel with the loss of the law, add lines of equal loss, axes and the colour bar.

    Returns:
        Options that give a scatter plot the colours of the bar.
    """
    axes = panels.axes[0]
    losses = fit.losses(N[None, :], P[:, None], D)
    filled = axes.contourf(N, P, losses, levels=_LEVELS, cmap=pale_map())
    lines = axes.contour(N, P, losses, levels=filled.levels, colors="black", linewidths=0.6)
    _label_lines(axes, lines, N, P, losses)
    bar = panels.figure.colorbar(filled, ax=axes, label=fit.loss_label, format=_short, aspect=30)
    bar.ax.minorticks_off()
    axes.grid(False)
    log_axis(axes.xaxis)
    axes.set_yscale("log", base=2)
    levels = 2.0 ** np.arange(0, np.floor(np.log2(P[-1]) + 1e-9) + 1)
    axes.set_yticks(levels, [f"{level:g}" for level in levels])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(N[0], N[-1])
    axes.set_ylim(P[0] / 1.12, P[-1] * 1.12)  # room for the markers of the smallest and largest P
    axes.set_xlabel(fit.label("N"))
    axes.set_ylabel(fit.label("P"))
    return {"cmap": filled.cmap, "norm": filled.norm}


def _label_lines(axes: Axes, lines: Any, N: Array, P: Array, losses: Array) -> None:
    """Label each line where it crosses a P between powers of two, so that no label covers a run."""
    between = 2.0 ** (np.round(np.log2(P[0] * P[-1]) / 2 + 0.5) - 0.5)
    row = losses[int(np.argmin(abs(np.log(P / between))))]
    order = np.argsort(row)
    inside = (lines.levels > row.min()) & (lines.levels < row.max())
    places = np.exp(np.interp(lines.levels[inside], row[order], np.log(N[order])))
    axes.set_xscale("log")
    axes.set_yscale("log")
    spots = [(float(n), between) for n in places if N[0] * 1.1 < n < N[-1] / 1.1]
    if spots:
        axes.clabel(lines, fmt=_short, fontsize="x-small", inline_spacing=2, manual=spots)  # type: ignore[arg-type]


def tokens_text(fit: FitResult, D: float | None) -> str:
    """Return D as part of a heading, for laws with D."""
    return f", D {format_count(D)}" if D is not None and "D" in fit.law.variables else ""


def _short(value: float, _: Any = None) -> str:
    return f"{value:.4g}"
