"""Loss over memory and latency, for streams and for larger N (Figure 4 of arXiv 2505.10475)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scalelab.cost.compare import Average, Comparison
from scalelab.cost.equal_loss import MeasuredRun
from scalelab.plot import style
from scalelab.plot.style import ShownFigure, colours, legend_below, tidy

_GROWN = "#777777"  # arrows for larger N


@dataclass(frozen=True)
class Step:
    """Step from a plain model to P streams on the same backbone, and to the plain model of equal loss."""

    P: int
    from_loss: float | None  # of the plain model with the same backbone; None if unknown
    loss: float
    rows: Sequence[Comparison]  # one per batch size


def plot_cost(
    priced: Mapping[int, Sequence[tuple[MeasuredRun, Average]]], steps: Sequence[Step] = (), heading: str = ""
) -> Figure:
    """Draw losses over memory (top) and latency (bottom), with a column for each batch size and a curve for each P.

    Args:
        priced: Measured runs with their costs, by batch size.
        steps: Steps to draw as arrows, from P = 1 to P streams and to the plain model of equal loss.
        heading: Title of the figure.
    """
    batches, drawn = list(priced), [step for step in steps if step.from_loss is not None]
    shades = colours({1} | {run.P for runs in priced.values() for run, _ in runs} | {step.P for step in drawn})
    costs = [cost for runs in priced.values() for _, cost in runs]
    units = _units([*costs, *(row.streams for step in drawn for row in step.rows)])
    figure = ShownFigure(figsize=(max(5.2, 3.1 * len(batches)), 6.2), layout="constrained")
    grid = figure.subplots(2, len(batches), sharey=True, squeeze=False)
    for column, batch in enumerate(batches):
        for axes, unit in zip(grid[:, column], units, strict=True):
            tidy(axes)
            _curves(axes, priced[batch], unit, shades)
            for step in drawn:
                for row in step.rows:
                    if row.batch == batch:
                        _arrows(axes, step, row, unit, shades[step.P])
            _cost_axis(axes)
            axes.set_xlabel(unit.label)
        grid[0, column].set_title(f"batch {batch}", fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel("validation loss, nats per token")
    handles: list[Any] = [Line2D([], [], color=c, marker="o", markersize=4) for c in shades.values()]
    labels = [f"P = {P}" for P in shades]
    if drawn:
        handles += [Line2D([], [], color=shades[step.P], linewidth=2.2) for step in drawn]
        handles.append(Line2D([], [], color=_GROWN, linewidth=2.2))
        labels += [*(f"P = {step.P} streams" for step in drawn), "larger N, equal loss"]
    # The longest label needs 1.75 inches.
    legend_below(figure, handles, labels, max(2, int(figure.get_figwidth() / 1.75)))
    style.heading(figure, heading, 10)
    return figure


@dataclass(frozen=True)
class _Unit:
    name: str  # attribute of `Average`
    label: str
    size: float  # bytes or seconds

    def of(self, average: Average) -> float:
        return getattr(average, self.name) / self.size


def _units(costs: Sequence[Average]) -> list[_Unit]:
    """Return the units of memory and latency that suit the largest of `costs`."""
    known = {
        "memory_bytes": ("memory", {"GiB": 2.0**30, "MiB": 2.0**20, "KiB": 2.0**10}),
        "latency_s": ("latency", {"s": 1.0, "ms": 1e-3, "µs": 1e-6}),
    }
    units = []
    for name, (what, sizes) in known.items():
        most = max(getattr(cost, name) for cost in costs)
        unit = next((u for u, size in sizes.items() if most >= 0.2 * size), list(sizes)[-1])
        units.append(_Unit(name, f"{what}, {unit}", sizes[unit]))
    return units


def _curves(axes: Axes, runs: Sequence[tuple[MeasuredRun, Average]], unit: _Unit, shades: Mapping[int, str]) -> None:
    for P in sorted({run.P for run, _ in runs}):
        mine = sorted((unit.of(cost), run.loss) for run, cost in runs if run.P == P)
        axes.plot(*zip(*mine, strict=True), "-o", color=shades[P], markersize=4, linewidth=1.1, alpha=0.65)


def _arrows(axes: Axes, step: Step, row: Comparison, unit: _Unit, shade: str) -> None:
    start = (unit.of(row.base), step.from_loss)
    look = {"arrowstyle": "-|>", "linewidth": 2.0, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12}
    for average, colour in ((row.plain, _GROWN), (row.streams, shade)):
        if average is not None:
            end = (unit.of(average), step.loss)
            axes.annotate("", end, start, arrowprops={**look, "color": colour}, zorder=3)
            axes.update_datalim([end])  # annotations do not extend the axes
            axes.autoscale_view()


def _cost_axis(axes: Axes) -> None:
    """Make the x axis logarithmic, with plain numbers at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
