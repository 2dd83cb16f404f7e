"""Robust quadratics of loss in ln N at equal training FLOPs, with one scale of errors, for many resamples at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.fit.bootstrap import smooth_draws, widening
from scalelab.laws.base import Array

_TUNING = 1.345  # Huber's threshold in standard deviations, 95 % efficient for normal errors
_ROUNDS = 25  # of reweighting
_FULL = 0.999  # leverage from which a run determines its own curve and says nothing about errors


@dataclass(frozen=True, eq=False)
class Cell:
    """Runs of one budget and P: ln N, loss and weight, [n] each."""

    x: Array
    loss: Array
    weight: Array

    @property
    def centre(self) -> float:
        """Middle of the range of ln N."""
        return float(self.x.min() + self.x.max()) / 2

    @property
    def design(self) -> Array:
        """Columns 1, x and x² of the centred ln N, [n, 3]."""
        u = self.x - self.centre
        return np.stack([np.ones_like(u), u, u**2], axis=1)


@dataclass(frozen=True, eq=False)
class Parabolas:
    """Coefficients of each cell, [s, cells, 3] for s resamples, by the centred ln N."""

    cells: tuple[Cell, ...]
    coefficients: Array

    @property
    def vertices(self) -> Array:
        """Ln N at the minimum, [s, cells]; infinite on the side to which the loss falls if there is no minimum."""
        slope, bend = self.coefficients[..., 1], self.coefficients[..., 2]
        centres = np.array([cell.centre for cell in self.cells])
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = centres - slope / (2 * bend)
        return np.where(bend > 0, inside, np.where(slope > 0, -np.inf, np.inf))

    @property
    def minima(self) -> Array:
        """Loss at the minimum, [s, cells]; −∞ where there is none."""
        level, slope, bend = np.moveaxis(self.coefficients, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            lowest = level - slope**2 / (4 * bend)
        return np.where(bend > 0, lowest, -np.inf)


def fit_parabolas(cells: tuple[Cell, ...], losses: tuple[Array, ...] | None = None) -> Parabolas:
    """Fit each cell by Huber's loss, with one scale of relative errors for all cells.

    Args:
        cells: The cells, each with at least three values of N.
        losses: Losses [s, n] of each cell in place of its own, for s resamples.
    """
    targets = losses if losses is not None else tuple(cell.loss[None] for cell in cells)
    roots = [np.sqrt(cell.weight) / np.average(cell.loss) for cell in cells]  # to relative errors of unit weight
    designs = [cell.design * root[:, None] for cell, root in zip(cells, roots, strict=True)]
    scaled = [target * root for target, root in zip(targets, roots, strict=True)]
    spread = [1 / np.sqrt(np.maximum(1 - _leverages(X), 1 - _FULL)) for X in designs]
    tells = [s < 1 / np.sqrt(1 - _FULL) * 0.99 for s in spread]
    found = [_solve(X, y, np.ones_like(y)) for X, y in zip(designs, scaled, strict=True)]
    if not any(t.any() for t in tells):
        return Parabolas(cells, np.stack(found, axis=1))
    for _ in range(_ROUNDS):
        residuals = [y - c @ X.T for X, y, c in zip(designs, scaled, found, strict=True)]
        pool = np.concatenate([(r * s)[:, t] for r, s, t in zip(residuals, spread, tells, strict=True)], axis=1)
        scale = np.maximum(1.4826 * np.median(np.abs(pool), axis=1), 1e-12)[:, None]
        new = []
        for X, y, r in zip(designs, scaled, residuals, strict=True):
            with np.errstate(divide="ignore"):
                new.append(_solve(X, y, np.minimum(1.0, _TUNING * scale / np.abs(r))))
        done = all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, new, strict=True))
        found = new
        if done:
            break
    return Parabolas(cells, np.stack(found, axis=1))


def resample(fitted: Parabolas, draws: int, seed: int) -> Parabolas:
    """Refit `draws` sets of losses: the fitted ones plus errors drawn from the pooled residuals of all cells.

    Residuals are divided by √(1 − leverage), drawn with a random sign, smoothed and widened as in a fit of a law
    (`scalelab.fit.bootstrap`). Without degrees of freedom the result has no resamples.
    """
    cells = fitted.cells
    degrees = sum(len(cell.x) for cell in cells) - 3 * len(cells)
    if degrees < 1 or not draws:
        return Parabolas(cells, np.empty((0, len(cells), 3)))
    rng, pools, levels = np.random.default_rng(seed), [], []
    for cell, c in zip(cells, fitted.coefficients[0], strict=True):
        level, root = np.average(cell.loss), np.sqrt(cell.weight)
        hat = _leverages(cell.design * root[:, None])
        tells = hat < _FULL
        residual = (cell.loss - cell.design @ c) * root / level
        pools.append((residual / np.sqrt(np.maximum(1 - hat, 1 - _FULL)))[tells])
        levels.append(cell.design @ c)
    pool, wide = np.concatenate(pools), widening(degrees)
    losses = tuple(
        level + smooth_draws(pool, (draws, len(level)), rng) * wide * np.average(cell.loss) / np.sqrt(cell.weight)
        for cell, level in zip(cells, levels, strict=True)
    )
    return fit_parabolas(cells, losses)


def _solve(X: Array, y: Array, weights: Array) -> Array:
    """Return weighted least-squares coefficients [s, 3] of y [s, n] on X [n, 3] with weights [s, n]."""
    normal = np.einsum("sn,ni,nj->sij", weights, X, X, optimize=True)
    right = (weights * y) @ X
    return np.linalg.solve(normal, right[..., None])[..., 0]


def _leverages(X: Array) -> Array:
    return (np.linalg.qr(X)[0] ** 2).sum(axis=1)
