"""Tables with several rows per run: find the rows of each run, and the last one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scalelab.errors import DataError

_LEAST = 8  # evenly spaced rows with equal settings that are recognised as a curve
_LEAST_STEPS = 3  # the same, if there is a rising column of steps
_EVEN = 1.6  # ratio of the widest to the median distance between points of a curve
_SETTINGS = (
    *("n_params", "n_params_total", "n_params_active", "n_params_backbone", "n_streams", "n_experts"),
    *("peak_lr", "batch_size", "seed", "n_tokens_unique", "setup", "corpus", "tokenizer"),
)
_CONSTANT = ("n_params", "n_params_total", "n_params_backbone", "n_streams")  # within a run


def find_runs(table: pd.DataFrame, file: str, mapped: bool) -> tuple[pd.Series | None, str]:
    """Return the run of each row, or None if each row is a run, and a note.

    Runs are named by a column `run`, or are rows with equal settings whose steps or tokens rise evenly in the order of
    the table. `mapped` is true if the user mapped the column `run`.

    Raises:
        DataError: N or P changes within a run of the column that the user mapped.
    """
    if "run" in table and table["run"].notna().all() and table["run"].nunique() < len(table):
        names = table["run"].astype("string")
        changing = [c for c in _CONSTANT if c in table and (table.groupby(names, sort=False)[c].nunique() > 1).any()]
        along = [c for c in ("step", "n_tokens") if c in table]
        rising = any(_all_differ(table[c], names) for c in along)
        if mapped and changing:
            raise DataError(
                f"{file}: {changing[0]} differs between rows of one `run`; map `run` to the column of run ids"
            )
        if not changing and (rising or mapped):
            return names, ""
    settings = [c for c in _SETTINGS if c in table and table[c].notna().all()]
    along = "step" if "step" in table and table["step"].notna().all() else "n_tokens"
    if along not in table or not settings or table[along].isna().any():
        return None, ""
    keys = table.groupby(settings, sort=False, dropna=False).ngroup()
    curves = keys.astype("string")
    found = 0
    for number, rows in table.groupby(keys, sort=False):
        pieces = _rising(rows[along].to_numpy(dtype=float))
        least = _LEAST_STEPS if along == "step" else _LEAST
        for i, piece in enumerate(np.split(np.arange(len(rows)), pieces)):
            values = rows[along].to_numpy(dtype=float)[piece]
            if len(piece) < least or (along == "n_tokens" and not _even(values)):
                return None, ""
            found += 1
            curves.iloc[np.flatnonzero((keys == number).to_numpy())[piece]] = f"curve {number}.{i}"
    return curves, ""


def last_rows(records: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of each run: that with the most steps or tokens, of equals the last in the table."""
    by = [c for c in ("step", "n_tokens") if c in records and records[c].notna().any()]
    ordered = records.sort_values(by, kind="stable") if by else records
    return records.loc[np.sort(ordered.groupby("run", sort=False).tail(1).index)]


def _rising(values: np.ndarray) -> np.ndarray:
    """Return the indices at which a new curve starts, where `values` do not rise."""
    return np.flatnonzero(np.diff(values) <= 0) + 1


def _all_differ(column: pd.Series, runs: pd.Series) -> bool:
    """Return true if no two rows of a run have the same value."""
    return not pd.DataFrame({"run": runs, "value": column}).duplicated().any()


def _even(values: np.ndarray) -> bool:
    gaps = np.diff(values)
    usual = float(np.median(gaps))
    return bool(usual > 0 and (gaps <= _EVEN * usual).mean() > 0.9 and gaps.min() > 0.4 * usual)
