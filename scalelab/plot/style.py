"""Style of figures: colours, titles, legends and axes with counts such as 50k."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scalelab.units import format_count
from scalelab.visible import shortened

# Okabe & Ito (2008): distinguishable with any colour vision, ordered by P.
_COLOURS = ("#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
_TITLE = 90  # characters of a line over a plot


class ShownFigure(Figure):
    """A figure that Jupyter shows, made without pyplot and its global state."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


class ShownAxes(Axes):
    """Axes that Jupyter shows as their whole figure."""

    def _repr_png_(self) -> bytes | None:
        return self.figure._repr_png_() if isinstance(self.figure, ShownFigure) else None


def new_axes(width: float = 6.4, height: float = 4.4) -> tuple[Figure, Axes]:
    """Return a figure and its axes, made without pyplot: no global state, no display needed."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot(axes_class=ShownAxes)
    tidy(axes)
    return figure, axes


def grid_of_axes(count: int, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` small plots side by side, and their axes."""
    columns = 2 if count == 4 else min(count, columns)
    rows = -(-count // columns)
    figure = ShownFigure(figsize=(2.9 * columns, 2.5 * rows + 0.4), layout="constrained")
    all_axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axes in all_axes:
        tidy(axes)
    return figure, all_axes


def title(axes: Axes, text: str) -> None:
    """Set a title as plain text, so that $ in names of corpora is not mathematics; long lines are shortened."""
    text = "\n".join(shortened(line, _TITLE) for line in text.splitlines())
    axes.set_title(text, fontsize=9, parse_math=False)


def heading(figure: Figure, text: str, size: float) -> None:
    """Set a heading over all plots as plain text, wrapped to the width of the figure."""
    columns = int(figure.get_figwidth() * 72 / (0.58 * size))  # mean letter width of the default font: 0.58 em
    lines = [part for line in text.splitlines() for part in wrap(line, columns)]
    figure.suptitle("\n".join(lines), fontsize=size, parse_math=False)


def tidy(axes: Axes) -> None:
    """Remove the top and right spines and add a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", alpha=0.25, linewidth=0.6)


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int) -> None:
    """Put a legend below all plots, ordered by rows of at most `columns` entries, as equal as possible."""
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)
    order = [i for first in range(columns) for i in range(first, len(labels), columns)]  # matplotlib fills columns
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )


def colours(levels: Any) -> dict[Any, str]:
    """Return a colour for each level of P or D, in order."""
    return {level: _COLOURS[i % len(_COLOURS)] for i, level in enumerate(sorted(levels))}


def count_axis(axes: Axes) -> None:
    """Make the x axis logarithmic, labelled 50k, 1.5B, …, at 1, 2 and 5 if the range is short."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
