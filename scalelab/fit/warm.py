"""Refits that start at the optimum: bootstrap draws and leave-one-out."""

from __future__ import annotations

import numpy as np

from scalelab.fit.data import FitData
from scalelab.fit.descent import Warm, descend
from scalelab.fit.objective import Objective
from scalelab.fit.screen import FEW_ROWS
from scalelab.laws.base import Array

_CLOSE = 0.05  # largest move of a parameter, in standard errors, in the last step of a refit
_STEPS, _LEAST = 300, 10  # with few rows, and with very many


def refit(
    objective: Objective,
    data: FitData,
    z: Array,
    target: Array,
    weights: Array,
    errors: Array,
    begin: Array | None = None,
    hold: int | None = None,
) -> tuple[Array, Array]:
    """Return optima [s, f] and values [s] for targets [s, n] or weights [s, n] close to those of the optimum z [f].

    With few rows each refit converges fully. With many, it stops within a small share of the parameters' standard
    `errors` [f], after a number of steps that falls with the number of rows, which keeps the time of a bootstrap
    linear in it.
    """
    n = len(data.loss)
    rows = (target if target.ndim > 1 else weights).shape[0]
    begin = np.tile(z, (rows, 1)) if begin is None else begin
    if n <= FEW_ROWS:
        return descend(objective, begin, target, weights, hold=hold)
    steps = max(_LEAST, _STEPS * FEW_ROWS // n)
    return descend(objective, begin, target, weights, steps, hold, Warm(_width(objective, data, z), _CLOSE * errors))


def _width(objective: Objective, data: FitData, z: Array) -> float:
    """Return the half-width for the density of the residuals at 0, by the normal reference rule."""
    residuals = objective.residuals(z, objective.to_target(data.loss))
    return 1.06 * 1.4826 * float(np.median(np.abs(residuals))) * len(residuals) ** -0.2
