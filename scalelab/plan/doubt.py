"""Uncertainty of costs in a plan: random factors on every cost, one per draw of the law's parameters.

The error of a device's speed is common to all models and has the spread of its class; the cost of P rows relative to
one has an independent, smaller error. Both are estimated from published measurements.
"""

from __future__ import annotations

import numpy as np

from scalelab.laws.base import Array
from scalelab.plan.problem import Problem
from scalelab.plan.search import CostCurve, Sized

_SMALLER, _LARGER = 200.0, 30.0  # range of N that is searched, relative to the option's
_POINTS = 48
_SEED = 0


class Factors:
    """Ratio of real to priced cost per draw, by metric and P."""

    def __init__(self, problem: Problem, draws: int) -> None:
        rng = np.random.default_rng(_SEED)
        self._speed, self._memory = rng.standard_normal((2, draws))
        self._rows = rng.standard_normal(draws)
        self._problem = problem

    def of(self, metric: str, sized: Sized) -> Array:
        """Return the factors [draws] on a metric of one P."""
        candidate = sized.candidate
        assert candidate is not None
        spread = candidate.spread(metric)
        if not spread:
            return np.ones(len(self._speed))
        if metric == "memory":
            return np.exp(spread * self._memory)
        return np.exp(spread * self._speed + candidate.cost.streams_spread * self._rows)


def doubted_sizes(problem: Problem, sized: Sized, factors: Factors) -> Array | None:
    """Return the largest N [draws] within the limits if costs are multiplied by the factors; 0 if there is none.

    None if costs have no spread, or nothing is within the limits.
    """
    candidate = sized.candidate
    if candidate is None or not len(sized.losses):
        return None
    if not any(candidate.spread(name) for name in problem.bounds):
        return None
    sizes = np.array([max(1.0, candidate.N / _SMALLER), candidate.N * _LARGER])
    curve = CostCurve(problem, sized.P, sizes, _POINTS)
    bounds = {name: bound / factors.of(name, sized) for name, bound in problem.bounds.items()}
    # The curve gives the ratio to the size without factors, which is known exactly.
    plain = curve.largest({name: np.full(1, bound) for name, bound in problem.bounds.items()})[0]
    return candidate.N * curve.largest(bounds) / plain


def doubted_losses(problem: Problem, sized: Sized, N: Array | None) -> Array:
    """Return the losses [draws] at the sizes `N` of `doubted_sizes`, each by its draw of the law."""
    if N is None:
        return sized.losses
    draws = np.array(problem.fit.draws).reshape(-1, len(problem.fit.params))
    losses = problem.losses(draws, np.maximum(N, 1.0), sized.P)
    return np.where(N > 0, losses, np.inf)
