"""Minimise the objective from many starts at once, then polish and check with SciPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit.descent import PERFECT, STEPS
from scalelab.fit.objective import Objective
from scalelab.fit.screen import screen
from scalelab.laws.base import Array

STARTS = 300
_AGREE = 1e-3  # relative difference of objectives up to which a start agrees with the best
_SAME = 1e-6  # and up to which two objectives are the same


@dataclass(frozen=True)
class Optimum:
    """The best point found, in fitting coordinates, and statistics of the starts."""

    z: Array  # [f]
    value: float
    agreement: float  # share of starts that reached this objective
    spread: Array  # range of each fitting coordinate over the starts with the same objective, [f]
    moved: float  # largest change of a coordinate from the winning start to its end
    gradient_norm: float  # relative to the objective; about 0 at an optimum
    idle: np.ndarray  # coordinates whose lower bound would be as good, bool [f]

    @property
    def start_spread(self) -> float:
        """Largest range of a fitting coordinate over the starts with the same objective."""
        return float(self.spread.max(initial=0.0))


def draw_starts(objective: Objective, count: int, seed: int) -> Array:
    """Return random starting points [count, f] from the law's starting ranges, within the bounds."""
    rng = np.random.default_rng(seed)
    lower, upper = objective.bounds()
    columns = []
    chosen = [p for p in objective.law.parameters if p.name not in objective.fixed]
    for parameter, least, most in zip(chosen, lower, upper, strict=True):
        low, high = np.log(parameter.start) if parameter.positive else parameter.start
        low, high = np.clip([low, high], least, most)
        if low == high and np.isfinite([least, most]).all():  # the user's bounds are outside the starting range
            low, high = least, most
        columns.append(rng.uniform(low, high, count))
    return np.stack(columns, axis=-1)


def minimise(
    objective: Objective, target: Array, weights: Array, starts: int = STARTS, seed: int = 0, steps: int = STEPS
) -> Optimum:
    """Return the best optimum from many starts, polished by SciPy's trust-region least squares.

    A start ends after at most `steps` steps. The polish is independent of the descent and never makes the result worse.

    Raises:
        ScalelabError: no start reaches a finite objective.
    """
    begin = draw_starts(objective, starts, seed)
    found = screen(objective, begin, target, weights, steps)
    points, values = found.points, found.values
    if not np.isfinite(values).any():
        held = ", ".join(f"{name} = {value:g}" for name, value in objective.fixed.items())
        raise ScalelabError(
            f"the law {objective.law.name!r} is undefined at these N, P and D from every start"
            + (f" with {held}" if held else "; check their values and units")
        )
    winner = int(np.argmin(values))
    best, value = _polish(objective, points[winner], float(values[winner]), target, weights)
    agree, same = (values <= value * (1 + close) + PERFECT * weights.sum() for close in (_AGREE, _SAME))
    first = int(np.flatnonzero(found.basin == winner)[0])
    return Optimum(
        z=best,
        value=value,
        agreement=float((agree[found.basin] & (found.basin >= 0)).mean()),
        spread=np.ptp(points[same], axis=0) if same.any() else np.zeros(len(best)),
        moved=float(np.abs(best - begin[first]).max()),
        gradient_norm=_gradient_norm(objective, best, target, weights, value),
        idle=_idle(objective, best, value, target, weights),
    )


def _idle(objective: Objective, z: Array, value: float, target: Array, weights: Array) -> np.ndarray:
    """Return a mask [f] of loss floors that could as well be zero, and whose value is therefore arbitrary."""
    found = np.zeros(len(z), dtype=bool)
    for i, name in enumerate(objective.free_names):
        parameter = objective.law.parameters[objective.law.names.index(name)]
        if parameter.positive and parameter.relative_to == "loss":
            trial = z.copy()
            trial[i] = objective.bounds()[0][i]
            found[i] = objective.value(objective.residuals(trial, target), weights) <= value * (1 + _SAME)
    return found


def _polish(objective: Objective, z: Array, value: float, target: Array, weights: Array) -> tuple[Array, float]:
    from scipy.optimize import least_squares  # late: using a saved fit does not need it

    lower, upper = objective.bounds()
    counted = weights  # SciPy sees only squares, so the side of each residual is kept fixed
    if objective.kind == "asymmetric":
        counted = weights * objective.side(objective.residuals(z, target))

    def rho(squares: Array) -> Array:
        """Return value and two derivatives by r² of twice the objective's loss, times the weights, [3, n]."""
        influence = np.minimum(objective.influence(np.sqrt(squares)), 1.0)
        inside = influence == 1
        with np.errstate(divide="ignore", invalid="ignore"):
            bend = np.where(inside, 0.0, -influence / (2 * squares))
        return counted * np.stack([2 * _each(objective, np.sqrt(squares)), influence, bend])

    with np.errstate(over="ignore", invalid="ignore"):  # SciPy takes back steps that go too far
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
    """Return the largest relative change of the objective per unit of a scaled coordinate off its bounds."""
    residuals, J = objective.evaluate(z, target)
    gradient = (weights * objective.influence(residuals) * residuals) @ J
    size = np.sqrt((weights[:, None] * J**2).sum(0))
    scaled = np.abs(gradient / np.where(size > 0, size, 1.0))[inside_bounds(objective, z)]
    return float(scaled.max(initial=0.0) / np.sqrt(max(value, 1e-300)))


def inside_bounds(objective: Objective, z: Array) -> np.ndarray:
    """Return a mask [f] of the coordinates of z [f] that are off their bounds."""
    lower, upper = objective.bounds()
    return (z > lower + 1e-6) & (z < upper - 1e-6)
