"""Notes on the rows: runs with several rows, tuning sweeps, units, and designs that cannot separate parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from scalelab.fit.data import COLUMNS, FitData
from scalelab.fit.result import Note
from scalelab.fit.tuning import NEAR, Tuning
from scalelab.laws import Law
from scalelab.laws.base import Variable
from scalelab.units import format_count, plural

if TYPE_CHECKING:
    import pandas as pd

_HYPERPARAMETERS = ("peak_lr", "batch_size", "schedule", "micro_batch_size", "setup")
# Columns that may move a loss and are not variables of any law, with the words for them
_UNKNOWN_TO_LAWS = {
    "dtype": "precision",
    "vocab_size": "vocabulary",
    "device": "device",
    "versions": "library versions",
    "code": "scalelab's code",
}
_VERSIONS = ("versions", "code")  # too long to show
_VARIABLE = {"peak_lr": "lr", "batch_size": "B"}
_MANY_ROWS = 2.5  # average rows per configuration from which they look like a tuning sweep
_TUNED = 0.01  # median relative range of losses per configuration that exceeds seed noise
_MAX_NATS = 14.0  # ln of a vocabulary of 1.2 million
_MIN_NATS = 0.3
_SPAN = 1e6
_FEW_TOKENS = 1e5  # a smaller D is more likely in tokens per parameter
_FIXED_RATIO = 0.02  # spread of ln(D/N) relative to that of ln N below which A and B are not separable


def row_notes(points: tuple[int, int] | None, every: FitData, used: FitData, best: bool) -> Iterator[Note]:
    """Yield notes on the choice of rows: `every` before, and `used` after taking the best of each configuration."""
    if points is not None:
        runs, rows = points
        text = (
            f"all {rows} points of {plural(runs, 'run')} are fitted; intervals and influence are computed by run"
            if every.run is not None
            else f"{rows} points of {plural(runs, 'run')}: only the last of each is fitted; "
            "`points='all'` fits all of them"
        )
        yield Note("points", "info", text, {"runs": runs, "rows": rows})
    if best:
        dropped = len(every.loss) - len(used.loss)
        yield Note(
            "best",
            "info",
            f"only the best row of each configuration is fitted: {len(used.loss)} of {len(every.loss)}",
            {"rows": len(every.loss), "dropped": dropped},
        )


def optimum_row_notes(tuning: Tuning | None) -> Iterator[Note]:
    """Yield a note on the rows that determine the optimal learning rate and batch size."""
    if tuning is not None:
        yield Note(
            "optimum_rows",
            "info",
            f"lr_*, B_*, u, w and m are fitted to the {tuning.rows} rows within {NEAR:.0%} of the best of each of "
            f"{tuning.cells} (N, D), where a quadratic holds; the other parameters are fitted to all rows",
            {"rows": tuning.rows, "cells": tuning.cells},
        )


def tuning_notes(data: FitData, records: pd.DataFrame) -> Iterator[Note]:
    """Yield a note if rows of one configuration come from a tuning sweep rather than from repeated seeds."""
    rows, configurations = len(data.loss), len(np.unique(data.configuration))
    if data.run is not None or rows < _MANY_ROWS * configurations:
        return
    columns = [c for c in _HYPERPARAMETERS if c in records and records[c].notna().all()]
    varied = [c for c in columns if _VARIABLE.get(c) not in data.known and _varies_within(records, c, data.known)]
    low, high = (np.full(configurations, end) for end in (np.inf, -np.inf))
    np.minimum.at(low, data.configuration, data.loss)
    np.maximum.at(high, data.configuration, data.loss)
    spread = float(np.median(high / low - 1))
    if not varied and spread < _TUNED:
        return
    why = f"and differ in {', '.join(varied)}" if varied else f"and differ by {spread:.1%}, more than seeds would"
    yield Note(
        "tuning",
        "serious",
        f"{rows} rows share {plural(configurations, 'configuration')} {why}: a tuning sweep is not repeated seeds; "
        f"fit only the best of each with `best` ({plural(rows - configurations, 'row')} less), or give rows above the "
        "law less weight with `objective='asymmetric'`",
        {"rows": rows, "configurations": configurations, "spread": spread},
    )


def _varies_within(records: pd.DataFrame, column: str, known: tuple[Variable, ...]) -> bool:
    """Return whether most configurations have several values of `column`; a learning rate by width does not count."""
    same = [COLUMNS[name] for name in known if COLUMNS[name] in records and COLUMNS[name] != column]
    return bool((records.groupby(same, dropna=False)[column].nunique() > 1).mean() > 0.5)


def unit_notes(data: FitData) -> Iterator[Note]:
    """Yield notes on numbers that seem to be in another unit."""
    if data.loss.max() > _MAX_NATS:
        yield Note(
            "unit_loss",
            "warning",
            f"losses up to {data.loss.max():.3g} are too large for nats per token; if they are perplexities, "
            "`columns={'loss': 'ln(COLUMN)'}` converts them",
            {"largest": float(data.loss.max())},
        )
    elif data.loss.max() < _MIN_NATS:
        yield Note(
            "unit_loss",
            "warning",
            f"losses up to {data.loss.max():.3g} are too small for nats per token: check their unit",
            {"largest": float(data.loss.max())},
        )
    if "N" in data.known and data.N.max() / data.N.min() > _SPAN:
        yield Note(
            "unit_N",
            "warning",
            f"N spans more than six decades ({format_count(data.N.min())} to {format_count(data.N.max())}): check that "
            "all rows have the same unit",
            {"span": float(data.N.max() / data.N.min())},
        )
    elif "N" in data.known and data.N.max() <= 1e4:
        yield Note(
            "unit_N",
            "warning",
            f"N is at most {data.N.max():.3g}; if it is in millions, "
            "`columns={'n_params': '1e6*COLUMN'}` converts it",
            {"largest": float(data.N.max())},
        )
    if "D" in data.known and data.D.max() < _FEW_TOKENS and data.loss.max() > 0:
        per_parameter = data.D.max() < 1e4
        hint = "if it is tokens per parameter, `columns={'n_tokens': 'COLUMN*n_params'}` converts it"
        hint = hint if per_parameter else "check its unit"
        yield Note(
            "unit_D",
            "warning",
            f"D is at most {data.D.max():.3g} tokens; {hint}",
            {"largest": float(data.D.max())},
        )


def design_notes(data: FitData, law: Law) -> Iterator[Note]:
    """Yield a note if D/N is constant, so that the terms of N and D cannot be separated."""
    if not {"N", "D"} <= {*law.variables} or not (data.varies("N") and data.varies("D")):
        return
    ratio = np.log(data.D / data.N)
    if np.std(ratio) < _FIXED_RATIO * np.std(np.log(data.N)):
        yield Note(
            "fixed_ratio",
            "serious",
            f"D/N is about {float(np.exp(np.mean(ratio))):.3g} in all runs: the terms of N and D cannot be "
            "separated; add runs with other D/N, or fit a law of one variable (`law='compute'`)",
            {"ratio": float(np.exp(np.mean(ratio)))},
        )


def mixed_notes(records: pd.DataFrame) -> Iterator[Note]:
    """Return a note where runs differ in what a law does not know: numerics, device, vocabulary or code."""
    shown: dict[str, str] = {}
    for column, name in _UNKNOWN_TO_LAWS.items():
        values = records[column].dropna().unique() if column in records else []
        if len(values) > 1:
            words = sorted(format_count(value) if column == "vocab_size" else str(value) for value in values)
            shown[name] = plural(len(words), "version") if column in _VERSIONS else " and ".join(words[:3])
    if shown:
        listed = ", ".join(f"{name} ({what})" for name, what in shown.items())
        numeric = not shown.keys().isdisjoint(("precision", "vocabulary"))
        yield Note(
            "mixed_runs",
            "warning" if numeric else "info",
            f"these runs differ in {listed}, which the law does not know: it takes the effect on the loss for noise or "
            "for an effect of N, P or D",
            {
                name.replace(" ", "_"): len(records[column].dropna().unique())
                for column, name in _UNKNOWN_TO_LAWS.items()
                if name in shown
            },
        )
