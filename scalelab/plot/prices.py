"""Memory and latency of a priced model over P."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scalelab.cost.prices import Prices
from scalelab.errors import UsageError
from scalelab.plot.layout import AxesLike, level_handle, new_panels, only_kind
from scalelab.plot.style import GREY, Size, looks, styled
from scalelab.plot.ticks import streams_axis

_LINES = ("-", ":", "--", "-.")  # of the first, second, … cost model
_UNITS = {
    "memory_bytes": ("memory", {"GiB": 2.0**30, "MiB": 2.0**20, "KiB": 2.0**10}),
    "latency_s": ("latency", {"s": 1.0, "ms": 1e-3, "µs": 1e-6}),
}


def unit_of(quantity: str, largest: float) -> tuple[str, float]:
    """Return the label of an axis and the size of its unit, for a quantity whose largest value is known.

    Args:
        quantity: ``memory_bytes`` or ``latency_s``.
        largest: Its largest value, in bytes or seconds.
    """
    name, sizes = _UNITS[quantity]
    unit = next((u for u, size in sizes.items() if largest >= 0.2 * size), list(sizes)[-1])
    return f"{name}, {unit}", sizes[unit]


@styled
def plot_prices(
    prices: Prices, kind: str | None = None, ax: AxesLike | None = None, size: Size | None = None
) -> Figure:
    """Draw memory and latency over P, with a look for each batch size and a line style for each cost model.

    Args:
        prices: Prices of several P.
        kind: ``prices``, the only kind.
        ax: Axes to draw into, two, or one that is replaced by both panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind, or prices are of the largest batches, which have no curve.
    """
    only_kind(kind, "prices")
    if prices.most:
        raise UsageError("the figure needs batch sizes; leave out batch='max'", argument="figure")
    table = prices.to_frame()
    panels = new_panels(2, ax, size, panel=(3.7, 3.0), extra=0.8)
    shown, levels = looks(table["batch"].unique()), sorted(table["P"].unique())
    lines = dict(zip(table["engine"].unique(), _LINES, strict=False))
    for axes, quantity in zip(panels.axes, _UNITS, strict=True):
        label, unit = unit_of(quantity, table[quantity].max())
        for (engine, batch), rows in table.sort_values("P").groupby(["engine", "batch"], sort=False):
            axes.plot(rows["P"], rows[quantity] / unit, linestyle=lines[engine], **shown[batch].points())
        streams_axis(axes, levels)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
    handles: list[Any] = [level_handle(look) for look in shown.values()]
    labels = [f"batch {batch}" for batch in shown]
    if len(lines) > 1:
        handles += [Line2D([], [], color=GREY, linestyle=line) for line in lines.values()]
        labels += [*lines]
    panels.heading(f"{prices.name or 'decoder'} on {prices.device.gpu}, {', '.join(lines)}")
    panels.legend(handles, labels)
    return panels.root
