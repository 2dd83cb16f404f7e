"""Rollouts: fits of the runs below a training budget, scored on the runs above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scalelab.analysis.forecasts import Forecast, outside
from scalelab.analysis.intervals import run_interval
from scalelab.analysis.scoring import Calibration, Scored
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.averaging import with_laws
from scalelab.fit.core import fit_group
from scalelab.fit.data import CONVENTIONS, FitData, fit_data
from scalelab.fit.derived import FLOPS_PER_TOKEN
from scalelab.fit.groups import Group
from scalelab.fit.mixture import MixtureLaw
from scalelab.fit.options import FitOptions
from scalelab.fit.result import FitResult
from scalelab.laws import Law
from scalelab.laws.base import Array
from scalelab.shown import Shown
from scalelab.units import format_number, plural

if TYPE_CHECKING:
    import pandas as pd

_STEPS = 4  # budgets, if none are given
_SPARE = 2  # configurations beyond the number of parameters, below the lowest budget
_DRAWS = 300


@dataclass(frozen=True)
class Step:
    """A fit of the runs up to a budget, and its forecasts of the others.

    Attributes:
        budget: Training compute up to which runs were fitted: FLOPs, or N·P where D is unknown.
        fit: The fit, averaged over laws; None if these runs cannot be fitted.
        rows: Its forecasts of the other runs, scored.
        runs: Number of runs fitted.
        problem: Why there is no fit.
    """

    budget: float
    fit: FitResult | None
    rows: tuple[Scored, ...]
    runs: int
    problem: str = ""

    @property
    def law_words(self) -> str:
        """The law of the fit, or the laws of its average with their weights."""
        if self.fit is None:
            return "none"
        return self.fit.law.words if isinstance(self.fit.law, MixtureLaw) else self.fit.law.name


@dataclass(frozen=True)
class Rollout(Shown):
    """Fits of growing parts of the runs, each scored on the rest.

    Attributes:
        group: Group of runs.
        law: The law that was fitted, and averaged with others if they were weighed.
        unit: Meaning of the budgets: "FLOPs" or "N·P".
        steps: One for each budget, lowest first.
    """

    group: str
    law: str
    unit: str
    steps: tuple[Step, ...]

    _report: ClassVar[str] = "scalelab.reports.forecasts:rollout_report"
    _figure: ClassVar[str] = "scalelab.plot.forecasts:plot_rollout"
    _json: ClassVar[str] = "scalelab.reports.forecasts:rollout_json"

    @property
    def calibration(self) -> Calibration:
        """The forecasts of all steps together."""
        return Calibration(self.group, tuple(row for step in self.steps for row in step.rows))

    def of(self, step: Step) -> Calibration:
        """Return the forecasts of one step."""
        return Calibration(self.group, step.rows)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each forecast, with the budget of its fit."""
        import pandas as pd

        frames = [self.of(step).to_frame().assign(budget=step.budget) for step in self.steps]
        return pd.concat(frames, ignore_index=True)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __repr__(self) -> str:
        return f"<Rollout of {self.group}: {plural(len(self.steps), 'budget')}>"


def roll_out(
    group: Group,
    law: Law,
    options: FitOptions,
    budgets: Sequence[float] = (),
    average: bool = True,
    progress: Callable[[str, float], None] | None = None,
) -> Rollout:
    """Fit the runs up to each budget and score the fit on the others.

    Args:
        group: Comparable runs.
        law: The law to fit.
        options: Options of the fits; at most 300 bootstrap draws are used.
        budgets: Training compute in FLOPs; by default four, evenly spaced over the runs above those needed for a fit.
        average: Average over the laws that the fitted runs support.
        progress: Called with the stage and its completed fraction.

    Raises:
        UsageError: No run is above or below a budget.
        ScalelabError: There are too few runs, or none of the parts can be fitted.
    """
    options = replace(options, draws=min(options.draws, _DRAWS))
    costs, unit = compute_of(group, options.convention, law)
    chosen = _check(budgets, costs, group.title) if len(budgets) else _choose(costs, law, group, options)
    steps = []
    for number, budget in enumerate(chosen):
        if progress is not None:
            progress(f"{group.title}: runs up to {format_number(budget, 3)} {unit}", number / len(chosen))
        steps.append(_step(group, costs, budget, law, options, average))
    if not any(step.fit is not None for step in steps):
        raise ScalelabError(f"{group.title}: no part of these runs can be fitted; first: {steps[0].problem}")
    return Rollout(group.title, law.name, unit, tuple(steps))


