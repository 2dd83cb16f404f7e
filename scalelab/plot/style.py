"""How figures look: colours for P, and axes that read counts as people write them."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scalelab.units import format_count

# Okabe & Ito (2008): distinguishable with any colour vision, ordered by P.
_COLOURS = ("#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")


class ShownFigure(Figure):
    """A figure that Jupyter shows, though pyplot (with its global state) never saw it."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


def new_axes(width: float = 6.4, height: float = 4.4) -> tuple[Figure, Axes]:
    """A figure without pyplot, so that making one changes nothing global and needs no display."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", alpha=0.25, linewidth=0.6)


def colours(P_levels: Any) -> dict[int, str]:
    """A colour for each P, in order."""
    return {int(P): _COLOURS[i % len(_COLOURS)] for i, P in enumerate(sorted(P_levels))}


def count_axis(axes: Axes) -> None:
    """A logarithmic x axis labelled 50k, 1.5B …, on 1-2-5 where the range is short."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
