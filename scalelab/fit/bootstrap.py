"""Bootstrap: refit the law to losses with resampled residuals."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from scalelab.fit.objective import Objective
from scalelab.fit.solver import descend
from scalelab.laws.base import Array

DRAWS = 1000


def residual_bootstrap(objective: Objective, z: Array, log_loss: Array, draws: int = DRAWS, seed: int = 0) -> Array:
    """Refitted parameters [draws, k] (natural scale) around the optimum z [f].

    Residuals are centred and divided by √(1 − leverage) before they are drawn with replacement,
    since fitted residuals are smaller than the errors behind them (Davison & Hinkley 1997,
    section 6.2), and widened by t over normal quantiles for the degrees of freedom left, since
    percentile intervals know nothing of those. The design (which N and P were run) stays fixed.
    Without a degree of freedom left there is nothing to draw from: [0, k].
    """
    freedom = len(log_loss) - len(z)
    if freedom < 1:
        return np.empty((0, len(objective.free)))
    rng = np.random.default_rng(seed)
    residuals = objective.residuals(z, log_loss)
    q, _ = np.linalg.qr(_scaled(objective.jacobian(z)))
    leverage = np.minimum((q**2).sum(1), 0.99)
    errors = residuals / np.sqrt(1 - leverage)
    errors = (errors - errors.mean()) * student_t.ppf(0.975, freedom) / norm.ppf(0.975)
    fitted = log_loss + residuals
    resampled = fitted - rng.choice(errors, size=(draws, len(errors)))
    points, values = descend(objective, np.tile(z, (draws, 1)), resampled)
    return objective.to_params(points[np.isfinite(values)])


def _scaled(jacobian: Array) -> Array:
    size = np.sqrt((jacobian**2).sum(0))
    return jacobian / np.where(size > 0, size, 1.0)
