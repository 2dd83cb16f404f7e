"""Costs of two recipes at equal loss: training FLOPs, seconds, or a price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalelab.analysis.recipe_law import Factor
from scalelab.fit.derived import Estimate
from scalelab.laws.base import Array

_SQUARE = 5  # different N from which the cost may bend over ln N


@dataclass(frozen=True)
class CostRatio:
    """A cost of two recipes.

    `at_equal_size` is the second recipe's cost over the first's at the same N and D, `multiplier` the first's over the
    second's at the same loss: above 1, the second recipe is cheaper.
    """

    name: str
    unit: str
    at_equal_size: float
    multiplier: Estimate


@dataclass(frozen=True, eq=False)
class Costs:
    """The costs of the rows of two recipes, with their N and D, [n] each."""

    name: str
    unit: str
    N: Array
    D: Array
    cost: Array
    recipe: Array

    def ratio(self, factor: Factor, N: float, D: float, multiplier: float, draws: Array, seed: int) -> CostRatio:
        """Return the costs at equal loss around N and D of the second recipe.

        ln cost is a polynomial of ln N and ln D for each recipe. The first recipe needs `multiplier` times the N, the D
        or both (√ each) for the same loss. Errors of the polynomials enter the interval as normal.
        """
        first, second = (_Polynomial.of(self.N[own], self.D[own], self.cost[own]) for own in self._rows())
        share = {"N": (1.0, 0.0), "D": (0.0, 1.0), "compute": (0.5, 0.5)}[factor]

        def log_ratio(m: Array) -> Array:
            x, y = np.log(N) + share[0] * np.log(m), np.log(D) + share[1] * np.log(m)
            return first.at(x, y) - second.at(np.log(N), np.log(D))

        noise = np.hypot(first.error, second.error) * np.random.default_rng(seed).standard_normal(len(draws))
        value = float(np.exp(log_ratio(np.array(multiplier))))
        same = float(np.exp(second.at(np.log(N), np.log(D)) - first.at(np.log(N), np.log(D))))
        return CostRatio(self.name, self.unit, same, Estimate.of(value, np.exp(log_ratio(draws) + noise)))

    def _rows(self) -> Sequence[np.ndarray]:
        return (self.recipe == 0, self.recipe == 1)


@dataclass(frozen=True, eq=False)
class _Polynomial:
    """Coefficients of ln cost by powers of ln N and ln D around a centre; `error` is that of the mean."""

    coefficients: Array
    centre: tuple[float, float]
    error: float

    @classmethod
    def of(cls, N: Array, D: Array, cost: Array) -> _Polynomial:
        x, y, z = np.log(N), np.log(D), np.log(cost)
        centre = (float(x.mean()), float(y.mean()) if np.isfinite(y).all() else 0.0)
        X = _features(x - centre[0], y - centre[1])
        different = len(np.unique(N))
        use = [True, different > 1, different >= _SQUARE, len(np.unique(D)) > 1]
        coefficients = np.zeros(4)
        coefficients[use] = np.linalg.lstsq(X[:, use], z, rcond=None)[0]
        degrees = len(z) - sum(use)
        left = z - X @ coefficients
        error = float(np.sqrt((left**2).sum() / degrees / len(z))) if degrees > 0 else 0.0
        return cls(coefficients, centre, error)

    def at(self, x: Array | float, y: Array | float) -> Array:
        return _features(np.asarray(x) - self.centre[0], np.asarray(y) - self.centre[1]) @ self.coefficients


def _features(x: Array, y: Array) -> Array:
    x, y = np.broadcast_arrays(x, np.where(np.isfinite(y), y, 0.0))
    return np.stack([np.ones_like(x), x, x**2, y], axis=-1)
