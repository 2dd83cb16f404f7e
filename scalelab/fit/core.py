"""Fit a law to one group of records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.bootstrap import Report, bootstrap
from scalelab.fit.data import COLUMNS, CONVENTIONS, FitData, fit_data
from scalelab.fit.descent import STEPS
from scalelab.fit.groups import Group
from scalelab.fit.influence import MAX_CONDITION, condition_number, covariance, leave_one_out, natural_covariance
from scalelab.fit.notes import count_notes, data_notes, outlier_notes, seed_notes, unfinished_notes
from scalelab.fit.objective import Objective
from scalelab.fit.optimum_notes import (
    MIN_AGREEMENT,
    PERFECT,
    dependence_notes,
    interval_notes,
    optimum_notes,
    verdict_notes,
)
from scalelab.fit.options import FitOptions, build_objective
from scalelab.fit.result import FitResult, Status, library_versions
from scalelab.fit.row_notes import design_notes, mixed_notes, optimum_row_notes, row_notes, tuning_notes, unit_notes
from scalelab.fit.solver import Optimum, inside_bounds, minimise
from scalelab.fit.tuning import NAMES, fit_tuning
from scalelab.laws import LAWS, Law, get_law
from scalelab.laws.base import Array, Variable
from scalelab.laws.library import LR_BATCH
from scalelab.laws.tied import tied

_MAX_GRADIENT = 1e-3
_MAX_SPREAD = 0.1  # of parameters in logarithms, over starts with the same objective


def fit_group(
    group: Group, law: str | Law = "parallel", options: FitOptions | None = None, report: Report | None = None
) -> FitResult:
    """Fit `law` (an object, one of `LAWS`, or file.py:NAME) to the records of `group`.

    `report` is called with a stage and its completed share.

    Raises:
        ScalelabError: there are fewer configurations than parameters, the records lack a variable of the law,
            or no start reaches a finite objective.
        UsageError: an option does not suit the law.
    """
    options = options or FitOptions()
    law = tied(get_law(law), options.tie)
    every = fit_data(group.records, options.convention, group.title, law.variables)
    data = every.best() if options.best else every
    tuning = None
    try:
        if law.name == LR_BATCH.name:
            check_variables(law, data, options)
            tuning = fit_tuning(data, min(options.draws, 200), options.seed)
            held = dict(zip(NAMES, tuning.params.tolist(), strict=True))
        else:
            held = {}
        objective, optimum = fit_optimum(law, data, replace(options, fix={**held, **options.fix}))
    except UsageError:
        raise
    except ScalelabError as error:
        raise ScalelabError(f"{group.title}: {error}") from None
    except Exception as error:
        if law.name in LAWS:
            raise
        # User code may raise anything.
        raise ScalelabError(f"{group.title}: the law {law.name!r} fails: {type(error).__name__}: {error}") from error
    condition = condition_number(objective, data, optimum.z)
    params = objective.to_params(optimum.z)
    local = covariance(objective, data, optimum.z)
    status = status_of(objective, optimum, condition, np.sqrt(np.diag(local)))
    # In a flat valley refits would stay at their start, so a degenerate fit has no intervals.
    draws = options.draws if status != "degenerate" else 0
    errors = np.sqrt(np.diag(local))
    sample = bootstrap(objective, data, optimum.z, options.bootstrap, draws, options.seed, errors, report)
    sample = sample[np.isfinite(sample).all(axis=1)]
    if tuning is not None and len(sample) and len(tuning.draws):  # two independent sets of draws
        indices = [law.names.index(name) for name in NAMES if name not in options.fix]
        columns = [i for i, name in enumerate(NAMES) if name not in options.fix]
        sample[:, indices] = tuning.draws[np.arange(len(sample)) % len(tuning.draws)][:, columns]
    with np.errstate(all="ignore"):  # a parameter fixed at 0 has a logarithm of -∞
        fitted = law.loss(params, data.points)
    residuals = np.log(fitted / data.loss)
    r_squared = _r_squared(data, fitted)
    return FitResult(
        law=law,
        group=group.title,
        options=options,
        status=status,
        params=tuple(params.tolist()),
        fixed=tuple(name for name in objective.fixed if tuning is None or name in options.fix),
        objective=optimum.value,
        r_squared=r_squared,
        agreement=optimum.agreement,
        start_spread=optimum.start_spread,
        data=data,
        log_residuals=tuple(residuals.tolist()),
        covariance=_rows(natural_covariance(objective, optimum.z, local)),
        draws=_rows(sample),
        notes=(
            *data_notes(objective, data),
            *row_notes(group.points, every, data, options.best),
            *optimum_row_notes(tuning),
            *unit_notes(data),
            *design_notes(data, law),
            *unfinished_notes(group.unfinished),
            *tuning_notes(data, group.records),
            *seed_notes(data, fitted),
            *count_notes(group.records, options.convention),
            *mixed_notes(group.records),
            *outlier_notes(data, residuals),
            *optimum_notes(objective, optimum, status, condition),
            *dependence_notes(objective, data, local, leave_one_out(objective, data, optimum.z, local)),
            *interval_notes(objective, sample, float(data.loss.min())),
            *verdict_notes(objective, status, r_squared, sample),
        ),
        versions=library_versions(),
        columns=_sources(group, law, options),
    )


def check_variables(law: Law, data: FitData, options: FitOptions) -> set[Variable]:
    """Return the variables of the law without effect, since all of their parameters are fixed.

    Raises:
        ScalelabError: another variable of the law is missing in the data, or has one value only.
    """
    unused: set[Variable] = {
        v
        for v in law.variables
        if all(p.name in options.fix for p in law.parameters if p.needs == v)
        and any(p.needs == v for p in law.parameters)
    }
    for variable in law.variables:
        if variable not in data.known and variable not in unused:
            raise ScalelabError(
                f"the law {law.name!r} needs {variable}, and there is no column {COLUMNS[variable]!r}; "
                f"map one with `columns={{{COLUMNS[variable]!r}: COLUMN}}`, or choose another `law`"
            )
        if variable != "P" and not data.varies(variable):
            raise ScalelabError(
                f"the law {law.name!r} needs more than one value of {variable}; add runs or choose another `law`"
            )
    return unused


def fit_optimum(law: Law, data: FitData, options: FitOptions, steps: int = STEPS) -> tuple[Objective, Optimum]:
    """Return the optimal parameters, without intervals. Raises `ScalelabError` if the data cannot determine them.

    Starts end after at most `steps` steps (`minimise`).
    """
    unused = check_variables(law, data, options)
    objective = build_objective(law, data, options)
    if not objective.free.any():
        raise UsageError("all parameters are fixed; leave at least one free")
    felt: list[Variable] = [v for v in law.variables if v not in unused]
    different = len(np.unique(np.stack([data.values(v) for v in felt]), axis=1).T)
    if different < objective.free.sum():
        raise ScalelabError(
            f"{different} distinct ({', '.join(felt)}) cannot determine {objective.free.sum()} parameters; add runs"
        )
    if data.loss.min() == data.loss.max():
        raise ScalelabError(f"all {len(data.loss)} losses are {data.loss[0]:g}; add runs with other losses")
    target = objective.to_target(data.loss)
    return objective, minimise(objective, target, data.weight, options.starts, options.seed, steps)


def status_of(objective: Objective, optimum: Optimum, condition: float, errors: Array) -> Status:
    """Return how a fit ended: the gravest of its problems, or converged."""
    if optimum.gradient_norm > _MAX_GRADIENT and optimum.value > PERFECT:
        return "failed"
    if optimum.agreement < MIN_AGREEMENT:
        return "start_dependent"
    # Starts with the same objective may differ by less than a standard error.
    far = (optimum.spread > np.maximum(_MAX_SPREAD, errors)) & inside_bounds(objective, optimum.z) & ~optimum.idle
    valley = bool(far.any()) and optimum.value > PERFECT
    if condition > MAX_CONDITION or valley:
        return "degenerate"
    if optimum.idle.any() or not inside_bounds(objective, optimum.z).all():
        return "at_bound"
    return "converged"


def _r_squared(data: FitData, fitted: Array) -> float:
    mean = np.average(data.loss, weights=data.weight)
    return float(1 - (data.weight * (data.loss - fitted) ** 2).sum() / (data.weight * (data.loss - mean) ** 2).sum())


def _sources(group: Group, law: Law, options: FitOptions) -> dict[str, str]:
    """Return the table's column names of N, and of other variables and the loss if not those of the schema."""
    names = {**COLUMNS, "N": CONVENTIONS[options.convention].column}
    shown = {v: names[v] for v in law.variables} | {"loss": "loss"}
    return {v: group.columns[c] for v, c in shown.items() if c in group.columns and (v == "N" or group.columns[c] != c)}


def _rows(table: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())
