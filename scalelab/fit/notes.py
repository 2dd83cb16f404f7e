"""Notes on the runs of a fit; see also `row_notes` (rows, units) and `optimum_notes`.

Severity: with a serious note the numbers must not be used; with a warning some are less reliable than they seem; info
is background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from scalelab.fit.data import FitData
from scalelab.fit.objective import Objective
from scalelab.fit.result import Note
from scalelab.laws.base import Array, Variable
from scalelab.records.schema import describe_statuses
from scalelab.status import RunStatus
from scalelab.units import format_count, plural

if TYPE_CHECKING:
    import pandas as pd

MIN_N_SPAN = 4.0
MIN_P_LEVELS = 3
MANY = 4  # configurations per parameter from which intervals reach their nominal coverage (docs/coverage.md)
OUTLIER = 10.0  # residuals in robust standard deviations
MOST_OUTLIERS = 5  # that get a note each
MAX_STREAM_SHARE = 0.05


def data_notes(objective: Objective, data: FitData) -> Iterator[Note]:
    """Yield notes on the number and range of the runs."""
    n_free, configs = int(objective.free.sum()), data.n_configs
    figures = {"configurations": configs, "runs": len(data.loss), "parameters": n_free}
    if configs <= n_free:
        yield Note(
            "no_freedom",
            "serious",
            f"{configs} configurations for {n_free} parameters: any law fits them exactly, so R² means nothing and "
            "there are no intervals; add runs",
            figures,
        )
    elif configs < MANY * n_free:
        yield Note(
            "few_runs",
            "warning",
            f"{configs} configurations for {n_free} parameters: intervals are rough, and too narrow for E and A; "
            f"use {MANY * n_free} or more configurations",
            figures,
        )
    for variable, shape in data.too_few(objective.law, objective.fixed).items():
        levels = len(data.levels(variable))
        if variable != "P":  # has its own notes below
            yield Note(
                f"few_{variable}",
                "warning",
                f"{plural(levels, 'value')} of {variable} cannot determine {', '.join(shape)} and the loss floor: "
                f"use {len(shape) + 1} or more",
                {"levels": levels},
            )
    knows_P = "P" in objective.law.variables
    levels = np.unique(data.P)
    if knows_P and len(levels) == 1:
        left = ", ".join(f"{p.name} = {objective.fixed[p.name]:g}" for p in objective.law.parameters if p.needs == "P")
        yield Note("one_P", "warning", f"all runs have P = {levels[0]:g}, so the fit fixes {left}", {"levels": 1})
    elif knows_P and len(levels) < MIN_P_LEVELS:
        yield Note(
            "few_P",
            "warning",
            f"{len(levels)} values of P cannot show how the gain of streams continues: use {MIN_P_LEVELS} or more",
            {"levels": len(levels)},
        )
    elif not knows_P and len(levels) > 1:
        yield Note(
            "P_ignored",
            "warning",
            f"P varies from {levels[0]:g} to {levels[-1]:g}, and the law {objective.law.name!r} ignores it; "
            "choose a `law` with P",
            {"levels": len(levels)},
        )
    span = float(data.N.max() / data.N.min())
    if span < MIN_N_SPAN and "N" in objective.law.variables:
        yield Note(
            "narrow_N",
            "warning",
            f"N spans a factor of {span:.2g} ({format_count(data.N.min())} to {format_count(data.N.max())}), "
            f"less than {MIN_N_SPAN:g}: E and α cannot be separated well; add runs with other N",
            {"span": span},
        )


def unfinished_notes(unfinished: Mapping[str, int]) -> Iterator[Note]:
    """Yield a note if runs of this group are not ok, which have no loss to fit."""
    if not unfinished:
        return
    # Interrupted runs are missing at random; runs that diverged or ran out of memory are not.
    chosen = any(unfinished.get(status) for status in (RunStatus.DIVERGED, RunStatus.OUT_OF_MEMORY))
    why = "; for such settings the law extrapolates" if chosen else ""
    yield Note(
        "unfinished",
        "warning" if chosen else "info",
        f"runs without a loss are left out: {describe_statuses(unfinished)}{why}",
        dict(unfinished),
    )


def seed_notes(data: FitData, fitted: Array) -> Iterator[Note]:
    """Yield notes on repeated seeds. `fitted` [n] are the law's losses of the runs."""
    runs, configs = len(data.loss), data.n_configs
    if runs == configs or data.run is not None:
        return
    size = np.bincount(data.config)
    mean = np.bincount(data.config, data.loss) / size
    noise = float(np.sqrt(((data.loss - mean[data.config]) ** 2).sum() / (runs - configs)))
    yield Note(
        "repeats",
        "info",
        f"{runs} runs of {plural(configs, 'configuration')}: the standard deviation between seeds is {noise:.2g}; "
        "intervals are resampled by configuration",
        {"runs": runs, "configurations": configs, "seed_noise": noise},
    )
    rows = np.stack([data.config, data.loss])
    copies = runs - np.unique(rows, axis=1).shape[1]
    if copies:
        yield Note(
            "copies",
            "warning",
            f"{plural(copies, 'run has', 'runs have')} exactly the N, P, D and loss of another: remove them if copied",
            {"copies": copies},
        )
    least, most = (fitted[end == data.P].mean() for end in (data.P.min(), data.P.max()))
    effect = float(abs(least - most))
    if data.varies("P") and noise > effect:
        yield Note(
            "seed_noise",
            "warning",
            f"the effect of P in the fit ({effect:.2g} from P = {data.P.min():g} to {data.P.max():g}) is smaller than "
            f"the standard deviation between seeds ({noise:.2g}): only many seeds can show it",
            {"effect": effect, "seed_noise": noise},
        )


