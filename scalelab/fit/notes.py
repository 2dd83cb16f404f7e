"""Notes on what a fit cannot carry, beside its numbers; those about the rows are in `row_notes`.

serious: the numbers must not be used as they are; warning: some of them mean less than they
seem to; info: good to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from scalelab.fit.data import FitData
from scalelab.fit.objective import Objective
from scalelab.fit.result import LEVEL, Note, Status, tails
from scalelab.fit.solver import Optimum
from scalelab.laws.base import Array, Variable
from scalelab.records.schema import describe_statuses
from scalelab.status import RunStatus
from scalelab.units import format_count, plural

if TYPE_CHECKING:
    import pandas as pd

MIN_N_SPAN = 4.0
MIN_P_LEVELS = 3
MANY = 4  # configurations a parameter from which intervals hold what they say (docs/coverage.md)
MIN_AGREEMENT = 0.05
PERFECT = 1e-20  # an objective of rounding errors alone, whose gradient means nothing
OUTLIER = 10.0  # residuals in robust standard deviations
MOST_OUTLIERS = 5  # that are named one by one
MAX_STREAM_SHARE = 0.05
MAX_CORRELATION = 0.95
MAX_SHIFT = 1.5  # standard errors that one run may move a parameter by
UNMOVED = 1e-6
MOST_OF_RANGE = 0.8  # of a parameter's bounds, in fitting coordinates
NOTHING = 1e-9  # an effect of P that is rounding error


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
            f"{_run(data, int(i))}, loss {data.loss[i]:.4g}, lies {abs(off):.1%} {'above' if off > 0 else 'below'} the "
            "law, far more than the others; look at that run",
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


def optimum_notes(objective: Objective, optimum: Optimum, status: Status, condition: float) -> Iterator[Note]:
    """Notes that follow from where the optimiser ended."""
    lower, upper = objective.bounds()
    for i, name in enumerate(objective.free_names):
        if not lower[i] + 1e-6 < optimum.z[i] < upper[i] - 1e-6:
            place = objective.law.names.index(name)
            value = float(objective.to_params(optimum.z)[place])
            own = np.array(objective.law.parameters[place].bounds) * objective.scale[place]
            why = (
                "the data do not determine it"
                if np.isclose(value, own, rtol=1e-5).any()
                else "without it, it would go on"
            )
            yield Note("at_bound", "serious", f"{name} ended at its bound {value:.4g}: {why}", {"value": value})
    if optimum.agreement < MIN_AGREEMENT:
        yield Note(
            "starts_disagree",
            "serious",
            f"only {optimum.agreement:.1%} of the starts found this optimum; there may be a better one",
            {"agreement": optimum.agreement},
        )
    if optimum.moved < UNMOVED:
        yield Note(
            "start_is_optimum",
            "warning",
            "the optimum is the very point that its start was drawn at: has the optimiser moved at all?",
            {"moved": optimum.moved},
        )
    if status == "degenerate":
        yield Note(
            "degenerate",
            "serious",
            "a combination of parameters makes no difference to these losses, so their values mean nothing alone "
            f"(condition number {condition:.1e}, starts that agree {optimum.start_spread:.1e} apart in logarithms)",
            {"condition": condition, "start_spread": optimum.start_spread},
        )
    if status == "failed":
        yield Note(
            "not_converged",
            "serious",
            f"the objective still falls here (scaled gradient {optimum.gradient_norm:.1e})",
            {"gradient": optimum.gradient_norm},
        )


def dependence_notes(
    objective: Objective, data: FitData, local: Array, pull: tuple[int, str, float] | None
) -> Iterator[Note]:
    """Notes on parameters that cannot be told apart and on runs that the fit hangs on. `local` [f, f]."""
    names = objective.free_names
    if "E" in names and "alpha" in names:
        i, j = names.index("E"), names.index("alpha")
        size = float(np.sqrt(local[i, i] * local[j, j]))
        correlation = float(local[i, j]) / size if size > 0 else 0.0
        if abs(correlation) > MAX_CORRELATION:
            yield Note(
                "E_alpha_tied",
                "info",
                f"E and α are tied (correlation {correlation:.3f}): another E with another α fits about as well, so "
                "neither means much alone; a wider range of N unties them",
                {"correlation": correlation},
            )
    if pull is not None and pull[2] > MAX_SHIFT:
        run, name, shift = pull
        yield Note(
            "leverage",
            "warning",
            f"without {_run(data, run)}, {name} would move by {shift:.1f} standard errors: repeat that run",
            {"run": run, "shift": shift},
        )


def interval_notes(objective: Objective, draws: Array, smallest_loss: float) -> Iterator[Note]:
    """Notes that follow from the intervals. `draws` [b, k]; none without draws."""
    if not len(draws):
        return
    ends = {
        name: [float(v) for v in np.quantile(draws[:, objective.law.names.index(name)], tails(LEVEL))]
        for name in objective.free_names
    }
    effect = next((p for p in objective.law.parameters if p.needs == "P" and not p.positive and p.name in ends), None)
    if effect is not None:
        name, none = effect.name, effect.neutral
        low, high = (none if abs(end - none) < NOTHING else end for end in ends[name])
        figures, text = {"low": low, "high": high}, f"[{low:.3g}, {high:.3g}]"
        worse = low > none if name == "rho" else high < none
        if low <= none <= high:
            message = f"the interval of {name} {text} holds {none:g}: these runs show no sure effect of P"
            yield Note(f"{name}_unresolved", "warning", message, figures)
        elif worse:
            message = (
                f"{name} {text} is on the far side of {none:g}: in these runs streams made the loss worse for their N"
            )
            yield Note(f"{name}_against", "info", message, figures)
    if "E" in ends:
        low, high = ends["E"]
        if high - low > 0.5 * smallest_loss:
            yield Note(
                "E_unresolved",
                "warning",
                f"the interval of E [{low:.3g}, {high:.3g}] is more than half the smallest loss {smallest_loss:.3g}: "
                "the loss floor cannot be told from these sizes, and predictions far beyond them mean little",
                {"low": low, "high": high},
            )


def verdict_notes(objective: Objective, status: Status, r_squared: float, draws: Array) -> Iterator[Note]:
    """A note where the fit says nothing about these losses: it then must not be used."""
    reasons = []
    if r_squared < 0:
        reasons.append(f"it predicts these losses worse than their mean does (R² {r_squared:.2f})")
    if status == "degenerate":
        reasons.append("its parameters are not determined")
    open_ = []
    if len(draws):
        lower, upper = objective.bounds()
        z = objective.from_params(draws)
        for i, name in enumerate(objective.free_names):
            low, high = np.quantile(z[:, i], tails(LEVEL))
            if np.isfinite(upper[i] - lower[i]) and high - low > MOST_OF_RANGE * (upper[i] - lower[i]):
                open_.append(name)
    if 2 * len(open_) >= len(objective.free_names) > 0 and open_:
        reasons.append(f"the interval of {' and '.join(open_)} covers about all that is allowed")
    if reasons:
        yield Note(
            "explains_nothing",
            "serious",
            f"this fit does not describe these runs: {'; '.join(reasons)}",
            {"r_squared": r_squared},
        )


def _run(data: FitData, i: int) -> str:
    several = data.run is not None
    shown: list[Variable] = [
        v for v in data.known if v in ("N", "P") or (data.varies(v) and not (several and v == "D"))
    ]
    parts = [f"{v} {format_count(data.values(v)[i])}" for v in shown]
    return f"the run at {', '.join(parts)}"
