"""Minimise the objective from many starts at once, then polish and check with SciPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit.descent import PERFECT
from scalelab.fit.objective import Objective
from scalelab.fit.screen import screen
from scalelab.laws.base import Array

STARTS = 300
_AGREE = 1e-3  # starts within this relative distance of the best objective agree with it
_SAME = 1e-6  # and within this one their objectives are the same


@dataclass(frozen=True)
class Optimum:
    """The best point found, in fitting coordinates, and how the starts fared."""

    z: Array  # [f]
    value: float
    agreement: float  # share of the starts that ended at this objective
    spread: Array  # range of each fitting coordinate over the starts whose objective is the same, [f]
    moved: float  # largest change of a coordinate from the winning start to its end
    gradient_norm: float  # of the objective over its value; about 0 at an optimum
    idle: np.ndarray  # coordinates that might as well be at their lower bound, bool [f]

    @property
    def start_spread(self) -> float:
        return float(self.spread.max(initial=0.0))


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


def minimise(objective: Objective, target: Array, weights: Array, starts: int = STARTS, seed: int = 0) -> Optimum:
    """The best optimum from many starts, polished by SciPy's trust-region least squares.

    The polish is independent of the descent above and never makes the result worse. Raises
    `ScalelabError` if no start reaches a finite objective.
    """
    begin = draw_starts(objective, starts, seed)
    found = screen(objective, begin, target, weights)
    points, values = found.points, found.values
    if not np.isfinite(values).any():
        held = ", ".join(f"{name} = {value:g}" for name, value in objective.fixed.items())
        raise ScalelabError(
            f"the law {objective.law.name!r} has no value at these N, P and D from any start"
            + (f" with {held}" if held else "; check that they are what they should be")
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
    """Mask the coordinates that are a floor that might as well be nothing, bool [f]: it ends anywhere on its way."""
    found = np.zeros(len(z), dtype=bool)
    for i, name in enumerate(objective.free_names):
        parameter = objective.law.parameters[objective.law.names.index(name)]
        if parameter.positive and parameter.relative_to == "loss":
            trial = z.copy()
            trial[i] = objective.bounds()[0][i]
            found[i] = objective.value(objective.residuals(trial, target), weights) <= value * (1 + _SAME)
    return found


def _polish(objective: Objective, z: Array, value: float, target: Array, weights: Array) -> tuple[Array, float]:
    from scipy.optimize import least_squares  # late: a saved fit is read and asked without it

    lower, upper = objective.bounds()
    counted = weights  # SciPy sees squares: the sides on which residuals lie are held
    if objective.kind == "asymmetric":
        counted = weights * objective.side(objective.residuals(z, target))

    def rho(squares: Array) -> Array:
        """Value and two derivatives of twice our loss as a function of r², times the weights."""
        influence = np.minimum(objective.influence(np.sqrt(squares)), 1.0)
        inside = influence == 1
        with np.errstate(divide="ignore", invalid="ignore"):
            bend = np.where(inside, 0.0, -influence / (2 * squares))
        return counted * np.stack([2 * _each(objective, np.sqrt(squares)), influence, bend])

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
    """Mask the coordinates of z [f] that are off their bounds, bool [f]."""
    lower, upper = objective.bounds()
    return (z > lower + 1e-6) & (z < upper - 1e-6)
