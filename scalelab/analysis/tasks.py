"""Runs with the accuracy on a task: one row per run, losses smoothed over its last evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.fit.groups import Group
from scalelab.laws.base import Array
from scalelab.records import read
from scalelab.records.runs import last_rows
from scalelab.units import plural

ACCURACY = "downstream accuracy"  # a name that no column of a table has by chance


@dataclass(frozen=True)
class Task:
    """A task: its accuracies, and the loss that predicts them.

    Attributes:
        name: Name of the task.
        accuracy: Column of accuracies or expression, as shares or in percent.
        loss: Column of the loss that goes with it, or expression; None for the loss of the run.
    """

    name: str
    accuracy: str
    loss: str | None = None


@dataclass(frozen=True)
class TaskRuns:
    """The runs of one task, in the order of a table.

    Attributes:
        task: The task.
        records: Records [n] of the runs, with the task's loss in place of theirs.
        accuracy: Accuracies [n] as shares.
        percent: True if the table has percent.
        missing: Number of runs without the accuracy.
    """

    task: Task
    records: pd.DataFrame
    accuracy: Array
    percent: bool
    missing: int

    @property
    def loss(self) -> Array:
        """Losses [n] of the task."""
        return self.records["loss"].to_numpy(dtype=float)

    def part(self, which: np.ndarray) -> TaskRuns:
        """Return the runs where `which` [n] is true."""
        records = self.records[which].reset_index(drop=True)
        return TaskRuns(self.task, records, self.accuracy[which], self.percent, 0)

    def group(self, losses: Array | None = None) -> Group:
        """Return the runs as a group to fit, with the losses of the task or others."""
        records = self.records if losses is None else self.records.assign(loss=losses)
        return Group(self.task.name, self.task.name, records.drop(columns=[ACCURACY, "run"], errors="ignore"))


def task_runs(
    data: str | Path | pd.DataFrame, task: Task, columns: Mapping[str, str] | None, where: str | None, smooth: int
) -> TaskRuns:
    """Read the runs of a task.

    If runs have several rows, the last one counts, with the mean loss and accuracy of the last `smooth`.

    Raises:
        UsageError: There is no such column.
        DataError: No run has the accuracy, or a value is not a share or percentage.
    """
    mapped = dict(columns or {}) | ({} if task.loss is None else {"loss": task.loss})
    try:
        table = read(data, mapped or None, where, {ACCURACY: task.accuracy})
    except UsageError as error:
        if isinstance(error.value, Mapping) and (ACCURACY in error.value or error.value.get("loss") == task.loss):
            raise UsageError(error.reason, argument="tasks", value=task.name) from None
        raise
    records = table.records[table.records[ACCURACY].notna()]
    missing = len(table.records) - len(records)
    if not len(records):
        raise DataError(f"{task.name}: column {task.accuracy!r} has no numbers")
    records = _smoothed(records, smooth) if records["run"].notna().all() else records
    accuracy = records[ACCURACY].to_numpy(dtype=float)
    percent = bool(accuracy.max() > 1)
    accuracy = accuracy / 100 if percent else accuracy
    if accuracy.min() < 0 or accuracy.max() > 1:
        worst = accuracy[np.abs(accuracy - 0.5).argmax()] * (100 if percent else 1)
        raise DataError(f"{task.name}: accuracy {worst:g} is neither a share from 0 to 1 nor a percentage")
    return TaskRuns(task, records.reset_index(drop=True), accuracy, percent, missing)


def _smoothed(records: pd.DataFrame, smooth: int) -> pd.DataFrame:
    """Return the last row of each run, with the means of loss and accuracy over its last `smooth` rows."""
    by = [name for name in ("step", "n_tokens") if records[name].notna().any()]
    ordered = records.sort_values(by, kind="stable")
    means = ordered.groupby("run", sort=False)[["loss", ACCURACY]].agg(lambda values: values.tail(smooth).mean())
    last = last_rows(records)
    return last.assign(**{name: last["run"].map(means[name]).to_numpy() for name in ("loss", ACCURACY)})


def check_enough(runs: TaskRuns, least: int) -> None:
    """Raise `ScalelabError` if there are fewer than `least` runs."""
    if len(runs.accuracy) < least:
        raise ScalelabError(f"{runs.task.name}: {plural(len(runs.accuracy), 'run')}, and {least} are needed; add runs")
