"""Figure of aggregator weights over the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalelab.plot.style import colours, new_axes, title

_MOST_LABELS = 64


def plot_weights(weights: np.ndarray, words: Sequence[str], heading: str) -> Figure:
    """Draw aggregator weights [T, P] as bands over T tokens, which label the x axis if there are few.

    One band over the whole height means that one stream has all the weight; constant bands of equal height are a mean.
    """
    T, P = weights.shape
    figure, axes = new_axes(width=max(5.0, 0.16 * T + 1.4), height=3.6)
    positions = np.arange(T)
    bottom = np.zeros(T)
    for p, colour in colours(range(1, P + 1)).items():
        mine = weights[:, p - 1]
        # Above P = 7 colours repeat, with hatches.
        axes.bar(
            positions, mine, bottom=bottom, width=1.0, color=colour, alpha=0.85, linewidth=0,
            hatch="///" if p > 7 else None, edgecolor="white", label=f"stream {p}",
        )  # fmt: skip
        bottom += mine
    axes.set_xlim(-0.5, T - 0.5)
    axes.set_ylim(0, 1)
    axes.set_ylabel("aggregator weight at the token")
    if T <= _MOST_LABELS:
        shown = [_shown(word) for word in words]
        axes.set_xticks(positions, shown, rotation=90, fontsize=6, parse_math=False)
    else:
        axes.set_xlabel("token")
    axes.grid(False)
    title(axes, heading)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, reverse=True)
    return figure


def _shown(word: str) -> str:
    """Return a token for display, with visible signs for spaces, tabs and line breaks."""
    word = word.replace("Ġ", "␣").replace("Ċ", "⏎").replace("▁", "␣").replace("ĉ", "⇥")
    return word if len(word) <= 12 else word[:11] + "…"


def plot_diagnosis(found: Any, kind: str | None = None) -> Axes:
    """Draw the aggregator weights of a `Diagnosis` over the tokens."""
    heading = f"{found.name}, P = {found.P}: {len(found.words)} tokens of {found.corpus}"
    return plot_weights(found.weights, found.words, heading).axes[0]
