"""Universal kriging: a regression whose residuals are correlated between similar rows, averaged over covariances.

The value of a new row is predicted from rows with known values. Ratios of the parts of the covariance to the noise are
not chosen but averaged over a grid, each weighted by its restricted likelihood (REML; Patterson and Thompson 1971), so
the interval is wider where few rows leave the ratios open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t as student

from scalelab.laws.base import Array

_LEAST = 1e-9  # of a standard error, relative to the value: exact fits have none
_WIDE = 1e3  # standard errors around the prediction in which the ends of an interval are looked for


@dataclass(frozen=True, eq=False)
class Design:
    """One way to explain the values: offset + columns · coefficients + residuals. The last row is the new one.

    Attributes:
        offset: Known part of the values, [n + 1].
        columns: Columns of the regression, [n + 1, p].
        covariances: Alternatives for the covariance of the residuals up to a common factor, [g, n + 1, n + 1].
    """

    offset: Array
    columns: Array
    covariances: Array


@dataclass(frozen=True)
class Prediction:
    """A predicted value, the median, with an interval."""

    value: float
    low: float
    high: float


def covariances(kernels: Sequence[tuple[Array, Sequence[float]]]) -> Array:
    """Return unit noise plus each combination of the kernels, [g, n, n].

    Args:
        kernels: Covariance matrices of the parts, each with the ratios of its variance to that of the noise.
    """
    noise = np.eye(len(kernels[0][0]))
    ratios = product(*(choices for _, choices in kernels))
    return np.stack([noise + sum(r * part for r, (part, _) in zip(row, kernels, strict=True)) for row in ratios])


def predict_last(values: Array, designs: Sequence[Design], level: float) -> Prediction:
    """Return the value of the last row of `designs` from the `values` [n] of the others.

    Args:
        values: Known values, [n].
        designs: Explanations of the same values, averaged by their restricted likelihood.
        level: Probability of the interval.
    """
    found = [_fit(values, design) for design in designs]
    likelihood, mean, stderr = (np.concatenate([each[i] for each in found]) for i in range(3))
    stderr = np.maximum(stderr, _LEAST * (1 + np.abs(mean)))
    dof = len(values) - designs[0].columns.shape[1]
    weights = np.exp(likelihood - likelihood.max())
    weights /= weights.sum()
    middle = float(weights @ mean)
    reach = _WIDE * float(stderr.max()) + float(np.ptp(mean))

    def quantile(probability: float) -> float:
        def above(x: float) -> float:
            return float(weights @ student.cdf((x - mean) / stderr, dof)) - probability

        return float(brentq(above, middle - reach, middle + reach))  # type: ignore[arg-type]

    tail = (1 - level) / 2
    return Prediction(quantile(0.5), quantile(tail), quantile(1 - tail))


def _fit(values: Array, design: Design) -> tuple[Array, Array, Array]:
    """Return the restricted log-likelihood, the prediction and its standard error for each covariance, [g] each."""
    n, p = len(values), design.columns.shape[1]
    known = design.columns[:n], (values - design.offset[:n])[:, None]
    root = np.linalg.cholesky(design.covariances[:, :n, :n])
    sides = np.broadcast_to(np.hstack(known), (len(root), n, p + 1))
    white = np.linalg.solve(root, np.concatenate([sides, design.covariances[:, :n, n:]], axis=2))
    columns, target, near = white[:, :, :p], white[:, :, p], white[:, :, p + 1]
    squares = columns.transpose(0, 2, 1) @ columns
    slopes = np.linalg.solve(squares, columns.transpose(0, 2, 1) @ target[:, :, None])[:, :, 0]
    residuals = target - np.einsum("gnp,gp->gn", columns, slopes)
    variance = np.maximum((residuals**2).sum(axis=1) / (n - p), np.finfo(float).tiny)
    logs = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
    likelihood = -logs - np.linalg.slogdet(squares)[1] / 2 - (n - p) / 2 * np.log(variance)
    mean = design.offset[n] + slopes @ design.columns[n] + (near * residuals).sum(axis=1)
    left = design.columns[n] - np.einsum("gnp,gn->gp", columns, near)
    spread = design.covariances[:, n, n] - (near**2).sum(axis=1)
    spread = spread + np.einsum("gp,gp->g", left, np.linalg.solve(squares, left[:, :, None])[:, :, 0])
    return likelihood, mean, np.sqrt(variance * np.maximum(spread, 1.0))  # at least the noise, despite rounding
