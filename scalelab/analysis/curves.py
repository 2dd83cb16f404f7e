"""Loss curves of runs: rows of a table, or files that a sweep keeps beside its records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from scalelab.analysis.envelope import Curve
from scalelab.analysis.runs import used_params
from scalelab.conventions import CONVENTIONS
from scalelab.records.files import read_curve
from scalelab.records.store import curve_path

_LEAST_POINTS = 3


def curves_of(records: pd.DataFrame, every: pd.DataFrame | None, convention: str) -> list[Curve]:
    """Return the loss curves of runs; empty if they have none.

    Args:
        records: A row for each run.
        every: All rows of the runs, if they have several.
        convention: How N is counted.

    Raises:
        DataError: The file of a curve cannot be read.
    """
    found: list[Curve] = []
    for run, points in _of_files(records) if every is None else _of_rows(every):
        N = run[CONVENTIONS[convention].column].to_numpy(dtype=float)
        P = float(run["n_streams"].fillna(1).iloc[0])
        D, loss = (points[name].to_numpy(dtype=float) for name in ("n_tokens", "loss"))
        if len(points) >= _LEAST_POINTS and (D > 0).all():
            found.append(Curve(float(N[0]), float(used_params(run, N)[0]), P, D, loss))
    return found


def _of_rows(every: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    for _, rows in every.groupby("run", sort=False):
        yield rows.iloc[:1], rows


def _of_files(records: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    if records["key"].isna().any() or records["file"].isna().any():
        return
    for i, (key, file) in enumerate(zip(records["key"], records["file"], strict=True)):
        path = curve_path(Path(str(file)).parent.parent, str(key))
        if path.is_file():
            yield records.iloc[[i]], read_curve(path)
