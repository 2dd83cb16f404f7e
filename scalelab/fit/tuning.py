"""The optimal learning rate and batch size as powers of N and D, from tuning sweeps at several (N, D).

Each (N, D) has its own level of loss; around it ln loss is one quadratic form of ln lr and ln B, whose optimum moves
with ln N and ln D. This is linear in its coefficients, so its solution is unique and does not depend on a law for the
level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit.data import FitData
from scalelab.laws.base import Array
from scalelab.laws.forms import D_UNIT, N_UNIT
from scalelab.units import plural

NEAR = 0.01  # relative to the best loss of its (N, D): beyond it a quadratic does not hold (docs/LOG.md)
NAMES = ("lr_v", "lr_N", "lr_D", "B_v", "B_N", "B_D", "u", "w", "m")
_STEPS, _DELTA = 30, 1e-3  # reweighting steps, and Huber's threshold on ln loss


@dataclass(frozen=True)
class Tuning:
    """The parameters `NAMES` of `scalelab.laws.tuning.TuningLaw`, [9], with bootstrap draws [b, 9]."""

    params: Array
    draws: Array
    rows: int  # that were used
    cells: int  # distinct (N, D)


def fit_tuning(data: FitData, draws: int = 200, seed: int = 0) -> Tuning:
    """Fit the optimum to the rows within 1 % of the best of each (N, D), with resampling by (N, D).

    Raises:
        ScalelabError: there are too few rows or (N, D), or the losses have no minimum inside the sweep.
    """
    cell = np.unique(np.stack([data.N, data.D]), axis=1, return_inverse=True)[1].ravel()
    best = np.full(cell.max() + 1, np.inf)
    np.minimum.at(best, cell, data.loss)
    near = np.flatnonzero(data.loss <= best[cell] * (1 + NEAR))
    some = data.subset(near)
    cell = np.unique(cell[near], return_inverse=True)[1].ravel()
    cells = int(cell.max()) + 1
    if cells < 4 or len(near) < cells + 2 * len(NAMES):
        raise ScalelabError(
            f"the law 'lr-batch' needs sweeps of learning rate and batch size at 4 or more (N, D), with several rows "
            f"within {NEAR:.0%} of each best; there are {plural(len(near), 'row')} at {cells} (N, D)"
        )
    design, levels = _design(some), np.eye(cells)[cell]
    weight = some.weight
    params = _optimum(_coefficients(design, levels, np.log(some.loss), weight))
    if params is None:
        raise ScalelabError("the losses have no minimum inside the sweep of learning rate and batch size; widen it")
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        counts = rng.multinomial(cells, np.full(cells, 1 / cells))[cell]
        again = _optimum(_coefficients(design, levels, np.log(some.loss), weight * counts))
        if again is not None:
            found.append(again)
    return Tuning(params, np.array(found).reshape(-1, len(NAMES)), len(near), cells)


def _design(data: FitData) -> Array:
    """Return the columns a², b², a·b, and a and b times 1, ln N and ln D, for a = ln lr and b = ln B; [n, 9]."""
    n, d = np.log(data.N / N_UNIT), np.log(data.D / D_UNIT)
    a, b = np.log(data.others["lr"]), np.log(data.others["B"])
    return np.stack([a * a, b * b, a * b, a, a * n, a * d, b, b * n, b * d], axis=1)


def _coefficients(design: Array, levels: Array, target: Array, weight: Array) -> Array:
    """Return the coefficients of `design` [9] by Huber regression with one level per (N, D)."""
    kept = weight > 0
    X, y, base = np.hstack([design, levels])[kept], target[kept], weight[kept]
    scale = np.where(np.abs(X).max(0) > 0, np.abs(X).max(0), 1.0)
    each = base.copy()
    found = np.zeros(X.shape[1])
    for _ in range(_STEPS):
        root = np.sqrt(each)
        new = np.linalg.lstsq(X / scale * root[:, None], y * root, rcond=None)[0]
        close = np.abs(new - found).max() < 1e-9 * max(1.0, np.abs(new).max())
        found = new
        if close:
            break
        each = base * np.minimum(1.0, _DELTA / np.maximum(np.abs(y - X / scale @ found), 1e-12))
    return (found / scale)[: design.shape[1]]


def _optimum(coefficients: Array) -> Array | None:
    """Return the parameters `NAMES` of a quadratic form; None if it has no minimum."""
    u, w, cross, *linear = coefficients
    if u <= 0 or w <= 0 or cross**2 >= 4 * u * w:
        return None
    by = np.array(linear).reshape(2, 3)  # rows a and b; columns 1, ln N, ln D
    moves = np.linalg.solve([[2 * u, cross], [cross, 2 * w]], -by)
    (l_v, l_N, l_D), (b_v, b_N, b_D) = moves
    return np.array([np.exp(l_v), l_N, l_D, np.exp(b_v), b_N, b_D, u, w, cross / np.sqrt(u * w)])
