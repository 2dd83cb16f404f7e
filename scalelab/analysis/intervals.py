"""Intervals for the loss of a single new run: those of the law, widened by the scatter of runs around it."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit.derived import Estimate
from scalelab.fit.mixture import laws_of
from scalelab.fit.result import LEVEL, FitResult
from scalelab.laws.base import Array


def run_draws(fit: FitResult, seed: int, N: Any = None, P: Any = 1, D: Any = None, **others: Any) -> Array:
    """Return draws [n] of the loss of a new run: each is of the law's draw, times a residual of the fit's runs.

    Residuals are those of the fit in ln loss, widened for the parameters that were fitted to them.
    """
    losses = fit.evaluate(np.array(fit.draws), N, P, D, **others)
    return losses * np.exp(np.random.default_rng(seed).choice(_errors(fit), size=losses.shape))


def run_interval(
    fit: FitResult, N: Any = None, P: Any = 1, D: Any = None, level: float = LEVEL, **others: Any
) -> Estimate:
    """Return the loss of a new run with a prediction interval.

    Raises:
        ScalelabError: The fit has no intervals, or the law is undefined there.
    """
    if not fit.draws:
        raise ScalelabError(f"{fit.group}: the fit has no intervals; add runs or fit with `draws`")
    value = float(fit.losses(N, P, D, **others))
    if not np.isfinite(value):
        raise ScalelabError(f"{fit.group}: the {fit.law.name} law is undefined at this point")
    return Estimate.of(value, run_draws(fit, fit.options.seed, N, P, D, **others), level)


def _errors(fit: FitResult) -> Array:
    """Return the residuals in ln loss, centred, and widened to the errors of the runs."""
    off = np.array(fit.log_residuals)
    fitted = max(len(law.parameters) for law in laws_of(fit)) - len(fit.fixed)
    left = max(1, fit.data.n_configs - fitted)
    return (off - off.mean()) * np.sqrt(fit.data.n_configs / left)
