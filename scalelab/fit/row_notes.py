"""Notes about the rows: several of one run, tuning sweeps, units, designs that cannot separate parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from scalelab.fit.data import FitData
from scalelab.fit.result import Note
from scalelab.fit.tuning import NEAR, Tuning
from scalelab.laws import Law
from scalelab.laws.base import Array
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
_MANY_ROWS = 2.5  # rows of one place, on average, from which they look like a tuning sweep
_TUNED = 0.01  # median relative range of losses at one place that is more than seeds make
_MAX_NATS = 14.0  # ln of a vocabulary of 1.2 million
_MIN_NATS = 0.3
_SPAN = 1e6
_FEW_TOKENS = 1e5  # as D: more likely tokens per parameter
_FIXED_RATIO = 0.02  # spread of ln(D/N) against that of ln N from which the design does not separate A from B


def row_notes(points: tuple[int, int] | None, every: FitData, used: FitData, best: bool) -> Iterator[Note]:
    """Notes on which rows were fitted: `every` before and `used` after the best of each place were taken."""
    if points is not None:
        runs, rows = points
        said = (
            f"all {rows} points of {plural(runs, 'run')} are fitted; intervals and influence are by run"
            if every.run is not None
            else f"{rows} points of {plural(runs, 'run')}: the last point of each is fitted; "
            "`points='all'` fits all, by run"
        )
        yield Note("points", "info", said, {"runs": runs, "rows": rows})
    if best:
        dropped = len(every.loss) - len(used.loss)
        yield Note(
            "best",
            "info",
            f"of {len(every.loss)} rows the best of each configuration: {len(used.loss)} are fitted, {dropped} dropped",
            {"rows": len(every.loss), "dropped": dropped},
        )


def optimum_row_notes(tuning: Tuning | None) -> Iterator[Note]:
    """A note on the rows behind the best learning rate and batch size."""
    if tuning is not None:
        yield Note(
            "optimum_rows",
            "info",
            f"lr_*, B_*, u, w and m are from the {tuning.rows} rows within {NEAR:.0%} of the best of each of "
            f"{tuning.cells} (N, D), where a quadratic holds; the other parameters are from all rows",
            {"rows": tuning.rows, "cells": tuning.cells},
        )


def tuning_notes(data: FitData, records: pd.DataFrame, fitted: Array) -> Iterator[Note]:
    """A note where rows of one place are runs of a tuning sweep rather than repeated seeds."""
    rows, places = len(data.loss), len(np.unique(data.place))
    if data.run is not None or rows < _MANY_ROWS * places:
        return
    columns = [c for c in _HYPERPARAMETERS if c in records and records[c].notna().all() and records[c].nunique() > 1]
    varied = [c for c in columns if _VARIABLE.get(c) not in data.known]
    low, high = (np.full(places, end) for end in (np.inf, -np.inf))
    np.minimum.at(low, data.place, data.loss)
    np.maximum.at(high, data.place, data.loss)
    spread = float(np.median(high / low - 1))
    if not varied and spread < _TUNED:
        return
    why = f"and differ in {', '.join(varied)}" if varied else f"and differ by {spread:.1%}, more than seeds do"
    yield Note(
        "tuning",
        "serious",
        f"{rows} rows share {plural(places, 'configuration')} {why}: runs of a tuning sweep are no repeated seeds; "
        f"`best` fits the best of each ({plural(rows - places, 'row')} less), `objective='asymmetric'` counts those "
        "above the law less",
        {"rows": rows, "configurations": places, "spread": spread},
    )


def unit_notes(data: FitData) -> Iterator[Note]:
    """Notes on numbers that look like those of another unit."""
    if data.loss.max() > _MAX_NATS:
        yield Note(
            "unit_loss",
            "warning",
            f"losses up to {data.loss.max():.3g} are above the logarithm of any vocabulary: perplexities? "
            "`columns={'loss': 'ln(COLUMN)'}` converts them",
            {"largest": float(data.loss.max())},
        )
    elif data.loss.max() < _MIN_NATS:
        yield Note(
            "unit_loss",
            "warning",
            f"losses up to {data.loss.max():.3g} are small for nats a token: bits per byte, or of another task?",
            {"largest": float(data.loss.max())},
        )
    if "N" in data.known and data.N.max() / data.N.min() > _SPAN:
        yield Note(
            "unit_N",
            "warning",
            f"N runs over more than six decades ({format_count(data.N.min())} to {format_count(data.N.max())}): are "
            "all rows in one unit?",
            {"span": float(data.N.max() / data.N.min())},
        )
    elif "N" in data.known and data.N.max() <= 1e4:
        yield Note(
            "unit_N",
            "warning",
            f"N is at most {data.N.max():.3g}: in millions or billions? "
            "`columns={'n_params': '1e6*COLUMN'}` converts it",
            {"largest": float(data.N.max())},
        )
    if "D" in data.known and data.D.max() < _FEW_TOKENS and data.loss.max() > 0:
        per_parameter = data.D.max() < 1e4
        hint = "tokens per parameter? `columns={'n_tokens': 'COLUMN*n_params'}` converts it"
        hint = hint if per_parameter else "which unit?"
        yield Note(
            "unit_D",
            "warning",
            f"D is at most {data.D.max():.3g} tokens: {hint}",
            {"largest": float(data.D.max())},
        )


def design_notes(data: FitData, law: Law) -> Iterator[Note]:
    """A note where N and D go together, so that their terms cannot be told apart."""
    if not {"N", "D"} <= {*law.variables} or not (data.varies("N") and data.varies("D")):
        return
    ratio = np.log(data.D / data.N)
    if np.std(ratio) < _FIXED_RATIO * np.std(np.log(data.N)):
        yield Note(
            "fixed_ratio",
            "serious",
            f"D/N is about {float(np.exp(np.mean(ratio))):.3g} in every run: the terms of N and D cannot be told "
            "apart; add runs with another D/N, or fit a law of one variable (`law='compute'`)",
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
            f"these runs differ in {listed}, which the law does not know: what that changes in the loss counts as noise "
            "or as an effect of N, P or D",
            {
                name.replace(" ", "_"): len(records[column].dropna().unique())
                for column, name in _UNKNOWN_TO_LAWS.items()
                if name in shown
            },
        )
