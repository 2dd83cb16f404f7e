"""The runs of a results folder: as a list, a file or loss curves; and whether the folder is sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from scalelab.errors import DataError, UsageError
from scalelab.shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scalelab.records import Table
    from scalelab.records.check import Check

__all__ = ["Runs", "check_results", "list_runs"]


@dataclass(frozen=True)
class Runs(Shown):
    """The runs of a folder or table, whatever their status.

    `columns` are those to show, or empty for the usual ones; `faults` are files that could not be used.
    """

    title: str
    frame: pd.DataFrame
    table: Table
    columns: tuple[str, ...] = ()
    faults: list[DataError] = field(default_factory=list)

    _report: ClassVar[str] = "scalelab.report.runs:runs_report"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each run."""
        return self.frame

    def to_csv(self) -> str:
        """Return CSV that `read` reads to the same digits."""
        from scalelab.report.runs import as_csv

        return as_csv(self.frame, self.columns)

    def to_json(self) -> str:
        """Return a JSON list with an object for each run."""
        from scalelab.report.runs import as_json

        return as_json(self.frame, self.columns)

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """The loss curves by key of the run. Files that cannot be read are added to `faults`."""
        from scalelab.records.files import read_curve
        from scalelab.records.store import curve_path

        found = {}
        for key, file in zip(self.frame["key"], self.frame["file"], strict=True):
            place = curve_path(Path(file).parent.parent, str(key))
            if not place.is_file():
                continue
            try:
                curve = read_curve(place)
            except DataError as error:
                self.faults.append(error)
                continue
            if len(curve):
                found[str(key)] = curve
        return found

    def plot(self, kind: str | None = None, **options: Any) -> Figure:
        """Draw the loss curves: a panel for each P, a colour for each N."""
        from scalelab.plot.curves import plot_curves

        return plot_curves(self.frame, self.curves, **options)

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        return f"<Runs {self.title}: {len(self.frame)}, of which {len(self.table.records)} ok>"


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
        source: A folder of records, a Parquet, CSV or JSONL table, or "paper".
        where: Which runs: ``"P < 8 and status == 'ok'"``.
        sort: Column to sort by; by default the newest come first.
        descending: Largest first.
        columns: Which columns to show, by name or heading.

    Raises:
        UsageError: The source does not exist, or there is no such column.
        DataError: No file can be used.
    """
    from scalelab import records
    from scalelab.records.read import nothing_there
    from scalelab.report.runs import column_name, sort_runs

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
    """Look at every file of a results folder: which are unreadable, foreign, doubled or left over.

    Args:
        folder: The folder.
        quarantine: Move what readers refuse to FOLDER/quarantine, where none looks.

    Returns:
        What was found, and a line for each file that was moved.

    Raises:
        UsageError: There is no such folder, or no record in it.
    """
    from scalelab.records.check import apply_actions, check_folder

    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found = check_folder(folder)
    if not (found.n_records or found.n_curves or found.findings):
        raise UsageError(f"{folder}: no records (*.parquet) here")
    return found, apply_actions(folder, found.findings) if quarantine else []
