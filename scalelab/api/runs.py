"""Runs of a results folder as a table, a file or loss curves, and a check of the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from scalelab.api.loading import check_choice
from scalelab.errors import DataError, UsageError
from scalelab.shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scalelab.records import RunTable
    from scalelab.records.check import Check

__all__ = ["Runs", "check_results", "list_runs"]

RUN_FIGURES = ("curves", "accuracy")


@dataclass(frozen=True)
class Runs(Shown):
    """Runs of a folder or table with any status.

    Attributes:
        title: Name of the source.
        frame: A row for each run.
        table: The records as `read` returns them.
        columns: Columns to show; empty for the default ones.
        faults: Errors of files that could not be read.
    """

    title: str
    frame: pd.DataFrame
    table: RunTable
    columns: tuple[str, ...] = ()
    faults: list[DataError] = field(default_factory=list[DataError])

    _report: ClassVar[str] = "scalelab.reports.runs:runs_report"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each run."""
        return self.frame

    def to_csv(self) -> str:
        """Return CSV with exact values, which `read` can read."""
        from scalelab.reports.runs import as_csv

        return as_csv(self.frame, self.columns)

    def to_json(self) -> str:
        """Return a JSON list with an object for each run."""
        from scalelab.reports.runs import as_json

        return as_json(self.frame, self.columns)

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """The loss curves by run key, with columns step, n_tokens and loss. Unreadable files are added to `faults`."""
        from scalelab.records.files import read_curve
        from scalelab.records.store import curve_path

        found: dict[str, pd.DataFrame] = {}
        for key, file in zip(self.frame["key"], self.frame["file"], strict=True):
            path = curve_path(Path(file).parent.parent, str(key))
            if not path.is_file():
                continue
            try:
                curve = read_curve(path)
            except DataError as error:
                self.faults.append(error)
                continue
            if len(curve):
                found[str(key)] = curve
        return found

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """The scores of the folder's models, a row for each task, metric and P; unreadable files go to `faults`."""
        from scalelab.records.evaluations import read_evaluations

        return read_evaluations(self.title, self.faults)

    def plot(self, kind: str | None = None, **options: Any) -> Figure:
        """Draw the runs. Options are `ax` and `size`.

        Args:
            kind: "curves" (the default): smoothed loss curves, a panel for each N and a colour for each P. "accuracy":
                accuracy over loss, a panel for each task.
            options: Options of the figure.
        """
        check_choice("kind", kind, RUN_FIGURES)
        if kind == "accuracy":
            from scalelab.plot.accuracy import plot_accuracies

            return plot_accuracies(self.frame, **options)
        from scalelab.plot.curves import plot_curves

        return plot_curves(self.frame, self.curves, **options)

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        return f"<Runs {self.title}: {len(self.frame)}, {len(self.table.records)} ok>"


def list_runs(
    source: str | Path,
    *,
    where: str | None = None,
    sort: str | None = None,
    descending: bool = False,
    columns: Sequence[str] = (),
) -> Runs:
    """List the runs in a results folder or a table with their status.

    Args:
        source: A folder of records, a table in a file, or "paper".
        where: Condition that selects runs: ``"P < 8 and status == 'ok'"``.
        sort: Column to sort by; by default the newest runs come first.
        descending: Sort from largest to smallest.
        columns: Columns to show, by name or heading.

    Returns:
        The runs, with tables, CSV, JSON and loss curves.

    Raises:
        UsageError: The source or a column does not exist.
        DataError: No file can be read.
    """
    from scalelab import records
    from scalelab.records.read import nothing_there
    from scalelab.reports.runs import column_name, sort_runs

    if descending and sort is None:
        raise UsageError("needs `sort=COLUMN`", argument="descending")
    by = None if sort is None else column_name(sort, "sort")
    names = tuple(column_name(word, "columns") for given in columns for word in given.split(",") if word)
    faults: list[DataError] = []
    table = records.gather(source, where=where, faults=faults)
    frame = pd.concat([part for part in (table.records, table.others) if len(part)] or [table.records])
    if not len(frame):
        raise faults[0] if faults else nothing_there(source, table, where)
    frame = sort_runs(frame.reset_index(drop=True), by, descending)
    return Runs(str(source), frame, table, names, faults)


def check_results(folder: str | Path, *, quarantine: bool = False) -> tuple[Check, list[str]]:
    """Check every file of a results folder for unreadable, foreign, duplicate and leftover files.

    Args:
        folder: Results folder.
        quarantine: Move files that cannot be used to FOLDER/quarantine, which readers skip.

    Returns:
        The findings, and a line for each file that was moved.

    Raises:
        UsageError: The folder does not exist, or has no records.
    """
    from scalelab.records.check import apply_actions, check_folder

    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found = check_folder(folder)
    if not (found.n_records or found.n_curves or found.findings):
        raise UsageError(f"{folder}: no records (*.parquet) here")
    return found, apply_actions(folder, found.findings) if quarantine else []