def _step(group: Group, costs: Array, budget: float, law: Law, options: FitOptions, average: bool) -> Step:
    below = costs <= budget
    part = replace(group, records=group.records[below].reset_index(drop=True))
    rest = fit_data(group.records[~below], options.convention, group.title, law.variables)
    try:
        fit = fit_group(part, law, options)
        fit = (with_laws(fit) if average else fit).averaged()
        if fit.failure:
            raise ScalelabError(fit.failure)
        rows = tuple(_scored(fit, rest, i) for i in range(len(rest.loss)))
    except UsageError:
        raise
    except ScalelabError as error:
        return Step(budget, None, (), int(below.sum()), str(error).removeprefix(f"{part.title}: "))
    return Step(budget, fit, rows, int(below.sum()))


def _scored(fit: FitResult, data: FitData, row: int) -> Scored:
    at = {name: float(data.values(name)[row]) for name in data.known if name in fit.law.variables}
    N, P, D = at.pop("N", None), int(at.pop("P", 1)), at.pop("D", None)
    found = run_interval(fit, N, P, D, **at)
    if found.low is None or found.high is None:
        raise ScalelabError("the fit has no intervals")
    forecast = Forecast(
        time="",
        group=fit.group,
        law=fit.law.name,
        data_hash=fit.data_hash,
        count=fit.options.convention,
        N=N,
        P=P,
        D=D,
        loss=found.value,
        low=found.low,
        high=found.high,
        factor=outside(fit, N=N, P=P, D=D, **at),
        others=at,
    )
    return Scored(forecast, float(data.loss[row]))


def compute_of(group: Group, convention: str, law: Law) -> tuple[Array, str]:
    """Return the training compute of each record, and its unit.

    It is the compute of the table for a law of compute, else 6·N·D·P, or N·P where D is unknown.

    Raises:
        ScalelabError: The records have neither N nor compute.
    """
    records = group.records
    if "C" in law.variables:
        return records["train_flops"].to_numpy(dtype=float), "FLOPs"
    column = CONVENTIONS[convention].column
    if records[column].isna().any():
        raise ScalelabError(f"{group.title}: a rollout needs N of all runs; map a column to {column!r} with `columns`")
    cost = records[column].to_numpy(dtype=float) * records["n_streams"].fillna(1).to_numpy(dtype=float)
    if records["n_tokens"].isna().any():
        return cost, "N·P"
    return FLOPS_PER_TOKEN * cost * records["n_tokens"].to_numpy(dtype=float), "FLOPs"


def _choose(costs: Array, law: Law, group: Group, options: FitOptions) -> list[float]:
    """Return budgets at evenly spaced ranks of the distinct costs, each with enough configurations below it."""
    least = len(law.parameters) + _SPARE
    enough = []
    for level in np.unique(costs)[:-1]:
        part = fit_data(group.records[costs <= level], options.convention, group.title, law.variables)
        enough += [level] if part.n_configs >= least else []
    if not enough:
        raise ScalelabError(
            f"{group.title}: {plural(len(costs), 'run')} are too few to fit some and score others; the {law.name} law "
            f"needs {least + 1} or more"
        )
    at = np.unique(np.linspace(0, len(enough) - 1, _STEPS).round().astype(int))
    return [float(enough[i]) for i in at]


def _check(budgets: Sequence[float], costs: Array, title: str) -> list[float]:
    for budget in budgets:
        if budget < costs.min() or budget >= costs.max():
            raise UsageError(
                f"the runs of {title} cost {format_number(costs.min(), 3)} to {format_number(costs.max(), 3)}; "
                "choose a budget between these",
                argument="rollout",
                value=format_number(budget, 3),
            )
    return sorted({float(budget) for budget in budgets})
