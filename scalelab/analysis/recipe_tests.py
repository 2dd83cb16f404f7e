"""Nested models of two recipes, and bootstrap tests of what they share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scalelab.analysis.recipe_law import Factor, RecipeLaw, exponents, factor_groups, scales
from scalelab.errors import ScalelabError
from scalelab.fit.bootstrap import freedom, residual_errors
from scalelab.fit.core import fit_optimum
from scalelab.fit.data import FitData
from scalelab.fit.objective import Objective
from scalelab.fit.options import FitOptions, build_objective
from scalelab.fit.warm import refit
from scalelab.laws import Law
from scalelab.laws.base import Array

FACTORS: tuple[Factor, ...] = ("N", "D", "compute")
_STARTS = 20  # of a model that also starts from the optimum of a smaller one


@dataclass(frozen=True)
class ModelScore:
    """One nested model by least squares of log losses: its free parameters, RMSE in nats, and AICc above the best."""

    label: str
    n_free: int
    rmse: float
    aicc: float
    delta: float


@dataclass(frozen=True)
class SharedTest:
    """A test of what two recipes share: F, and the share of bootstrap data sets with an F at least as large."""

    shared: str
    F: float
    p: float
    draws: int


@dataclass(frozen=True, eq=False)
class Fitted:
    """A nested model at its optimum."""

    label: str
    law: RecipeLaw
    objective: Objective
    z: Array


def nested_laws(base: Law) -> dict[str, RecipeLaw]:
    """Return the nested models by label, from no difference to no parameter in common."""
    groups: dict[str, list[list[str]]] = {"no difference": []}
    for factor in FACTORS:
        found = factor_groups(base, factor)
        if found and found not in groups.values():
            groups[f"factor on {factor}"] = found
    own = [[name] for name in scales(base)]
    if len(own) > 1:
        groups["own scales"] = own
    groups["own scales and exponents"] = [*own, *([name] for name in exponents(base))]
    groups["nothing shared"] = [[name] for name in base.names]
    return {label: RecipeLaw(base, names) for label, names in groups.items()}


def fit_nested(base: Law, data: FitData, options: FitOptions) -> list[Fitted]:
    """Fit the nested models by least squares of log losses, each from the optimum of the one that it contains.

    Models without degrees of freedom are left out.
    """
    options = replace(options, objective="log", fix={}, bounds={}, tie={})
    found: list[Fitted] = []
    for label, law in nested_laws(base).items():
        objective = build_objective(law, data, options)
        if freedom(objective, data) < 1:
            continue
        starts = min(_STARTS, options.starts) if found else options.starts
        try:
            objective, optimum = fit_optimum(law, data, replace(options, starts=starts))
        except ScalelabError:
            continue
        z = optimum.z
        for smaller in found:  # a larger model is never worse than one that it contains
            start = _embedded(smaller, law, objective)
            if start is not None:
                z = _better(objective, data, z, start)
        found.append(Fitted(label, law, objective, z))
    return found


def scores(models: list[Fitted], data: FitData) -> tuple[ModelScore, ...]:
    """Return the models with their AICc; the variance is a parameter too."""
    rows: list[tuple[str, int, float, float]] = []
    for model in models:
        n, k = data.n_configs, int(model.objective.free.sum())
        if n - k - 2 <= 0:
            continue
        square = _squares(model.objective, data, model.z)
        fitted = model.law.loss(model.objective.to_params(model.z), data.points)
        rmse = float(np.sqrt(np.average((fitted - data.loss) ** 2, weights=data.weight)))
        aicc = n * np.log(max(square / n, 1e-300)) + 2 * (k + 1) + 2 * (k + 1) * (k + 2) / (n - k - 2)
        rows.append((model.label, k, rmse, float(aicc)))
    best = min((row[3] for row in rows), default=0.0)
    return tuple(ModelScore(label, k, rmse, aicc, aicc - best) for label, k, rmse, aicc in rows)


def shared_test(small: Fitted, large: Fitted, shared: str, data: FitData, draws: int, seed: int) -> SharedTest:
    """Test a model against a larger one by the F of their squared log residuals, calibrated by bootstrap.

    Data sets are made by the smaller model with errors drawn from its residuals; both models are refitted to each.
    """
    start = _embedded(small, large.law, large.objective)
    assert start is not None
    rng = np.random.default_rng(seed)
    target = small.objective.to_target(data.loss)
    level = target + small.objective.residuals(small.z, target)
    made = level + residual_errors(small.objective, data, small.z, draws, rng)
    targets = np.concatenate([target[None], made])
    errors = np.full(len(start), 0.1)
    low = refit(small.objective, data, small.z, targets, data.weight, errors[: len(small.z)])[1]
    high = refit(large.objective, data, start, targets, data.weight, errors)[1]
    degrees = freedom(large.objective, data)
    more = len(start) - len(small.z)
    high = np.minimum(high, low)
    with np.errstate(divide="ignore"):
        F = (low - high) / more / (np.maximum(high, 1e-300) / degrees)
    finite = F[1:][np.isfinite(F[1:])]
    p = (1 + float((finite >= F[0]).sum())) / (1 + len(finite))
    return SharedTest(shared, float(F[0]), p, len(finite))


def _embedded(small: Fitted, law: RecipeLaw, objective: Objective) -> Array | None:
    """Return the optimum of a smaller model in the coordinates of a larger one; None if it does not contain it."""
    count = len(law.base.parameters)
    params = small.objective.to_params(small.z)
    by_name = {name: params[count + i] for i, group in enumerate(small.law.groups) for name in group}
    ratios = []
    for group in law.groups:
        wanted = {float(by_name.pop(name, 1.0)) for name in group}
        if len(wanted) > 1:
            return None
        ratios.append(wanted.pop())
    return None if by_name else objective.from_params(np.array([*params[:count], *ratios]))


def _better(objective: Objective, data: FitData, z: Array, start: Array) -> Array:
    target = objective.to_target(data.loss)
    errors = np.full(len(z), 1e-3)
    moved = refit(objective, data, start, target[None], data.weight, errors)[0][0]
    values = [float(objective.value(objective.residuals(point, target), data.weight)) for point in (z, moved)]
    return z if values[0] <= values[1] else moved


def _squares(objective: Objective, data: FitData, z: Array) -> float:
    return float((data.weight * objective.residuals(z, objective.to_target(data.loss)) ** 2).sum())
