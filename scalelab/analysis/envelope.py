"""The envelope of loss curves, Approach 1 of Hoffmann et al. (arXiv 2203.15556): the best N at every compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalelab.analysis.lines import Line
from scalelab.fit.derived import FLOPS_PER_TOKEN
from scalelab.laws.base import Array

_BIN = 0.1  # width of the means along a curve, in ln FLOPs
_POINTS = 200  # compute values at which the best size is looked up
_SIZES = 4  # fewer make no envelope
_SKIP = 0.1  # share of a run's tokens at its start that is left out, as the loss falls there for other reasons


@dataclass(frozen=True, eq=False)
class Curve:
    """Loss of one run over its tokens, [n] each."""

    N: float
    used: float  # parameters that a token uses, for FLOPs
    P: float
    D: Array
    loss: Array


def envelope(curves: Sequence[Curve], draws: int, seed: int) -> tuple[Line, Line] | None:
    """Return the lines of ln N and ln D over ln FLOPs along the lower envelope of the curves; None if there is none.

    Compute at which the smallest or the largest size is best is left out. The draws are of whole runs, with
    replacement.
    """
    sizes = np.array([curve.N for curve in curves])
    if len(np.unique(sizes)) < _SIZES:
        return None
    smooth = [_smoothed(curve) for curve in curves]
    ends = np.array([[x[0], x[-1]] for x, _ in smooth])
    grid = np.linspace(np.sort(ends[:, 0])[1], np.sort(ends[:, 1])[-2], _POINTS)
    table = np.stack([np.interp(grid, x, y, left=np.inf, right=np.inf) for x, y in smooth])
    tokens = np.log(FLOPS_PER_TOKEN * np.array([curve.used * curve.P for curve in curves]))
    found = _fit(grid, table, sizes, tokens, np.arange(len(curves)))
    if found is None:
        return None
    rng = np.random.default_rng(seed)
    made = [_fit(grid, table, sizes, tokens, rng.integers(len(curves), size=len(curves))) for _ in range(draws)]
    kept = np.array([m for m in made if m is not None]).reshape(-1, 2, 2)
    centre = float(grid.mean())
    N, D = (Line(centre, float(found[i, 0]), float(found[i, 1]), kept[:, i]) for i in (0, 1))
    return N, D


def _fit(grid: Array, table: Array, sizes: Array, tokens: Array, runs: np.ndarray) -> Array | None:
    """Return level and slope of ln N and ln D, [2, 2], over the envelope of some of the runs."""
    own = table[runs]
    best = runs[own.argmin(axis=0)]
    here = np.isfinite(own)
    # At each compute the best size must lie between two others that were trained so far.
    least = np.where(here, sizes[runs][:, None], np.inf).min(axis=0)
    most = np.where(here, sizes[runs][:, None], -np.inf).max(axis=0)
    inside = (sizes[best] > least) & (sizes[best] < most)
    if inside.sum() < 10 or len(np.unique(sizes[best][inside])) < 2:
        return None
    x = grid[inside]
    X = np.stack([np.ones_like(x), x - grid.mean()], axis=1)
    y = np.stack([np.log(sizes[best][inside]), x - tokens[best][inside]], axis=1)
    return np.asarray(np.linalg.lstsq(X, y, rcond=None)[0].T, dtype=float)


def _smoothed(curve: Curve) -> tuple[Array, Array]:
    """Return ln FLOPs and mean loss of each bin of a curve."""
    keep = np.isfinite(curve.loss) & (curve.D / curve.D.max() >= _SKIP)
    x = np.log(FLOPS_PER_TOKEN * curve.used * curve.P * curve.D[keep])
    bins = np.unique(np.floor((x - x.min()) / _BIN), return_inverse=True)[1]
    count = np.bincount(bins)
    return np.bincount(bins, x) / count, np.bincount(bins, curve.loss[keep]) / count
