"""Sensitivity of a fit: the local covariance of the parameters, and the influence of single runs."""

from __future__ import annotations

import numpy as np

from scalelab.fit.bootstrap import freedom, leverages
from scalelab.fit.data import FitData
from scalelab.fit.objective import Objective
from scalelab.fit.screen import FEW_ROWS
from scalelab.fit.solver import inside_bounds
from scalelab.fit.warm import refit
from scalelab.laws.base import Array

MAX_CONDITION = 1e6  # of the scaled slopes; beyond it a combination of parameters is not determined
_SINGULAR = 1e16  # largest condition number that double precision resolves
_NO_EFFECT = 1e-14  # smallest relative effect of a parameter on the losses above rounding errors
_REFITS, _LEAST_REFITS = 20, 3  # leave-one-out refits, for few rows and for many: the runs with the largest influence


def condition_number(objective: Objective, data: FitData, z: Array) -> float:
    """Return the condition number of the scaled, weighted slopes at z [f], over parameters off their bounds."""
    _, slopes, length, felt = _weighted_slopes(objective, data, z)
    inside = inside_bounds(objective, z)
    if not inside.any():
        return 1.0
    if not felt[inside].all():
        return _SINGULAR
    slopes = slopes[:, inside] / length[inside]
    singular = np.linalg.svd(slopes, compute_uv=False)
    if len(singular) < slopes.shape[1]:
        return _SINGULAR
    return float(singular[0] / max(singular[-1], singular[0] / _SINGULAR))


def covariance(objective: Objective, data: FitData, z: Array) -> Array:
    """Return the linear approximation s²(J'WJ)⁻¹ in fitting coordinates, [f, f]; s² = Σ w r̄² / (c − f).

    The sum is over the mean residuals r̄ of c configurations, since repeated seeds are not evidence
    about the law's form. Rows of parameters at a bound or without effect are 0; all are 0 without
    degrees of freedom.
    """
    result = np.zeros((len(z), len(z)))
    degrees = freedom(objective, data)
    residuals, slopes, length, felt = _weighted_slopes(objective, data, z)
    inside = inside_bounds(objective, z) & felt
    if degrees < 1 or not inside.any():
        return result
    weight = np.bincount(data.config, data.weight)
    means = np.bincount(data.config, data.weight * residuals) / weight
    variance = float((weight * means**2).sum()) / degrees
    slopes, length = slopes[:, inside] / length[inside], length[inside]
    inverse = np.linalg.pinv(slopes.T @ slopes, rcond=1e-15, hermitian=True)
    if data.run is not None:  # rows of a run are correlated: use the sandwich estimator by run
        scores = slopes * (np.sqrt(data.weight) * residuals)[:, None]
        sums = np.stack([np.bincount(data.config, column) for column in scores.T], axis=1)
        middle = sums.T @ sums * data.n_configs / degrees
        result[np.ix_(inside, inside)] = inverse @ middle @ inverse / np.outer(length, length)
        return result
    result[np.ix_(inside, inside)] = variance * inverse / np.outer(length, length)
    return result


def _weighted_slopes(objective: Objective, data: FitData, z: Array) -> tuple[Array, Array, Array, np.ndarray]:
    """Return residuals [n], slopes times √weight [n, f], their lengths [f], and which have an effect, bool [f]."""
    residuals, slopes = objective.evaluate(z, objective.to_target(data.loss))
    slopes = slopes * np.sqrt(data.weight)[:, None]
    length = np.sqrt((slopes**2).sum(0))
    size = data.loss if objective.kind == "raw" else np.ones_like(data.loss)
    return residuals, slopes, length, length > _NO_EFFECT * np.sqrt((data.weight * size**2).sum())


def natural_covariance(objective: Objective, z: Array, local: Array) -> Array:
    """Return `local` [f, f] in the parameters' own units, [k, k]; rows of fixed parameters are 0."""
    params = objective.to_params(z)[objective.free]
    positive = np.array([p.positive for p in objective.law.parameters])[objective.free]
    chain = np.where(positive, params, objective.scale[objective.free])
    result = np.zeros((len(objective.free), len(objective.free)))
    result[np.ix_(objective.free, objective.free)] = local * np.outer(chain, chain)
    return result


def leave_one_out(objective: Objective, data: FitData, z: Array, local: Array) -> tuple[int, str, float] | None:
    """Return the run whose removal moves a parameter most: (run, parameter, shift over its standard error).

    The standard error is linear, with the variance of the other runs, as in DFBETAS (Belsley et al.
    1980), since the run itself may be the reason for a large variance. Runs are ranked by an
    approximation to the shift; then the law is refitted without each of the first 20. None if no run
    can be left out.
    """
    errors = np.sqrt(np.diag(local))
    if freedom(objective, data) < 2 or not (errors > 0).any():
        return None
    target = objective.to_target(data.loss)
    residuals, slopes = objective.evaluate(z, target)
    pull = data.weight * objective.influence(residuals) * residuals
    steepness = leverages(slopes * np.sqrt(data.weight)[:, None])
    unit = np.arange(len(data.loss)) if data.run is None else data.config  # rows that are left out together
    scores = slopes @ local * (pull / (1 - np.minimum(steepness, 0.99)))[:, None]
    scores = np.abs(np.stack([np.bincount(unit, column) for column in scores.T], axis=1))
    usable = errors > 0
    refits = max(_LEAST_REFITS, _REFITS * FEW_ROWS // max(FEW_ROWS, len(data.loss)))
    ranked = np.argsort(-(scores[:, usable] / errors[usable]).max(1), kind="stable")[:refits]
    weights = np.tile(data.weight, (len(ranked), 1))
    weights[ranked[:, None] == unit] = 0.0
    points = refit(objective, data, z, target, weights, errors)[0]
    degrees = len(data.loss) - len(z)  # of all runs, in numerator and denominator
    variance = (weights * objective.residuals(points, target) ** 2).sum(1) / max(degrees - 1, 1)
    ratio = np.sqrt(variance / max(float((data.weight * residuals**2).sum()) / degrees, 1e-300))
    own_errors = np.where(usable, errors, 1.0) * np.maximum(ratio, 1e-6)[:, None]
    shifts = np.where(usable, np.abs(points - z) / own_errors, 0.0)
    i, j = np.unravel_index(int(np.argmax(shifts)), shifts.shape)
    return int(np.flatnonzero(unit == ranked[i])[0]), objective.free_names[j], float(shifts[i, j])
