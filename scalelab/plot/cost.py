"""Loss over memory and latency, for streams and for larger N (Figure 4 of arXiv 2505.10475)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scalelab.cost.compare import Average, Comparison
from scalelab.cost.equal_loss import MeasuredRun
from scalelab.plot.layout import AxesLike, level_handle, new_panels
from scalelab.plot.prices import unit_of
from scalelab.plot.style import GREY, Look, Size, looks, styled
from scalelab.plot.ticks import log_axis, plain


@dataclass(frozen=True)
class Step:
    """Step from a plain model to P streams on the same backbone, and to the plain model of equal loss."""

    P: int
    from_loss: float | None  # of the plain model with the same backbone; None if unknown
    loss: float
    rows: Sequence[Comparison]  # one per batch size


@styled
def plot_cost(
    priced: Mapping[int, Sequence[tuple[MeasuredRun, Average]]],
    steps: Sequence[Step] = (),
    heading: str = "",
    ax: AxesLike | None = None,
    size: Size | None = None,
) -> Figure:
    """Draw losses over memory (top) and latency (bottom), with a column for each batch size and a curve for each P.

    Args:
        priced: Measured runs with their costs, by batch size.
        steps: Steps to draw as arrows, from P = 1 to P streams and to the plain model of equal loss.
        heading: Title of the figure.
        ax: Axes to draw into, two for each batch size (memory first), or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.
    """
    batches, drawn = list(priced), [step for step in steps if step.from_loss is not None]
    shown = looks({1} | {run.P for runs in priced.values() for run, _ in runs} | {step.P for step in drawn})
    costs = [cost for runs in priced.values() for _, cost in runs]
    units = _units([*costs, *(row.streams for step in drawn for row in step.rows)])
    cells = [(i, column) for i in range(len(units)) for column in range(len(batches))]
    panels = new_panels(len(cells), ax, size, panel=(max(2.7, 5.2 / len(batches)), 2.6), cells=cells)
    for (i, column), axes in zip(cells, panels.axes, strict=True):
        batch, unit = batches[column], units[i]
        _curves(axes, priced[batch], unit, shown)
        for step in drawn:
            for row in step.rows:
                if row.batch == batch:
                    _arrows(axes, step, row, unit, shown[step.P].color)
        log_axis(axes.xaxis, plain)
        axes.set_xlabel(unit.label)
        if column == 0:
            axes.set_ylabel("loss, nats per token")
        else:
            axes.sharey(panels.axes[i * len(batches)])
            axes.tick_params(labelleft=False)
        if i == 0:
            axes.set_title(f"batch {batch}")
    handles: list[Any] = [level_handle(look) for look in shown.values()]
    labels = [f"P = {P}" for P in shown]
    if drawn:
        handles += [_Arrow(shown[step.P].color) for step in drawn]
        handles.append(_Arrow(GREY))
        labels += [*(f"add streams, P = {step.P}" for step in drawn), "larger N, equal loss"]
    panels.legend(handles, labels)
    panels.heading(heading)
    return panels.root


class _Arrow(Line2D):
    """The legend's sign of an arrow."""

    def __init__(self, color: str) -> None:
        super().__init__([], [], color=color, linewidth=2.0, marker=">", markevery=[-1], markersize=6)


@dataclass(frozen=True)
class _Unit:
    name: str  # attribute of `Average`
    label: str
    size: float  # bytes or seconds

    def of(self, average: Average) -> float:
        return getattr(average, self.name) / self.size


def _units(costs: Sequence[Average]) -> list[_Unit]:
    """Return the units of memory and latency that suit the largest of `costs`."""
    units = []
    for name in ("memory_bytes", "latency_s"):
        label, size = unit_of(name, max(getattr(cost, name) for cost in costs))
        units.append(_Unit(name, label, size))
    return units


def _curves(axes: Axes, runs: Sequence[tuple[MeasuredRun, Average]], unit: _Unit, shown: Mapping[int, Look]) -> None:
    for P in sorted({run.P for run, _ in runs}):
        mine = sorted((unit.of(cost), run.loss) for run, cost in runs if run.P == P)
        axes.plot(*zip(*mine, strict=True), "-", linewidth=1.1, **shown[P].points())


def _arrows(axes: Axes, step: Step, row: Comparison, unit: _Unit, shade: str) -> None:
    start = (unit.of(row.base), step.from_loss)
    look = {"arrowstyle": "-|>", "linewidth": 2.0, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12}
    for average, colour in ((row.plain, GREY), (row.streams, shade)):
        if average is not None:
            end = (unit.of(average), step.loss)
            axes.annotate("", end, start, arrowprops={**look, "color": colour}, zorder=3)
            axes.update_datalim([end])  # annotations do not extend the axes
            axes.autoscale_view()
