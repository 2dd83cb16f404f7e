"""Levenberg–Marquardt on the iteratively reweighted form of the objective, for many points at once.

All starts (or all bootstrap resamples) step together, as array operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.fit.objective import Objective
from scalelab.laws.base import Array

PERFECT = 1e-24  # objective per run below which only rounding errors remain
STEPS = 300  # most steps of a descent
GAIN = 1e-10  # relative decrease of the objective below which a step is no improvement
_CACHED = 2**17  # numbers in the largest array of one batch, so that it fits the processor's cache
_COMPACT = 0.8  # if a smaller share of a batch still moves, points at rest are taken out of it
_STALLS = 8  # steps without improvement after which a point is at rest


@dataclass(frozen=True)
class Warm:
    """Settings for refits from a point close to the optimum.

    `width` smooths the curvature (`Objective.curvature`), so that steps are Newton steps; a row is at rest when a step
    moves no coordinate by more than `close` [f].
    """

    width: float
    close: Array


def descend(
    objective: Objective,
    z: Array,
    target: Array,
    weights: Array,
    steps: int = STEPS,
    hold: int | None = None,
    warm: Warm | None = None,
    gain: float = GAIN,
) -> tuple[Array, Array]:
    """Run Levenberg–Marquardt from every row of z [s, f] towards a target [n] or [s, n].

    `weights` are [n] or [s, n]; the coordinate `hold` is kept fixed; `warm` is for starts close to the optima. A
    point is at rest after several steps that lower its objective by less than the share `gain`.

    Returns:
        The final points [s, f] and objective values [s], infinite for a start outside the law's domain.
    """
    lower, upper = objective.bounds()
    z = np.clip(z, lower, upper)
    values = np.full(len(z), np.inf)
    n = target.shape[-1]
    size = max(1, _CACHED // (n * max(1, z.shape[1])))
    for begin in range(0, len(z), size):
        part = slice(begin, begin + size)
        rows = len(z[part])
        goals, counts = (np.broadcast_to(a if a.ndim == 1 else a[part], (rows, n)) for a in (target, weights))
        z[part], values[part] = _descend(objective, z[part], goals, counts, (lower, upper), steps, hold, warm, gain)
    return z, values


@np.errstate(over="ignore", invalid="ignore")  # a start far out may overflow: it then takes no step
def _descend(
    objective: Objective,
    points: Array,
    target: Array,
    weights: Array,
    bounds: tuple[Array, Array],
    steps: int,
    hold: int | None,
    warm: Warm | None,
    gain: float,
) -> tuple[Array, Array]:
    moving = np.arange(points.shape[1]) != (-1 if hold is None else hold)
    low, high = (bound[moving] for bound in bounds)
    r, J = objective.evaluate(points, target)
    values = objective.value(r, weights)
    usable = np.isfinite(values) & np.isfinite(J).all(axis=(1, 2))
    values = np.where(usable, values, np.inf)
    # Only moving points are computed: the arrays below hold the rows `active` of the batch.
    active = np.arange(len(points))
    z, value = points.copy(), values.copy()
    damping, growth = np.full(len(z), 1e-4 if warm else 1e-2), np.full(len(z), 2.0)
    stalled = np.where(usable, 0, _STALLS)
    rest = PERFECT * weights.sum(1)
    identity = np.eye(moving.sum())
    for _ in range(steps):
        on = (stalled < _STALLS) & (value > rest)
        if not (on.any() and moving.any()):
            break
        if on.mean() < _COMPACT:
            points[active], values[active] = z, value
            active, stalled = active[on], stalled[on]
            z, value, r, J, target, weights, damping, growth, rest = (
                a[on] for a in (z, value, r, J, target, weights, damping, growth, rest)
            )
            on = np.ones(len(z), dtype=bool)
        slopes = J if hold is None else J[..., moving]
        pull = weights * objective.influence(r)
        gradient = ((pull * r)[:, None, :] @ slopes)[:, 0, :]
        # A coordinate that the objective pushes against its bound is left out of the step, so that the
        # others do not move as if it could move too.
        here = z[:, moving]
        against = ((here <= low) & (gradient > 0)) | ((here >= high) & (gradient < 0))
        if against.any():
            gradient = np.where(against, 0.0, gradient)
            slopes = np.where(against[:, None], 0.0, slopes)
        bend = weights * objective.curvature(r, warm.width) if warm else pull
        normal = (slopes * bend[..., None]).swapaxes(1, 2) @ slopes
        diagonal = np.einsum("sff->sf", normal)
        scale = np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300)
        damped = normal + (damping[:, None] * scale)[:, :, None] * identity
        step = np.clip(_solve(damped, gradient), -3.0, 3.0)
        trial = z.copy()
        trial[:, moving] -= step
        trial = np.clip(trial, *bounds)
        trial_r, trial_J = objective.evaluate(trial, target)
        trial_value = objective.value(trial_r, weights)
        better = on & (trial_value < value) & np.isfinite(trial_J).all(axis=(1, 2))
        gained = better & ((value - trial_value) > gain * value)
        if warm:
            gained &= (np.abs(step) > warm.close[moving]).any(axis=1)
            stalled = np.where(better & ~gained, _STALLS, stalled)
        if better.all():
            z, value, r, J = trial, trial_value, trial_r, trial_J
        else:
            for kept, new in ((z, trial), (value, trial_value), (r, trial_r), (J, trial_J)):
                kept[better] = new[better]
        # Damping grows faster after each rejection (Nielsen 1999), so that a distant start moves before it stalls.
        damping = np.clip(damping * np.where(better, 0.2, growth), 1e-12, 1e12)
        growth = np.where(better, 2.0, growth * 2)
        stalled = np.where(gained, 0, stalled + 1)
    points[active], values[active] = z, value
    return points, values


def _solve(matrices: Array, right: Array) -> Array:
    """Return the solutions [s, f] of matrices [s, f, f] and right [s, f]; 0 if a matrix is singular."""
    try:
        return np.asarray(np.linalg.solve(matrices, right[..., None])[..., 0], dtype=float)
    except np.linalg.LinAlgError:
        steps = np.zeros_like(right)
        for i, matrix in enumerate(matrices):
            if np.isfinite(matrix).all() and np.linalg.matrix_rank(matrix) == len(matrix):
                steps[i] = np.linalg.solve(matrix, right[i])
        return steps
