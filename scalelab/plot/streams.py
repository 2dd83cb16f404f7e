"""What the streams of one model do: the mixture's weights over the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalelab.plot.style import colours, new_axes, title

_MOST_LABELS = 64


def plot_weights(weights: np.ndarray, words: Sequence[str], heading: str) -> Figure:
    """Mixture weights [T, P] as bands over the T tokens of a text, which are written below.

    One band as high as the figure is a mixture that has fallen onto one stream; bands of equal height
    and no movement are an average.
    """
    T, P = weights.shape
    figure, axes = new_axes(width=max(5.0, 0.16 * T + 1.4), height=3.6)
    positions = np.arange(T)
    bottom = np.zeros(T)
    for p, colour in colours(range(1, P + 1)).items():
        mine = weights[:, p - 1]
        # Over P = 7 colours come again: the hatch tells them apart.
        axes.bar(
            positions, mine, bottom=bottom, width=1.0, color=colour, alpha=0.85, linewidth=0,
            hatch="///" if p > 7 else None, edgecolor="white", label=f"stream {p}",
        )  # fmt: skip
        bottom += mine
    axes.set_xlim(-0.5, T - 0.5)
    axes.set_ylim(0, 1)
    axes.set_ylabel("mixture weight after reading the token")
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
    """A token as a reader sees it: the byte-level signs for blank and line end put back."""
    word = word.replace("Ġ", "␣").replace("Ċ", "⏎").replace("▁", "␣").replace("ĉ", "⇥")
    return word if len(word) <= 12 else word[:11] + "…"


def plot_diagnosis(found: Any, kind: str | None = None) -> Axes:
    """Draw the mixture's weights over the tokens of a `Diagnosis`."""
    heading = f"{found.name}, P = {found.P}: {len(found.words)} tokens of {found.corpus}"
    return plot_weights(found.weights, found.words, heading).axes[0]
