"""Training loss over tokens: a line for each run, a panel for each P."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scalelab.errors import UsageError
from scalelab.plot.style import count_axis, grid_of_axes, new_axes, title
from scalelab.status import RunStatus
from scalelab.units import format_count

_MOST_NAMED = 8  # sizes in a legend; more get a colour bar


def plot_curves(records: pd.DataFrame, curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw loss curves on logarithmic axes, with a panel for each P and a colour for each N of the backbone.

    Lines of runs that are not ok end in a cross.

    Args:
        records: A row for each run.
        curves: Loss curves by key, with columns n_tokens and loss (nats per token, mean since the previous point).

    Raises:
        UsageError: No run has a curve.
    """
    runs = records[records["key"].isin([key for key, curve in curves.items() if len(_points(curve))])]
    if not len(runs):
        raise UsageError("no loss curves to draw: none of these runs has one")
    backbone = runs["n_params_backbone"].astype(float).fillna(runs["n_params"].astype(float))
    runs = runs.assign(size=backbone, P=runs["n_streams"].fillna(1).astype(int)).sort_values(["size", "n_tokens"])
    shade = _shades(np.unique(runs["size"]))
    levels = sorted(runs["P"].unique())
    figure, all_axes = grid_of_axes(len(levels))
    if len(levels) == 1:
        figure.set_size_inches(6.4, 4.4)
    for P, axes in zip(levels, all_axes, strict=True):
        mine = runs[runs["P"] == P]
        for run in mine.to_dict("records"):
            points, colour = _points(curves[run["key"]]), shade[run["size"]]
            axes.plot(*points.T, color=colour, linewidth=1.0, alpha=0.9)
            if run["status"] != RunStatus.OK:
                axes.plot(*points[-1], "x", color="#D55E00", markersize=7, markeredgewidth=2, zorder=3)
        axes.set_title(f"P = {P}", fontsize=9)
    _same_limits(all_axes)
    for axes in all_axes:
        _loss_axis(axes)
        count_axis(axes)
        if len(levels) > 1:  # less room for labels
            low, high = axes.get_xlim()
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 300 else (1.0,), numticks=5))
            axes.tick_params(labelsize=8)
    figure.supxlabel("training tokens", fontsize=10)
    figure.supylabel("training loss, nats per token", fontsize=10)
    _explain(figure, all_axes, shade, bool((runs["status"] != RunStatus.OK).any()))
    return figure


def plot_stage(found: Any, kind: str | None = None) -> Axes:
    """Draw the training loss of second-stage training over tokens."""
    _, axes = new_axes()
    curve = found.to_frame()
    axes.plot(curve["n_tokens"], curve["loss"], color="black", linewidth=1.2)
    axes.set_xlabel("training tokens")
    axes.set_ylabel("training loss, nats per token")
    title(axes, f"{found.out.name}, P = {found.P}: validation {found.before.loss:.4f} to {found.after.loss:.4f}")
    return axes


def _points(curve: pd.DataFrame) -> np.ndarray:
    """Return the positive, finite points of a curve, [n, 2]."""
    points = curve[["n_tokens", "loss"]].to_numpy(dtype=float)
    return points[np.isfinite(points).all(axis=1) & (points > 0).all(axis=1)]


def _shades(sizes: np.ndarray) -> dict[float, str]:
    """Return a colour for each size, from light to dark: by rank if there are few, else by ln N."""
    ranks = np.linspace(0, 1, len(sizes)) if len(sizes) > 1 else np.ones(1)
    if len(sizes) > _MOST_NAMED:
        ranks = np.log(sizes / sizes[0]) / np.log(sizes[-1] / sizes[0])
    return {
        float(size): to_hex(colormaps["viridis_r"](0.1 + 0.85 * rank)) for size, rank in zip(sizes, ranks, strict=True)
    }


def _same_limits(all_axes: list[Axes]) -> None:
    """Set the same limits on all panels."""
    lines = [np.asarray(line.get_xydata()) for axes in all_axes for line in axes.lines]
    points = np.concatenate(lines)
    (x_low, low), (x_high, high) = points.min(axis=0), points.max(axis=0)
    for axes in all_axes:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(x_low / 1.1, x_high * 1.1)
        axes.set_ylim(low / 1.03, high * 1.03)


def _loss_axis(axes: Axes) -> None:
    low, high = axes.get_ylim()
    subs = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0) if high / low < 10 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _explain(figure: Figure, all_axes: list[Axes], shade: Mapping[float, str], crosses: bool) -> None:
    handles = []
    if len(shade) <= _MOST_NAMED:
        handles = [Line2D([], [], color=colour, label=format_count(size)) for size, colour in shade.items()]
    else:
        sizes = list(shade)
        # The bar shows the whole colour map, and runs use its part from 0.1 to 0.95.
        norm = LogNorm(
            sizes[0] * (sizes[0] / sizes[-1]) ** (0.1 / 0.85), sizes[-1] * (sizes[-1] / sizes[0]) ** (0.05 / 0.85)
        )
        bar = figure.colorbar(
            ScalarMappable(norm, "viridis_r"), ax=all_axes, label="N of backbone", aspect=40, shrink=0.8
        )
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    if crosses:
        handles.append(Line2D([], [], color="#D55E00", marker="x", linestyle="", markeredgewidth=2, label="not ok"))
    if handles:
        heading = "N of backbone" if len(shade) <= _MOST_NAMED else None
        figure.legend(
            handles=handles, title=heading, frameon=False, fontsize=8, title_fontsize=8, loc="outside right center"
        )
