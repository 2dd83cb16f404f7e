"""Training loss over tokens: a panel for each N with a colour for each P, smoothed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scalelab.errors import UsageError
from scalelab.laws.base import Array
from scalelab.plot.layout import AxesLike, Panels, new_panels, only_kind
from scalelab.plot.levels import MOST_NAMED, level_bar
from scalelab.plot.style import RED, Look, Size, looks, ramp, styled
from scalelab.plot.ticks import log_axis, plain
from scalelab.status import RunStatus
from scalelab.units import format_count

_WINDOW = 0.1  # of the tokens so far: a point is the mean of the losses over so many tokens before it
_FROM = 0.1  # of all tokens: earlier losses would squeeze the range in which streams differ
_MOST_PANELS = 12


@styled
def plot_curves(
    records: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    ax: AxesLike | None = None,
    size: Size | None = None,
) -> Figure:
    """Draw smoothed loss curves: a panel for each N of the backbone, and a colour for each P.

    If all runs have the same P, there is one panel with a colour for each N. More than 12 sizes are thinned out. Lines
    of runs that are not ok end in a cross.

    Args:
        records: A row for each run.
        curves: Loss curves by key, with columns n_tokens and loss (nats per token, mean since the previous point).
        ax: Axes to draw into, as many as there are panels, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: No run has a curve.
    """
    runs = records[records["key"].isin([key for key, curve in curves.items() if len(_points(curve))])]
    if not len(runs):
        raise UsageError("no loss curves to draw: none of these runs has one")
    backbone = runs["n_params_backbone"].astype(float).fillna(runs["n_params"].astype(float))
    runs = runs.assign(size=backbone, P=runs["n_streams"].fillna(1).astype(int)).sort_values(["size", "n_tokens"])
    by_P = runs["P"].nunique() > 1
    sizes = np.unique(runs["size"]).tolist()
    shown = sizes
    if by_P and len(sizes) > _MOST_PANELS:
        shown = [sizes[i] for i in np.linspace(0, len(sizes) - 1, _MOST_PANELS).round().astype(int)]
    levels = looks(runs["P"].unique()) if by_P else {n: Look(color, "") for n, color in ramp(sizes).items()}
    panels = new_panels(len(shown) if by_P else 1, ax, size, panel=(2.9, 2.4) if by_P else (6.4, 4.2))
    for i, axes in enumerate(panels.axes):
        mine = runs[runs["size"] == shown[i]] if by_P else runs
        for run in mine.to_dict("records"):
            points = _smoothed(_points(curves[run["key"]]))
            color = levels[run["P"] if by_P else run["size"]].color
            axes.plot(*points.T, color=color, linewidth=1.0, alpha=0.85)
            if run["status"] != RunStatus.OK:
                axes.plot(*points[-1], "x", color=RED, markersize=7, mew=2, zorder=3)
        if by_P:
            axes.set_title(f"N = {format_count(shown[i])}")
    _limits(panels)
    _label(panels)
    of_all = f", {len(shown)} of {len(sizes)} sizes" if len(shown) < len(sizes) and by_P else ""
    _explain(panels, levels, by_P, bool((runs["status"] != RunStatus.OK).any()), of_all)
    return panels.root


@styled
def plot_stage(found: Any, kind: str | None = None, ax: Axes | None = None, size: Size | None = None) -> Axes:
    """Draw the training loss of second-stage training over tokens."""
    only_kind(kind, "curve")
    panels = new_panels(1, ax, size, panel=(6.4, 4.2))
    axes, curve = panels.axes[0], _points(found.to_frame())
    axes.plot(*curve.T, color="black", linewidth=0.8, alpha=0.3)
    axes.plot(*_smoothed(curve).T, color="black")
    axes.set_xlabel("training tokens")
    axes.xaxis.set_major_formatter(lambda value, _: format_count(value) if value else "0")
    axes.set_ylabel("training loss of DPO" if found.objective == "preference" else "training loss, nats per token")
    panels.heading(f"{found.out.name}, P = {found.P}: validation {found.before.loss:.4f} to {found.after.loss:.4f}")
    signs = [Line2D([], [], color="black", linewidth=0.8, alpha=0.3), Line2D([], [], color="black")]
    panels.legend(signs, ["each point", f"mean over the last {100 * _WINDOW:g} % of tokens"])
    return axes


def _points(curve: pd.DataFrame) -> Array:
    """Return the positive, finite points of a curve, [n, 2]."""
    points = curve[["n_tokens", "loss"]].to_numpy(dtype=float)
    return points[np.isfinite(points).all(axis=1) & (points > 0).all(axis=1)]


def _smoothed(points: Array) -> Array:
    """Return the curve with each loss replaced by the mean over the tokens before it, [n, 2].

    The window is a share of the tokens so far, short at first, where the loss falls quickly. A loss
    counts for the tokens since the point before it.
    """
    order = np.argsort(points[:, 0], kind="stable")
    tokens, loss = points[order].T
    spent = np.diff(tokens, prepend=0.0)
    total = np.concatenate([[0.0], np.cumsum(spent * loss)])
    first = np.minimum(np.searchsorted(tokens, tokens * (1 - _WINDOW), side="right"), np.arange(len(tokens)))
    ends = np.arange(1, len(tokens) + 1)
    weight = np.concatenate([[0.0], np.cumsum(spent)])
    span = weight[ends] - weight[first]
    mean = np.where(span > 0, (total[ends] - total[first]) / np.where(span > 0, span, 1.0), loss)
    return np.column_stack([tokens, mean])


def _limits(panels: Panels) -> None:
    """Give all panels the same axes, from the tokens at which losses are near enough to compare."""
    lines = [np.asarray(line.get_xydata()) for axes in panels.axes for line in axes.lines if len(line.get_xdata()) > 1]  # type: ignore[arg-type]
    points = np.concatenate(lines or [np.asarray(axes.lines[0].get_xydata()) for axes in panels.axes])
    least, most = points[:, 0].min(), points[:, 0].max()
    start = max(least, _FROM * most)
    seen = points[points[:, 0] >= start, 1]
    for axes in panels.axes:
        log_axis(axes.xaxis)
        log_axis(axes.yaxis, plain)
        axes.set_xlim(start / 1.02, most * 1.05)
        axes.set_ylim(seen.min() / 1.01, seen.max() * 1.01)


def _label(panels: Panels) -> None:
    texts = "training tokens", f"training loss, nats per token,\nmean over the last {100 * _WINDOW:g} % of tokens"
    if len(panels.axes) == 1 or not panels.owns_figure:
        for axes in panels.axes:
            axes.set(xlabel=texts[0], ylabel=texts[1])
        return
    panels.figure.supylabel(texts[1], fontsize="medium")
    last = max(panels.axes, key=lambda axes: axes.get_subplotspec().rowspan.start)  # type: ignore[union-attr]
    width = last.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    for axes in panels.axes[-width:]:
        axes.set_xlabel(texts[0])


def _explain(panels: Panels, levels: Mapping[Any, Look], by_P: bool, crosses: bool, of_all: str) -> None:
    handles: list[Any] = []
    labels: list[str] = []
    if len(levels) > MOST_NAMED:
        level_bar(panels, levels, "P" if by_P else "N of the backbone")
    else:
        handles = [Line2D([], [], color=look.color) for look in levels.values()]
        labels = [f"P = {level}" if by_P else f"N = {format_count(level)}" for level in levels]
    if crosses:
        handles.append(Line2D([], [], color=RED, marker="x", linestyle="", mew=2))
        labels.append("not ok")
    panels.legend(handles, labels)
    panels.heading(f"loss curves{of_all}" if of_all else "")
