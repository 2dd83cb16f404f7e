"""Notes on the runs of a fit. Those about rows and units are in `row_notes`, those on the optimum in `optimum_notes`.

serious: the numbers must not be used as they are; warning: some of them mean less than they
seem to; info: good to know.
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
MANY = 4  # configurations a parameter from which intervals hold what they say (docs/coverage.md)
OUTLIER = 10.0  # residuals in robust standard deviations
MOST_OUTLIERS = 5  # that are named one by one
MAX_STREAM_SHARE = 0.05


def data_notes(objective: Objective, data: FitData) -> Iterator[Note]:
    """Notes that follow from which runs there are."""
    n_free, configs = int(objective.free.sum()), data.n_configs
    figures = {"configurations": configs, "runs": len(data.loss), "parameters": n_free}
    if configs <= n_free:
        yield Note(
            "no_freedom",
            "serious",
            f"{configs} configurations for {n_free} parameters: the law passes through them whatever the truth is, "
            "so R² means nothing and there are no intervals; add runs",
            figures,
        )
    elif configs < MANY * n_free:
        yield Note(
            "few_runs",
            "warning",
            f"{configs} configurations for {n_free} parameters: intervals from so few are rough, those of E "
            f"and A too narrow; {MANY * n_free} or more would be better",
            figures,
        )
    for variable, shape in data.too_few(objective.law, objective.fixed).items():
        levels = len(data.levels(variable))
        if variable != "P":  # of which more below
            yield Note(
                f"few_{variable}",
                "warning",
                f"{plural(levels, 'value')} of {variable} for {', '.join(shape)} and the floor below them: "
                f"run {len(shape) + 1} or more",
                {"levels": levels},
            )
    knows_P = "P" in objective.law.variables
    levels = np.unique(data.P)
    if knows_P and len(levels) == 1:
        left = ", ".join(f"{p.name} = {objective.fixed[p.name]:g}" for p in objective.law.parameters if p.needs == "P")
        yield Note("one_P", "warning", f"only P = {levels[0]:g} was run: left at {left}", {"levels": 1})
    elif knows_P and len(levels) < MIN_P_LEVELS:
        yield Note(
            "few_P",
            "warning",
            f"{len(levels)} values of P show that streams help, not how that goes on: run {MIN_P_LEVELS} or more",
            {"levels": len(levels)},
        )
    elif not knows_P and len(levels) > 1:
        yield Note(
            "P_ignored",
            "warning",
            f"P runs from {levels[0]:g} to {levels[-1]:g} and the law {objective.law.name!r} does not know it: "
            "all runs count as if it made no difference",
            {"levels": len(levels)},
        )
    span = float(data.N.max() / data.N.min())
    if span < MIN_N_SPAN and "N" in objective.law.variables:
        yield Note(
            "narrow_N",
            "warning",
            f"N spans a factor of {span:.2g} ({format_count(data.N.min())} to {format_count(data.N.max())}), "
            f"less than {MIN_N_SPAN:g}: E and α cannot be told apart well",
            {"span": span},
        )


def unfinished_notes(unfinished: Mapping[str, int]) -> Iterator[Note]:
    """A note if runs of this group are not ok, by status: they have no loss to fit."""
    if not unfinished:
        return
    # A run that was stopped can be run again; one that diverged or did not fit is missing for a reason.
    chosen = any(unfinished.get(status) for status in (RunStatus.DIVERGED, RunStatus.OUT_OF_MEMORY))
    why = "; what the law says of such runs rests on the others" if chosen else ""
    yield Note(
        "unfinished",
        "warning" if chosen else "info",
        f"besides these runs there are {describe_statuses(unfinished)}, which have no loss to fit{why}",
        dict(unfinished),
    )


def seed_notes(data: FitData, fitted: Array) -> Iterator[Note]:
    """Notes on repeated seeds. `fitted` [n] are the law's losses of the runs."""
    runs, configs = len(data.loss), data.n_configs
    if runs == configs or data.run is not None:
        return
    size = np.bincount(data.config)
    mean = np.bincount(data.config, data.loss) / size
    noise = float(np.sqrt(((data.loss - mean[data.config]) ** 2).sum() / (runs - configs)))
    yield Note(
        "repeats",
        "info",
        f"{runs} runs of {plural(configs, 'configuration')}: seeds of one differ by {noise:.2g} (standard deviation); "
        "intervals are drawn by configuration",
        {"runs": runs, "configurations": configs, "seed_noise": noise},
    )
    rows = np.stack([data.config, data.loss])
    copies = runs - np.unique(rows, axis=1).shape[1]
    if copies:
        yield Note(
            "copies",
            "warning",
            f"{plural(copies, 'run repeats', 'runs repeat')} the N, P, D and loss of another to the "
            "last digit: if copied, remove them",
            {"copies": copies},
        )
    least, most = (fitted[end == data.P].mean() for end in (data.P.min(), data.P.max()))
    effect = float(abs(least - most))
    if data.varies("P") and noise > effect:
        yield Note(
            "seed_noise",
            "warning",
            f"the effect of P in the fit ({effect:.2g} from P = {data.P.min():g} to {data.P.max():g}) is smaller than "
            f"what seeds of one configuration differ by ({noise:.2g}): only many seeds can show it",
            {"effect": effect, "seed_noise": noise},
        )


def outlier_notes(data: FitData, residuals: Array) -> Iterator[Note]:
    """Notes on runs far off the law. `residuals` [n] in logarithms."""
    spread = 1.4826 * float(np.median(np.abs(residuals)))
    found = np.flatnonzero(np.abs(residuals) > max(OUTLIER * spread, 1e-4))
    if len(found) > MOST_OUTLIERS:
        above = int((residuals[found] < 0).sum())
        cause = (
            "all above it: runs that diverged or were not tuned (`best`, `objective='asymmetric'`)"
            if above > 0.9 * len(found)
            else "of a kind that this law does not describe, or of other units"
        )
        yield Note(
            "outliers",
            "warning",
            f"{len(found)} of {len(residuals)} rows lie far off the law, {above} above it: likely {cause}",
            {"rows": len(found), "above": above, "spread": spread},
        )
        return
    for i in found:
        off = float(np.expm1(-residuals[i]))
        yield Note(
            "outlier",
            "warning",
            f"{describe_run(data, int(i))}, loss {data.loss[i]:.4g}, lies {abs(off):.1%} "
            f"{'above' if off > 0 else 'below'} the law, far more than the others; look at that run",
            {"run": int(i), "off": off, "spread": spread},
        )


def count_notes(records: pd.DataFrame, convention: str) -> Iterator[Note]:
    """A note if N holds so many stream parameters that it is no longer the backbone's size."""
    if "n_params_backbone" not in records or records["n_params_backbone"].isna().all():
        return
    share = float((records["n_params"] / records["n_params_backbone"] - 1).max())
    if convention == "paper" and share > MAX_STREAM_SHARE:
        yield Note(
            "streams_in_N",
            "warning",
            f"the streams' own parameters add up to {share:.0%} to N here (1 % in the paper), which this way of "
            "counting sets against P; `count='backbone'` leaves them out",
            {"share": share},
        )


def describe_run(data: FitData, i: int) -> str:
    """Return a run as a reader knows it: ``the run at N 1B, P 2``."""
    several = data.run is not None
    shown: list[Variable] = [
        v for v in data.known if v in ("N", "P") or (data.varies(v) and not (several and v == "D"))
    ]
    parts = [f"{v} {format_count(data.values(v)[i])}" for v in shown]
    return f"the run at {', '.join(parts)}"
