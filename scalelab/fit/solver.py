"""Minimise the objective from many starts at once, then polish and check with SciPy.

Batched Levenberg–Marquardt on the iteratively reweighted form of the objective: all starts (or
all bootstrap resamples) take their step together, as array operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit.objective import Objective
from scalelab.laws.base import Array

STARTS = 300
_AGREE = 1e-3  # starts within this relative distance of the best objective agree with it
_SAME = 1e-6  # and within this one their objectives are the same
_MEMORY = 4_000_000  # numbers in the largest array of one batch
_STALLS = 8  # steps without gain until a point is at rest
_PERFECT = 1e-24  # objective a run below which only rounding errors are left


@dataclass(frozen=True)
class Optimum:
    """The best point found, in fitting coordinates, and how the starts fared."""

    z: Array  # [f]
    value: float
    agreement: float  # share of the starts that ended at this objective
    start_spread: float  # widest range of a fitting coordinate over the starts whose objective is the same
    moved: float  # largest change of a coordinate from the winning start to its end
    gradient_norm: float  # of the objective over its value; about 0 at an optimum


def draw_starts(objective: Objective, count: int, seed: int) -> Array:
    """`count` starting points [count, f] from the law's starting ranges, inside the bounds."""
    rng = np.random.default_rng(seed)
    lower, upper = objective.bounds()
    columns = []
    chosen = [p for p in objective.law.parameters if p.name not in objective.fixed]
    for parameter, least, most in zip(chosen, lower, upper, strict=True):
        low, high = np.log(parameter.start) if parameter.positive else parameter.start
        low, high = np.clip([low, high], least, most)
        if low == high and np.isfinite([least, most]).all():  # the user's bounds lie outside the usual range
            low, high = least, most
        columns.append(rng.uniform(low, high, count))
    return np.stack(columns, axis=-1)


def descend(
    objective: Objective, z: Array, target: Array, weights: Array, steps: int = 300, hold: int | None = None
) -> tuple[Array, Array]:
    """Levenberg–Marquardt from every row of z [s, f] towards a target [n] or [s, n].

    `weights` are [n] or [s, n]; the coordinate `hold` stays where it is. Returns the final points
    [s, f] and objective values [s]; a start outside the law's domain keeps an infinite value.
    """
    lower, upper = objective.bounds()
    z = np.clip(z, lower, upper)
    values = np.full(len(z), np.inf)
    n = target.shape[-1]
    size = max(1, _MEMORY // (n * max(1, z.shape[1])))
    for begin in range(0, len(z), size):
        part = slice(begin, begin + size)
        rows = len(z[part])
        goals, counts = (np.broadcast_to(a if a.ndim == 1 else a[part], (rows, n)) for a in (target, weights))
        z[part], values[part] = _descend(objective, z[part], goals, counts, (lower, upper), steps, hold)
    return z, values


@np.errstate(over="ignore", invalid="ignore")  # a start far out may overflow: it then takes no step
def _descend(
    objective: Objective,
    z: Array,
    target: Array,
    weights: Array,
    bounds: tuple[Array, Array],
    steps: int,
    hold: int | None,
) -> tuple[Array, Array]:
    moving = np.arange(z.shape[1]) != (-1 if hold is None else hold)
    low, high = (bound[moving] for bound in bounds)
    residuals, slopes = objective.evaluate(z, target)
    value = objective.value(residuals, weights)
    damping, growth = np.full(len(z), 1e-2), np.full(len(z), 2.0)
    stalled = np.zeros(len(z), dtype=int)
    usable = np.isfinite(value) & np.isfinite(slopes).all(axis=(1, 2))
    value = np.where(usable, value, np.inf)
    active = np.flatnonzero(usable)
    rest = _PERFECT * weights.sum(1)
    identity = np.eye(moving.sum())
    for _ in range(steps):
        active = active[(stalled[active] < _STALLS) & (value[active] > rest[active])]
        if not (len(active) and moving.any()):
            break
        part = active if len(active) < len(z) else slice(None)  # a slice spares the copies
        r, J = residuals[part], slopes[part] if hold is None else slopes[part][..., moving]
        weighted = J * (weights[part] * objective.influence(r))[..., None]
        gradient = (weighted * r[..., None]).sum(1)
        # A coordinate at a bound that the objective pushes it against stays out of the step: what
        # the others would do together with its move is not what they should do without.
        here = z[part][:, moving]
        against = ((here <= low) & (gradient > 0)) | ((here >= high) & (gradient < 0))
        if against.any():
            gradient = np.where(against, 0.0, gradient)
            J, weighted = (np.where(against[:, None], 0.0, a) for a in (J, weighted))
        normal = weighted.swapaxes(1, 2) @ J
        diagonal = np.einsum("sff->sf", normal)
        scale = np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300)
        damped = normal + (damping[active, None] * scale)[:, :, None] * identity
        trial = z[active]
        trial[:, moving] -= np.clip(_solve(damped, gradient), -3.0, 3.0)
        trial = np.clip(trial, *bounds)
        trial_residuals, trial_slopes = objective.evaluate(trial, target[part])
        trial_value = objective.value(trial_residuals, weights[part])
        better = (trial_value < value[active]) & np.isfinite(trial_slopes).all(axis=(1, 2))
        gained = better & ((value[active] - trial_value) > 1e-10 * value[active])
        rows = active[better]
        z[rows], value[rows] = trial[better], trial_value[better]
        residuals[rows], slopes[rows] = trial_residuals[better], trial_slopes[better]
        # Ever faster after rejections (Nielsen 1999), so that a start far out gets moving before it counts as at rest.
        damping[active] = np.clip(damping[active] * np.where(better, 0.2, growth[active]), 1e-12, 1e12)
        growth[active] = np.where(better, 2.0, growth[active] * 2)
        stalled[active] = np.where(gained, 0, stalled[active] + 1)
    return z, value


