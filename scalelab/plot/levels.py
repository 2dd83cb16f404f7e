"""Legends of levels of P, D or the batch size: entries for a few, a colour bar for many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap

from scalelab.plot.layout import Panels, level_handle
from scalelab.plot.style import Look
from scalelab.units import format_count

MOST_NAMED = 8  # entries of a legend; more levels get a colour bar
_MOST_TICKS = 6


def level_bar(panels: Panels, shown: Mapping[Any, Look], name: str) -> None:
    """Add a colour bar with a step for each level."""
    count = len(shown)
    steps = ScalarMappable(BoundaryNorm(np.arange(count + 1), count), ListedColormap([s.color for s in shown.values()]))
    bar = panels.figure.colorbar(steps, ax=panels.axes, label=name, aspect=40)
    ticks = np.unique(np.linspace(0, count - 1, min(count, _MOST_TICKS)).round().astype(int))
    levels = list(shown)
    bar.set_ticks([i + 0.5 for i in ticks.tolist()], labels=[format_count(levels[i]) for i in ticks])
    bar.ax.minorticks_off()


def explain_levels(panels: Panels, shown: Mapping[Any, Look], name: str, line: str = "-", more: Any = ()) -> None:
    """Explain levels, such as P = 1 and P = 2, and `more`: pairs of a sign and its text."""
    handles, labels = [], []
    if len(shown) > MOST_NAMED:
        level_bar(panels, shown, name)
    else:
        handles = [level_handle(look, line) for look in shown.values()]
        labels = [f"{name} = {level:g}" for level in shown]
    panels.legend([*handles, *(sign for sign, _ in more)], [*labels, *(text for _, text in more)])