def outlier_notes(data: FitData, residuals: Array) -> Iterator[Note]:
    """Yield notes on runs far from the law. `residuals` [n] in logarithms."""
    spread = 1.4826 * float(np.median(np.abs(residuals)))
    found = np.flatnonzero(np.abs(residuals) > max(OUTLIER * spread, 1e-4))
    if len(found) > MOST_OUTLIERS:
        above = int((residuals[found] < 0).sum())
        cause = (
            "runs that diverged or were not tuned; try `best` or `objective='asymmetric'`"
            if above > 0.9 * len(found)
            else "runs of a kind that this law does not describe, or in other units"
        )
        yield Note(
            "outliers",
            "warning",
            f"{len(found)} of {len(residuals)} rows are far from the law, {above} above it: probably {cause}",
            {"rows": len(found), "above": above, "spread": spread},
        )
        return
    for i in found:
        off = float(np.expm1(-residuals[i]))
        yield Note(
            "outlier",
            "warning",
            f"{describe_run(data, int(i))}, loss {data.loss[i]:.4g}, is {abs(off):.1%} "
            f"{'above' if off > 0 else 'below'} the law, far more than the others: check that run",
            {"run": int(i), "off": off, "spread": spread},
        )


def count_notes(records: pd.DataFrame, convention: str) -> Iterator[Note]:
    """Yield a note if stream parameters are a large share of N."""
    if "n_params_backbone" not in records or records["n_params_backbone"].isna().all():
        return
    share = float((records["n_params"] / records["n_params_backbone"] - 1).max())
    if convention == "paper" and share > MAX_STREAM_SHARE:
        yield Note(
            "streams_in_N",
            "warning",
            f"the parameters of the streams add up to {share:.0%} to N (1 % in the paper), which hides part of the "
            "gain of P; `count='backbone'` leaves them out",
            {"share": share},
        )


def describe_run(data: FitData, i: int) -> str:
    """Return a run by its variables: ``the run at N 1B, P 2``."""
    several = data.run is not None
    shown: list[Variable] = [
        v for v in data.known if v in ("N", "P") or (data.varies(v) and not (several and v == "D"))
    ]
    parts = [f"{v} {format_count(data.values(v)[i])}" for v in shown]
    return f"the run at {', '.join(parts)}"
