"""Refits that begin where the fit ended: bootstrap draws, runs left out, profiles."""

from __future__ import annotations

import numpy as np

from scalelab.fit.data import FitData
from scalelab.fit.descent import Warm, descend
from scalelab.fit.objective import Objective
from scalelab.fit.screen import FEW_ROWS
from scalelab.laws.base import Array

_CLOSE = 0.05  # standard errors of a parameter: the last step of a refit moves none by more
_STEPS, _LEAST = 300, 10  # for few rows, and for very many


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
    """Optima [s, f] and values [s] for targets [s, n] or weights [s, n] like those of the fit, which ended at z [f].

    With few rows each refit goes to its very optimum. With many, it ends within a small share of the parameters'
    standard `errors` [f], after a number of steps that falls with the rows: the time of a bootstrap then grows with
    the rows alone.
    """
    n = len(data.loss)
    rows = (target if target.ndim > 1 else weights).shape[0]
    begin = np.tile(z, (rows, 1)) if begin is None else begin
    if n <= FEW_ROWS:
        return descend(objective, begin, target, weights, hold=hold)
    steps = max(_LEAST, _STEPS * FEW_ROWS // n)
    return descend(objective, begin, target, weights, steps, hold, Warm(_width(objective, data, z), _CLOSE * errors))


def _width(objective: Objective, data: FitData, z: Array) -> float:
    """Half-width for the density of the residuals about 0, by the normal reference rule."""
    residuals = objective.residuals(z, objective.to_target(data.loss))
    return 1.06 * 1.4826 * float(np.median(np.abs(residuals))) * len(residuals) ** -0.2
