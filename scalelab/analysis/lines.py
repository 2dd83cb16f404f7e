"""Straight lines of ln N or ln D over ln FLOPs, whose slopes are the exponents of compute-optimal training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.fit.derived import Estimate
from scalelab.laws.base import Array

_UNLIKELY = 0.05  # probability below which scatter around a line is more than the errors of its points


@dataclass(frozen=True, eq=False)
class Line:
    """ln y = level + slope·(ln C − centre), with draws [s, 2] of level and slope."""

    centre: float
    level: float
    slope: float
    draws: Array

    @property
    def exponent(self) -> Estimate:
        """The slope with its interval."""
        return Estimate.of(self.slope, self.draws[:, 1])

    def at(self, flops: float) -> Estimate:
        """Return y at a training budget, with its interval."""
        off = np.log(flops) - self.centre
        with np.errstate(over="ignore"):
            return Estimate.of(float(np.exp(self.level + self.slope * off)), np.exp(self.draws @ [1.0, off]))

    def rest(self, log_constant: float) -> Line:
        """Return the line of the other factor of C: ln C − log_constant − ln y."""
        level = self.centre - log_constant - self.level
        draws = np.stack([self.centre - log_constant - self.draws[:, 0], 1 - self.draws[:, 1]], axis=1)
        return Line(self.centre, level, 1 - self.slope, draws)


def spread_of(draws: Array) -> Array:
    """Return robust standard deviations [k] of draws [s, k]: half the range of the middle 68 %; infinite if open."""
    low, high = np.quantile(draws, [0.1587, 0.8413], axis=0, method="closest_observation")
    with np.errstate(invalid="ignore"):
        spread = (high - low) / 2
    return np.where(np.isfinite(spread), spread, np.inf)


def fit_line(ln_C: Array, y: Array, draws: Array, spread: Array) -> tuple[Line, float]:
    """Return the weighted least-squares line through y [k] at ln_C [k], and how many times wider its draws were made.

    Args:
        ln_C: ln FLOPs of the budgets, at least two.
        y: ln N or ln D at the minima.
        draws: The same for resamples, [s, k].
        spread: Standard deviation of each point, [k].

    If the points scatter more than their spread allows (χ² with a probability below 5 %), the draws are widened by
    √(χ²/degrees), as the errors of physical constants are.
    """
    weight = 1 / np.maximum(spread, 1e-6) ** 2 if np.isfinite(spread).all() and (spread > 0).all() else np.ones(len(y))
    centre = float(np.average(ln_C, weights=weight))
    X = np.stack([np.ones_like(ln_C), ln_C - centre], axis=1)
    solve = np.linalg.solve((X * weight[:, None]).T @ X, (X * weight[:, None]).T)
    level, slope = (solve @ y).tolist()
    made, wider = draws @ solve.T, 1.0
    degrees = len(y) - 2
    if degrees > 0 and len(draws):
        from scipy.special import chdtrc

        chi2 = float((weight * (y - X @ [level, slope]) ** 2).sum())
        if chdtrc(degrees, chi2) < _UNLIKELY:
            wider = float(np.sqrt(chi2 / degrees))
            made = np.array([level, slope]) + (made - [level, slope]) * wider
    return Line(centre, level, slope, made), wider
