"""Designs: the chosen runs among the known ones, and the doubt that each leaves."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scalelab.designs.result import Design
from scalelab.plot.layout import AxesLike, level_handle, new_panels, only_kind
from scalelab.plot.style import BLUE, GREY, RED, Size, looks, styled
from scalelab.plot.ticks import log_axis

_NAMES = {
    "N": "N",
    "P": "P",
    "D": "D, tokens",
    "C": "training FLOPs",
    "U": "unique tokens",
    "X": "experts",
    "R": "loops",
}


@styled
def plot_design(
    found: Design, kind: str | None = None, ax: AxesLike | None = None, size: Size | None = None
) -> Axes | Figure:
    """Draw the chosen runs, numbered in order, and the width of the first target's interval after each.

    Args:
        found: A design.
        kind: ``design``, the only kind.
        ax: Axes to draw into, one for each panel, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind.
    """
    only_kind(kind, "design")
    panels = new_panels(2 if found.left else 1, ax, size, panel=(4.8, 3.6))
    handles = _runs(panels.axes[0], found)
    if found.left:
        _left(panels.axes[1], found)
    panels.heading(f"{found.group}: {len(found.prices)} runs for {found.budget.text(found.price)}")
    panels.legend(*handles)
    return panels.root


def _runs(axes: Axes, found: Design) -> tuple[list[Line2D], list[str]]:
    names = found.variables
    across = "N" if "N" in names else names[0]
    up = next(
        (v for v in ("D", "P", "U", "X", "R") if v in names and v != across and np.ptp(found.points.value(v)) > 0), None
    )
    x = found.points.value(across)
    y = found.points.value(up) if up else np.array(found.prices)
    streams = found.points.P if "P" in names else np.ones(len(x))
    levels = looks(sorted({int(p) for p in streams}))
    if found.seen is not None and up:
        axes.plot(found.seen.value(across), found.seen.value(up), "o", color=GREY, markersize=4, alpha=0.4, mew=0)
    for P, look in levels.items():
        mine = streams == P
        axes.plot(x[mine], y[mine], linestyle="", **look.points(0.9))
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        axes.annotate(str(i + 1), (a, b), textcoords="offset points", xytext=(4, 4), fontsize=7, color=GREY)
    log_axis(axes.xaxis)
    log_axis(axes.yaxis)
    axes.set(xlabel=_NAMES[across], ylabel=_NAMES[up] if up else f"price, {found.budget.unit}")
    if up == "P":
        shown = sorted({*levels, *(() if found.seen is None else found.seen.P.astype(int).tolist())})
        axes.set_yticks(shown, [str(P) for P in shown])
        axes.minorticks_off()
    handles = [level_handle(look, "none") for look in levels.values()]
    labels = [f"P = {P}" for P in levels]
    if found.seen is not None and up:
        handles.append(Line2D([], [], color=GREY, marker="o", markersize=4, linestyle="", alpha=0.4))
        labels.append("known runs")
    return handles, labels


def _left(axes: Axes, found: Design) -> None:
    spent = np.concatenate([[0.0], np.cumsum(found.prices)])
    width = 100 * np.sqrt(np.concatenate([[1.0], found.left]))
    axes.step(spent, width, where="post", color=BLUE)
    axes.plot(spent[1:], width[1:], "o", color=RED, markersize=3.5)
    axes.set(xlabel=f"spent, {found.budget.unit}", ylabel="doubt of the target left, %", ylim=(0, 105))
