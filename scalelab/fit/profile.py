"""Profile likelihood: the rise of the objective as one parameter is held away from its optimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.errors import UsageError
from scalelab.fit.bootstrap import resample
from scalelab.fit.data import FitData
from scalelab.fit.descent import descend
from scalelab.fit.objective import Objective
from scalelab.fit.options import build_objective
from scalelab.fit.result import FitResult
from scalelab.laws.base import Array

_HALF = 30  # grid points on each side of the optimum
_CALIBRATION = 400  # bootstrap refits that set the threshold
_DOUBLINGS = 5  # of the grid's width, before an end is left open


@dataclass(frozen=True)
class Profile:
    """The rise of the objective above its minimum along one parameter, the others refitted.

    `interval` holds the values where the rise reaches `threshold`; None for an open end, where the
    rise stays below it up to the bounds or the end of the grid.
    """

    name: str
    level: float
    values: tuple[float, ...]
    rise: tuple[float, ...]
    threshold: float
    interval: tuple[float | None, float | None]


def profile(objective: Objective, data: FitData, z: Array, name: str, level: float = 0.95, seed: int = 0) -> Profile:
    """Return the profile of parameter `name` around the optimum z [f].

    The threshold is the `level` quantile of the same rise in bootstrap data sets, whose true
    parameters are those at z. Unlike the χ² threshold, it is also valid for objectives that are not a
    likelihood, such as Huber's. Raises `UsageError` if the parameter was not fitted.
    """
    if name not in objective.free_names:
        raise UsageError(f"no profile of {name}: it is fixed, or not a parameter of the law")
    index = objective.free_names.index(name)
    target, weights = objective.to_target(data.loss), data.weight
    least = float(objective.value(objective.residuals(z, target), weights))
    targets, resampled_weights = resample(objective, data, z, "residual", _CALIBRATION, np.random.default_rng(seed))
    begin = np.tile(z, (_CALIBRATION, 1))
    free_points, free_values = descend(objective, begin, targets, resampled_weights)
    held_values = descend(objective, begin, targets, resampled_weights, hold=index)[1]
    threshold = float(np.quantile(held_values - free_values, level))

    lower, upper = (bound[index] for bound in objective.bounds())
    width = 3 * float(np.ptp(np.quantile(free_points[:, index], [0.05, 0.95]))) + 1e-9
    widest = width * 2**_DOUBLINGS
    while True:
        low, high = max(z[index] - width, lower), min(z[index] + width, upper)
        grid = np.concatenate([np.linspace(low, z[index], _HALF + 1), np.linspace(z[index], high, _HALF + 1)[1:]])
        rise = _rises(objective, z, index, grid, target, weights, free_points) - least
        ends = (_crossing(grid, rise, threshold, -1), _crossing(grid, rise, threshold, +1))
        closed = [end is not None or edge in (lower, upper) for end, edge in zip(ends, (low, high), strict=True)]
        if all(closed) or width > widest:
            break
        width *= 2
    natural = _natural(objective, index, grid)
    low_end, high_end = (None if end is None else float(_natural(objective, index, np.array(end))) for end in ends)
    return Profile(
        name=name,
        level=level,
        values=tuple(natural.tolist()),
        rise=tuple(np.maximum(rise, 0.0).tolist()),
        threshold=threshold,
        interval=(low_end, high_end),
    )


def profile_fit(fit: FitResult, name: str, level: float = 0.95) -> Profile | None:
    """Return the profile of a parameter of a fit; None if it was not fitted or has no interval."""
    if name in fit.fixed or not fit.draws:
        return None
    objective = build_objective(fit.law, fit.data, fit.options)
    z = objective.from_params(np.array(fit.params))
    return profile(objective, fit.data, z, name, level, fit.options.seed)


def _rises(
    objective: Objective, z: Array, index: int, grid: Array, target: Array, weights: Array, cloud: Array
) -> Array:
    """Return the minimal objective [g] with coordinate `index` at each value of grid [g].

    The other coordinates start at the optimum and at their regression on the held one over the
    bootstrap points `cloud`, then at the results of the neighbours, which follows a long valley.
    """
    spread = cloud - cloud.mean(0)
    slope = spread.T @ spread[:, index] / max(float(spread[:, index] @ spread[:, index]), 1e-300)
    best_points, best = np.tile(z, (len(grid), 1)), np.full(len(grid), np.inf)
    guesses = [np.tile(z, (len(grid), 1)), z + np.outer(grid - z[index], slope)]
    for _ in range(3):
        for guess in guesses:
            guess[:, index] = grid
            points, values = descend(objective, guess, target, weights, hold=index)
            lower = values < best
            best_points[lower], best[lower] = points[lower], values[lower]
        guesses = [np.roll(best_points, 1, axis=0), np.roll(best_points, -1, axis=0)]
    return best


def _crossing(grid: Array, rise: Array, threshold: float, side: int) -> float | None:
    """Return where the rise first reaches the threshold on one side, by linear interpolation of its square root."""
    order = range(_HALF, -1, -1) if side < 0 else range(_HALF, 2 * _HALF + 1)
    before = _HALF
    for i in order:
        if rise[i] >= threshold:
            if i == before:
                return float(grid[i])
            a, b, t = (np.sqrt(max(v, 0.0)) for v in (rise[before], rise[i], threshold))
            return float(grid[before] + (grid[i] - grid[before]) * ((t - a) / (b - a) if b > a else 1.0))
        before = i
    return None


def _natural(objective: Objective, free_index: int, values: Array) -> Array:
    index = objective.law.names.index(objective.free_names[free_index])
    parameter = objective.law.parameters[index]
    return (np.exp(values) if parameter.positive else values) * objective.scale[index]
