"""Profile likelihood: how much worse the fit gets when one parameter is held off its best value."""

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
_CALIBRATION = 400  # bootstrap refits behind the threshold
_DOUBLINGS = 5  # of the grid's width, until both ends are found or left open


@dataclass(frozen=True)
class Profile:
    """The objective's rise over its minimum along one parameter, the others refitted.

    `interval` holds the values where the rise reaches `threshold`; None for an end that it does
    not reach, as far as the bounds or the grid go: that end is open.
    """

    name: str
    level: float
    values: tuple[float, ...]
    rise: tuple[float, ...]
    threshold: float
    interval: tuple[float | None, float | None]


def profile(objective: Objective, data: FitData, z: Array, name: str, level: float = 0.95, seed: int = 0) -> Profile:
    """The profile of parameter `name` around the optimum z [f].

    The threshold is the `level` quantile of the same rise in bootstrap data sets, whose true
    parameters are those at z: right for objectives that are no likelihood, such as Huber's, where
    the χ² of a likelihood would not be. Raises `UsageError` if the parameter was not fitted.
    """
    if name not in objective.free_names:
        raise UsageError(f"no profile of {name}: it was not fitted")
    place = objective.free_names.index(name)
    target, weights = objective.to_target(data.loss), data.weight
    least = float(objective.value(objective.residuals(z, target), weights))
    targets, resampled_weights = resample(objective, data, z, "residual", _CALIBRATION, np.random.default_rng(seed))
    begin = np.tile(z, (_CALIBRATION, 1))
    free_points, free_values = descend(objective, begin, targets, resampled_weights)
    held_values = descend(objective, begin, targets, resampled_weights, hold=place)[1]
    threshold = float(np.quantile(held_values - free_values, level))

    lower, upper = (bound[place] for bound in objective.bounds())
    width = 3 * float(np.ptp(np.quantile(free_points[:, place], [0.05, 0.95]))) + 1e-9
    widest = width * 2**_DOUBLINGS
    while True:
        low, high = max(z[place] - width, lower), min(z[place] + width, upper)
        grid = np.concatenate([np.linspace(low, z[place], _HALF + 1), np.linspace(z[place], high, _HALF + 1)[1:]])
        rise = _rises(objective, z, place, grid, target, weights, free_points) - least
        ends = (_crossing(grid, rise, threshold, -1), _crossing(grid, rise, threshold, +1))
        closed = [end is not None or edge in (lower, upper) for end, edge in zip(ends, (low, high), strict=True)]
        if all(closed) or width > widest:
            break
        width *= 2
    natural = _natural(objective, place, grid)
    low_end, high_end = (None if end is None else float(_natural(objective, place, np.array(end))) for end in ends)
    return Profile(
        name=name,
        level=level,
        values=tuple(natural.tolist()),
        rise=tuple(np.maximum(rise, 0.0).tolist()),
        threshold=threshold,
        interval=(low_end, high_end),
    )


def profile_fit(fit: FitResult, name: str, level: float = 0.95) -> Profile | None:
    """The profile of a parameter of a finished fit; None if it was not fitted or has no interval."""
    if name in fit.fixed or not fit.draws:
        return None
    objective = build_objective(fit.law, fit.data, fit.options)
    z = objective.from_params(np.array(fit.params))
    return profile(objective, fit.data, z, name, level, fit.options.seed)


def _rises(
    objective: Objective, z: Array, place: int, grid: Array, target: Array, weights: Array, cloud: Array
) -> Array:
    """The least objective [g] with coordinate `place` at each value of grid [g].

    Started from the optimum's other coordinates and from where the bootstrap's regression on the
    held one puts them, then again from the neighbour's result, so that a long valley is followed.
    """
    spread = cloud - cloud.mean(0)
    slope = spread.T @ spread[:, place] / max(float(spread[:, place] @ spread[:, place]), 1e-300)
    best_points, best = np.tile(z, (len(grid), 1)), np.full(len(grid), np.inf)
    guesses = [np.tile(z, (len(grid), 1)), z + np.outer(grid - z[place], slope)]
    for _ in range(3):
        for guess in guesses:
            guess[:, place] = grid
            points, values = descend(objective, guess, target, weights, hold=place)
            lower = values < best
            best_points[lower], best[lower] = points[lower], values[lower]
        guesses = [np.roll(best_points, 1, axis=0), np.roll(best_points, -1, axis=0)]
    return best


def _crossing(grid: Array, rise: Array, threshold: float, side: int) -> float | None:
    """Find where the rise first reaches the threshold on one side; its root is about straight there."""
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


def _natural(objective: Objective, place: int, values: Array) -> Array:
    name = objective.free_names[place]
    index = objective.law.names.index(name)
    parameter = objective.law.parameters[index]
    return (np.exp(values) if parameter.positive else values) * objective.scale[index]
