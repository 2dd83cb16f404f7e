"""Paired differences over the levels of a setting: each pair, the means and their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from scalelab.analysis.pair_settings import level_text
from scalelab.analysis.pairs import Pairs
from scalelab.plot.layout import AxesLike, new_panels, only_kind
from scalelab.plot.style import GREY, Look, Size, looks, styled

_ROOM = 0.6  # of the distance of two levels, for the groups beside each other


@styled
def plot_pairs(found: Pairs, kind: str | None = None, ax: AxesLike | None = None, size: Size | None = None) -> Any:
    """Draw the differences of all pairs, their means and 95 % intervals, side by side for each group.

    If each group has one difference, the groups are along the axis. Along the setting itself, slopes are drawn instead.

    Args:
        found: The result of `pairs`.
        kind: ``pairs``, the only kind.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind.
    """
    only_kind(kind, "pairs")
    panels = new_panels(1, ax, size, panel=(6.0, 3.8))
    axes = panels.axes[0]
    names = list(dict.fromkeys((level_text(step.level), level_text(step.against)) for step in found.steps))
    groups = list(dict.fromkeys(step.group for step in found.steps))
    along_groups = found.each is not None and len(names) == 1
    styles = dict.fromkeys(groups, Look("black", "o")) if along_groups or not found.each else looks(groups)
    axes.axhline(0.0, color=GREY, linewidth=1.0)
    for step in found.steps:
        place = float(groups.index(step.group))
        if not along_groups:
            place = _ROOM * ((place + 0.5) / len(groups) - 0.5)
            place += names.index((level_text(step.level), level_text(step.against)))
        look = styles[step.group]
        axes.plot(
            np.full(len(step.differences), place), step.differences, "_", color=look.color, alpha=0.5, markersize=7
        )
        if step.mean.low is not None and step.mean.high is not None:
            axes.plot([place] * 2, [step.mean.low, step.mean.high], color=look.color, linewidth=1.6)
        axes.plot(place, step.mean.value, linestyle="", **look.points())
    same = len({against for _, against in names}) == 1
    ticks, label = [level if same else f"{level} − {against}" for level, against in names], found.by
    what = f"{found.compared} minus that at {found.by} = {names[0][1]}" if same else f"difference in {found.compared}"
    if along_groups:
        ticks, label = [level_text(group) for group in groups], str(found.each)
        what = f"{found.compared} at {found.by} = {names[0][0]} minus that at {names[0][1]}"
    if found.follows_itself:
        ticks, label = (ticks, label) if along_groups else ([""], "")
        what = f"change of {found.compared}"
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.set_xlabel(label)
    axes.set_ylabel(what)
    heading = (
        found.title[0].upper() + found.title[1:]
        if found.follows_itself
        else f"Paired differences by {found.by}{found.scale}"
    )
    panels.heading(f"{heading}, with 95 % intervals")
    if found.each and not along_groups:
        handles: list[Any] = [Line2D([], [], linestyle="", **styles[group].points()) for group in groups]
        panels.legend(handles, [f"{found.each} = {level_text(group)}" for group in groups])
    else:
        panels.legend([], [])
    return panels.root
