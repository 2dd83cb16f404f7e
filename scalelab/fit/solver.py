"""Minimise the objective from many starts at once, then polish and check with SciPy.

Batched Levenberg–Marquardt on the iteratively reweighted form of the Huber objective: all
starts (or all bootstrap resamples) take their step together, as array operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from scalelab.errors import ScalelabError
from scalelab.fit.objective import Objective
from scalelab.laws.base import Array

STARTS = 300
_AGREE = 1e-3  # starts within this relative distance of the best objective agree with it


@dataclass(frozen=True)
class Optimum:
    """The best point found, in fitting coordinates, and how the starts fared."""

    z: Array  # [f]
    value: float
    agreement: float  # share of the starts that ended at this objective
    gradient_norm: float  # of the objective over its value; about 0 at an optimum


def draw_starts(objective: Objective, log_loss: Array, count: int, seed: int) -> Array:
    """`count` starting points [count, f] from the law's starting ranges.

    E stays below the smallest observed loss, which no valid fit can cross by much.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for parameter, free in zip(objective.law.parameters, objective.free, strict=True):
        if not free:
            continue
        low, high = parameter.start
        if parameter.name == "E":
            smallest = float(np.exp(log_loss.min()))
            low, high = 0.05 * smallest, 0.98 * smallest
        if parameter.positive:
            low, high = np.log(low), np.log(high)
        columns.append(rng.uniform(low, high, count))
    return np.stack(columns, axis=-1)


def descend(objective: Objective, z: Array, log_loss: Array, steps: int = 300) -> tuple[Array, Array]:
    """Levenberg–Marquardt from every row of z [s, f] towards log losses [n] or [s, n].

    Returns the final points [s, f] and objective values [s]; a start outside the law's domain
    keeps an infinite value.
    """
    lower, upper = objective.bounds()
    z = np.clip(z, lower, upper)
    log_loss = np.broadcast_to(log_loss, (len(z), log_loss.shape[-1]))
    residuals = objective.residuals(z, log_loss)
    value = objective.value(residuals)
    damping = np.full(len(z), 1e-2)
    active = np.flatnonzero(np.isfinite(value))
    stalled = np.zeros(len(z), dtype=int)
    for _ in range(steps):
        if not len(active):
            break
        r, J = residuals[active], objective.jacobian(z[active])
        with np.errstate(divide="ignore"):
            weights = np.minimum(1.0, objective.delta / np.abs(r))
        gradient = np.einsum("sn,snf->sf", weights * r, J)
        normal = np.einsum("sn,snf,sng->sfg", weights, J, J)
        diagonal = np.einsum("sff->sf", normal)
        scale = np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300)
        damped = normal + damping[active, None, None] * scale[:, :, None] * np.eye(z.shape[1])
        step = np.linalg.solve(damped, gradient[..., None])[..., 0]
        trial = np.clip(z[active] - np.clip(step, -3.0, 3.0), lower, upper)
        trial_residuals = objective.residuals(trial, log_loss[active])
        trial_value = objective.value(trial_residuals)
        better = trial_value < value[active]
        gained = (value[active] - trial_value) > 1e-10 * value[active]
        rows = active[better]
        z[rows], residuals[rows], value[rows] = trial[better], trial_residuals[better], trial_value[better]
        damping[active] = np.clip(np.where(better, damping[active] / 5, damping[active] * 4), 1e-12, 1e12)
        stalled[active] = np.where(gained, 0, stalled[active] + 1)
        active = active[stalled[active] < 12]
    return z, value


def minimise(objective: Objective, log_loss: Array, starts: int = STARTS, seed: int = 0) -> Optimum:
    """The best optimum from many starts, polished by SciPy's trust-region least squares.

    The polish is independent of the descent above and never makes the result worse. Raises
    `ScalelabError` if no start reaches a finite objective.
    """
    points, values = descend(objective, draw_starts(objective, log_loss, starts, seed), log_loss)
    if not np.isfinite(values).any():
        raise ScalelabError("no start reached a valid fit; check that N, P and losses are what they should be")
    best = points[int(np.argmin(values))]
    polished = least_squares(
        lambda z: objective.residuals(z, log_loss),
        best,
        jac=objective.jacobian,  # pyright: ignore[reportArgumentType]  # the stubs know only names
        bounds=objective.bounds(),
        loss="huber",
        f_scale=objective.delta,
        x_scale="jac",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
        max_nfev=200,
    )
    polished_value = float(objective.value(objective.residuals(polished.x, log_loss)))
    if polished_value <= values.min():
        best, value = polished.x, polished_value
    else:
        value = float(values.min())
    agreement = float(np.mean(values <= value * (1 + _AGREE) + 1e-15))
    return Optimum(best, value, agreement, _gradient_norm(objective, best, log_loss, value))


def _gradient_norm(objective: Objective, z: Array, log_loss: Array, value: float) -> float:
    """Largest relative change of the objective per unit of a scaled coordinate, off the bounds."""
    residuals, J = objective.residuals(z, log_loss), objective.jacobian(z)
    gradient = np.clip(residuals, -objective.delta, objective.delta) @ J
    lower, upper = objective.bounds()
    inside = (z > lower) & (z < upper)
    size = np.sqrt((J**2).sum(0))
    scaled = np.abs(gradient / np.where(size > 0, size, 1.0))[inside]
    return float(scaled.max(initial=0.0) / np.sqrt(max(value, 1e-300)))
