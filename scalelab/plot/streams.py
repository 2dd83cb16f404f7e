"""Figure of aggregator weights over the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalelab.plot.layout import new_panels, only_kind
from scalelab.plot.style import Size, ramp, styled

_SMALLEST = 6.5  # points of a token's label


@styled
def plot_weights(
    weights: np.ndarray, words: Sequence[str], heading: str, ax: Axes | None = None, size: Size | None = None
) -> Figure:
    """Draw aggregator weights [T, P] as bands over T tokens, which label the x axis if there are few.

    One band over the whole height means that one stream has all the weight; constant bands of equal height are a mean.

    Args:
        weights: Weights, [T, P].
        words: The T tokens.
        heading: Title of the figure.
        ax: Axes to draw into.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    T, P = weights.shape
    panels = new_panels(1, ax, size, panel=(min(11.0, max(6.4, 0.16 * T + 1.4)), 3.4))
    axes = panels.axes[0]
    positions = np.arange(T)
    bottom = np.zeros(T)
    handles, shades = [], ramp(range(P))  # not the looks of P: a stream is not a level of P
    for p in range(P):
        handles.append(axes.bar(positions, weights[:, p], bottom=bottom, width=1.0, linewidth=0, color=shades[p]))
        bottom += weights[:, p]
    axes.set_xlim(-0.5, T - 0.5)
    axes.set_ylim(0, 1)
    axes.set_ylabel("aggregator weight")
    axes.grid(False)
    axes.set_xlabel("token")
    if _room(axes) >= T:
        shown = [_shown(word) for word in words]
        axes.set_xticks(positions, shown, rotation=90, fontsize=_SMALLEST, parse_math=False)
    panels.heading(heading)
    panels.legend(handles, [f"stream {p + 1}" for p in range(P)])
    return panels.root


def _room(axes: Axes) -> int:
    """Return the number of tokens that can have a label."""
    return int(axes.figure.bbox.width / axes.figure.dpi * 72 / (1.25 * _SMALLEST))  # type: ignore[union-attr]


def _shown(word: str) -> str:
    """Return a token for display, with visible signs for spaces, tabs and line breaks."""
    word = word.replace("Ġ", "␣").replace("Ċ", "⏎").replace("▁", "␣").replace("ĉ", "⇥")
    return word if len(word) <= 12 else word[:11] + "…"


def plot_diagnosis(found: Any, kind: str | None = None, ax: Axes | None = None, size: Size | None = None) -> Axes:
    """Draw the aggregator weights of a `Diagnosis` over the tokens."""
    only_kind(kind, "weights")
    heading = f"{found.name}, P = {found.P}: {len(found.words)} tokens of {found.corpus}"
    return plot_weights(found.weights, found.words, heading, ax=ax, size=size).axes[0] if ax is None else ax
