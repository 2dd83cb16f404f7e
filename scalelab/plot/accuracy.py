"""Figures of accuracies: over the loss of the runs of a sweep, and over P for one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalelab.errors import UsageError
from scalelab.plot.layout import AxesLike, new_panels, only_kind
from scalelab.plot.levels import explain_levels
from scalelab.plot.style import Size, looks, styled
from scalelab.plot.ticks import streams_axis
from scalelab.records.evaluations import ACCURACY, accuracies, accuracy_columns

if TYPE_CHECKING:
    from scalelab.api.evaluation import ModelScores

_MOST_PANELS = 12


@styled
def plot_accuracies(records: pd.DataFrame, ax: AxesLike | None = None, size: Size | None = None) -> Figure:
    """Draw accuracy over validation loss: a panel for each task, a point for each run, a colour for each P.

    Bars are one standard error.

    Args:
        records: A row for each run, with columns of accuracies.
        ax: Axes to draw into, one for each task, or one that is replaced by all panels.
        size: Size of a new figure: ``screen``, ``one-column`` or ``two-columns`` of a paper.

    Raises:
        UsageError: No run has a loss and an accuracy.
    """
    ok = records[records["loss"].notna()]
    columns = [name for name in accuracies(records.columns) if ok[name].notna().any()][:_MOST_PANELS]
    if not columns:
        raise UsageError("no accuracies to draw: train with `eval`, such as eval: [next-line, cloze]")
    runs = ok[ok[columns].notna().any(axis=1)]
    runs = runs.assign(P=runs["n_streams"].fillna(1).astype(int))
    shown = looks(runs["P"].unique())
    panels = new_panels(len(columns), ax, size, panel=(3.2, 2.9))
    for axes, name in zip(panels.axes, columns, strict=True):
        task = name.removeprefix(ACCURACY)
        stderr = accuracy_columns(task)[1]
        for P, look in shown.items():
            mine = runs[(runs["P"] == P) & runs[name].notna()]
            error = 100 * mine[stderr].astype(float).fillna(0) if stderr in mine else None
            axes.errorbar(mine["loss"], 100 * mine[name], yerr=error, fmt="none", ecolor=look.color, elinewidth=0.8)
            axes.plot(mine["loss"], 100 * mine[name], linestyle="", zorder=3, **look.points())
        axes.invert_xaxis()  # better models on the right
        axes.set_title(task.replace("_", " "))
        axes.set_xlabel("validation loss, nats per token")
        axes.set_ylabel("accuracy, %")
    panels.heading("accuracy of each run over its loss")
    explain_levels(panels, shown, "P", "none")
    return panels.root


@styled
def plot_scores(
    found: ModelScores, kind: str | None = None, ax: Axes | None = None, size: Size | None = None
) -> Axes | Figure:
    """Draw the first metric of each task over P, with 95 % intervals; a line for each task."""
    only_kind(kind, "scores")
    first: dict[str, list[Any]] = {}
    for score in found.scores:
        mine = first.setdefault(score.task, [])
        if not score.plain and (not mine or mine[0].metric == score.metric):
            mine.append(score)
    panels = new_panels(1, ax, size, panel=(5.2, 3.6))
    axes = panels.axes[0]
    handles, names, levels = [], [], sorted({score.P for score in found.scores})
    marks = looks(range(1, len(first) + 1)).values()
    for i, ((task, scores), look) in enumerate(zip(first.items(), marks, strict=True)):
        x = np.array([score.P for score in scores]) * 1.02 ** (i - (len(first) - 1) / 2)  # side by side
        error = [1.96 * (score.stderr or 0.0) for score in scores]
        axes.errorbar(x, [score.value for score in scores], yerr=error, fmt="none", ecolor=look.color, elinewidth=0.9)
        handles += axes.plot(x, [score.value for score in scores], linewidth=0.8, **look.points())
        names.append(f"{task}, {scores[0].metric}")
    streams_axis(axes, levels)
    axes.set_xlim(levels[0] / 1.3, levels[-1] * 1.3)
    axes.set_ylabel("score")
    panels.heading(f"{found.name}: scores with 95 % intervals")
    panels.legend(handles, names)
    return panels.axes[0] if ax is None else ax
