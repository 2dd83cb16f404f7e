"""Ticks of logarithmic axes at round numbers, as many as fit, such as 100M and 1B."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import Formatter, Locator, MaxNLocator, NullLocator

from scalelab.units import format_count, format_number, plain_number

_MOST = 8  # labels on an axis
_SUBS: tuple[tuple[float, ...], ...] = (
    (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)
_GAPS = (2, 3, 4, 6, 9)  # decades between ticks on a very long axis

Form = Callable[[float, int], str]  # number and significant digits to text


def plain(value: float, digits: int = 3) -> str:
    """Return a number as text without a unit letter, and without an exponent if it is not very large or small."""
    return plain_number(value, digits) if 1e-4 <= abs(value) < 1e6 else format_number(value, digits)


def log_axis(axis: Axis, form: Form = format_count) -> None:
    """Make an axis logarithmic, with ticks at round numbers that do not overlap.

    Args:
        axis: The x or y axis.
        form: Text of a number with some significant digits: by default a count such as 50k or 1.5B.
    """
    name = "x" if isinstance(axis, XAxis) else "y"
    axis.axes.set(**{f"{name}scale": "log"})
    axis.set_major_locator(RoundLocator(form))
    axis.set_major_formatter(DistinctFormatter(form))
    axis.set_minor_locator(NullLocator())


def streams_axis(axes: Axes, levels: Sequence[int]) -> None:
    """Make the x axis one of streams, logarithmic to base 2, with a tick at each of `levels`."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [str(P) for P in levels])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("streams P")


class RoundLocator(Locator):
    """Ticks at round numbers of a logarithmic axis: the most that fit beside each other with their labels."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def __call__(self) -> list[float]:
        """Return the positions of the ticks within the limits of the axis."""
        return self.tick_values(*sorted(self.axis.get_view_interval()))  # type: ignore[union-attr]

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return the positions of the ticks between two values."""
        if not 0 < vmin < vmax < np.inf:
            return []
        best: list[float] = []
        for ticks in _candidates(vmin, vmax):
            if self._fits(ticks, vmin, vmax):
                if len(ticks) > 1:
                    return ticks
                best = best or ticks
        return best

    def _fits(self, ticks: Sequence[float], vmin: float, vmax: float) -> bool:
        if not 1 <= len(ticks) <= _MOST:
            return False
        room = np.diff(np.log(ticks)) / np.log(vmax / vmin) * _length(self.axis)
        if isinstance(self.axis, XAxis):
            widths = np.array([0.65 * len(text) for text in _distinct(self.form, ticks)])
            return bool((room > (widths[:-1] + widths[1:]) / 2 + 0.9).all())
        return bool((room > 1.7).all())


class DistinctFormatter(Formatter):
    """Labels with as many significant digits as it takes to tell ticks apart."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def __call__(self, x: float, pos: Any = None) -> str:
        """Return the label of one number."""
        return self.form(x, 3)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return the labels of all ticks."""
        return _distinct(self.form, values)


def _distinct(form: Form, values: Sequence[float]) -> list[str]:
    texts: list[str] = []
    for digits in range(3, 9):
        texts = [form(value, digits) for value in values]
        if len({*texts}) == len(texts):
            break
    return texts


def _candidates(low: float, high: float) -> list[list[float]]:
    """Return sets of round numbers between `low` and `high`, the ones to prefer first."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    decades = 10.0 ** np.arange(first, last + 1)
    # Sums of logarithms are not exact: an end of the axis that is a round number has its tick.
    inside = lambda values: [float(v) for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]  # noqa: E731
    linear = [inside(MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)) for bins in (6, 5, 4, 3, 2)]
    by_decade = [inside(np.outer(decades, subs).ravel()) for subs in _SUBS]
    sparse = [inside(10.0 ** np.arange(first - first % gap, last + 1, gap)) for gap in _GAPS]
    return [*linear, *by_decade, *sparse] if high / low < 1.9 else [*by_decade, *sparse, *linear]


def _length(axis: Any) -> float:
    """Return the length of an axis in letters of its labels (em)."""
    axes = axis.axes
    box = axes.get_window_extent()
    points = (box.width if isinstance(axis, XAxis) else box.height) * 72 / axes.get_figure(root=True).dpi
    return points / _label_size(axis)


def _label_size(axis: Axis) -> float:
    """Return the font size of tick labels in points."""
    size = axis.get_tick_params().get("labelsize")
    if size is None:
        size = rcParams["xtick.labelsize" if isinstance(axis, XAxis) else "ytick.labelsize"]
    return float(FontProperties(size=size).get_size_in_points())
