"""Accuracy over loss: the runs, the sigmoid, and predicted models with their intervals."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scalelab.analysis.accuracy import TaskModel
from scalelab.analysis.downstream import Downstream
from scalelab.analysis.sigmoid import accuracy_at
from scalelab.plot.layout import AxesLike, level_handle, new_panels, only_kind
from scalelab.plot.style import BLUE, GREY, RED, Size, looks, styled
from scalelab.reports.downstream import point_words


@styled
def plot_downstream(
    found: Downstream, kind: str | None = None, ax: AxesLike | None = None, size: Size | None = None
) -> Figure:
    """Draw a panel for each task: accuracy of the runs over loss, the sigmoid, and the predicted models.

    Args:
        found: Predicted accuracies.
        kind: ``downstream``, the only kind.
        ax: Axes to draw into, one for each task, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: There is no such kind.
    """
    only_kind(kind, "downstream")
    panels = new_panels(len(found.models), ax, size, panel=(3.2, 2.7), extra=0.8)
    levels = looks({int(P) for model in found.models.values() for P in _streams(model)})
    for axes, (name, model) in zip(panels.axes, found.models.items(), strict=True):
        points = [row for row in found.rows if row.task == name]
        losses = [float(model.loss.losses(row.point.N, row.point.P, row.point.D)) for row in points]
        _curve(axes, model, [*losses, *model.runs.loss])
        streams = _streams(model)
        for P, look in levels.items():
            mine = streams == P
            axes.plot(model.runs.loss[mine], 100 * model.runs.accuracy[mine], linestyle="", **look.points(0.8))
        for loss, row in zip(losses, points, strict=True):
            value, low, high = (100 * (v or 0.0) for v in (row.both.value, row.both.low, row.both.high))
            axes.errorbar(loss, value, [[value - low], [high - value]], color=RED, marker="*", markersize=9, capsize=3)
        axes.invert_xaxis()
        axes.set_title(name)
        axes.set_xlabel("loss of the task" if model.runs.task.loss else "loss, nats per token")
        axes.set_ylabel("accuracy, %")
    shown = ", ".join(dict.fromkeys(point_words(row.point) for row in found.rows))
    panels.heading(f"accuracy over loss, and predictions for {shown}")
    handles = [level_handle(look, "none") for look in levels.values()]
    labels = [f"P = {P}" for P in levels] if len(levels) > 1 else ["runs"]
    handles += [Line2D([], [], color=BLUE), Line2D([], [], color=RED, marker="*", markersize=9, linestyle="")]
    panels.legend(handles, [*labels, "sigmoid, 95 % of the draws", "predicted, 95 % interval"])
    return panels.root


def _streams(model: TaskModel) -> np.ndarray:
    return model.runs.records["n_streams"].fillna(1).to_numpy(dtype=float)


def _curve(axes, model: TaskModel, losses: list[float]) -> None:
    low, high = min(losses), max(losses)
    margin = 0.05 * (high - low)
    x = np.linspace(low - margin, high + margin, 200)
    draws = 100 * accuracy_at(x, model.sigmoid.draws[:, None, :])
    axes.fill_between(x, *np.quantile(draws, [0.025, 0.975], axis=0), color=GREY, alpha=0.2, linewidth=0)
    axes.plot(x, 100 * model.sigmoid(x), color=BLUE)