def _solve(matrices: Array, right: Array) -> Array:
    """Solve [s, f, f] x = [s, f]; where a matrix is singular, no step."""
    try:
        return np.asarray(np.linalg.solve(matrices, right[..., None])[..., 0], dtype=float)
    except np.linalg.LinAlgError:
        steps = np.zeros_like(right)
        for i, matrix in enumerate(matrices):
            if np.isfinite(matrix).all() and np.linalg.matrix_rank(matrix) == len(matrix):
                steps[i] = np.linalg.solve(matrix, right[i])
        return steps


def minimise(objective: Objective, target: Array, weights: Array, starts: int = STARTS, seed: int = 0) -> Optimum:
    """The best optimum from many starts, polished by SciPy's trust-region least squares.

    The polish is independent of the descent above and never makes the result worse. Raises
    `ScalelabError` if no start reaches a finite objective.
    """
    begin = draw_starts(objective, starts, seed)
    points, values = descend(objective, begin.copy(), target, weights)
    if not np.isfinite(values).any():
        held = ", ".join(f"{name} = {value:g}" for name, value in objective.fixed.items())
        raise ScalelabError(
            f"the law {objective.law.name!r} has no value at these N, P and D from any start"
            + (f" with {held}" if held else "; check that they are what they should be")
        )
    winner = int(np.argmin(values))
    best, value = _polish(objective, points[winner], float(values[winner]), target, weights)
    agree, same = (values <= value * (1 + close) + _PERFECT * weights.sum() for close in (_AGREE, _SAME))
    return Optimum(
        z=best,
        value=value,
        agreement=float(agree.mean()),
        start_spread=float(np.ptp(points[same], axis=0).max()) if same.any() else 0.0,
        moved=float(np.abs(best - begin[winner]).max()),
        gradient_norm=_gradient_norm(objective, best, target, weights, value),
    )


def _polish(objective: Objective, z: Array, value: float, target: Array, weights: Array) -> tuple[Array, float]:
    from scipy.optimize import least_squares  # late: a saved fit is read and asked without it

    lower, upper = objective.bounds()

    def rho(squares: Array) -> Array:
        """Value and two derivatives of twice our loss as a function of r², times the weights."""
        influence = objective.influence(np.sqrt(squares))
        inside = influence == 1
        with np.errstate(divide="ignore", invalid="ignore"):
            bend = np.where(inside, 0.0, -influence / (2 * squares))
        return weights * np.stack([2 * _each(objective, np.sqrt(squares)), influence, bend])

    with np.errstate(over="ignore", invalid="ignore"):  # a step too far, which SciPy takes back
        polished = least_squares(
            lambda p: objective.residuals(p, target),
            z,
            jac=lambda p: objective.evaluate(p, target)[1],  # pyright: ignore[reportArgumentType]  # stubs know only names
            bounds=(lower, upper),
            loss=rho,  # pyright: ignore[reportArgumentType]
            x_scale="jac",
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=200,
        )
    found = float(objective.value(objective.residuals(polished.x, target), weights))
    return (polished.x, found) if found <= value else (z, value)


def _each(objective: Objective, residuals: Array) -> Array:
    return objective.value(residuals[:, None], np.ones(1))


def _gradient_norm(objective: Objective, z: Array, target: Array, weights: Array, value: float) -> float:
    """Largest relative change of the objective per unit of a scaled coordinate, off the bounds."""
    residuals, J = objective.evaluate(z, target)
    gradient = (weights * objective.influence(residuals) * residuals) @ J
    size = np.sqrt((weights[:, None] * J**2).sum(0))
    scaled = np.abs(gradient / np.where(size > 0, size, 1.0))[inside_bounds(objective, z)]
    return float(scaled.max(initial=0.0) / np.sqrt(max(value, 1e-300)))


def inside_bounds(objective: Objective, z: Array) -> np.ndarray:
    """Which coordinates of z [f] are off their bounds, bool [f]."""
    lower, upper = objective.bounds()
    return (z > lower + 1e-6) & (z < upper - 1e-6)
