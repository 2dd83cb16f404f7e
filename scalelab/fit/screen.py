"""Screen many starts on a sample of the rows, and refine only the distinct optima on all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.fit.descent import STEPS, descend
from scalelab.fit.objective import Objective
from scalelab.laws.base import Array

FEW_ROWS = 100  # up to this number every start uses all rows
_SAMPLE = 64  # rows of the sample, if there are more
_ROWS_PER_PARAMETER = 12  # of the sample, at least
_GAIN = 1e-6  # of the descents on the sample, whose optima need not be exact
_BASINS = 12  # optima of the sample that are refined on all rows
_SAME_VALUE, _SAME_POINT = 1e-3, 0.1  # ends this close, relatively and in fitting coordinates, are one optimum


@dataclass(frozen=True)
class Screened:
    """Distinct optima on all rows, and the starts that led to each."""

    points: Array  # [b, f]
    values: Array  # [b]
    basin: np.ndarray  # index of the optimum of each start, int [s]; -1 if it was not refined


def screen(objective: Objective, begin: Array, target: Array, weights: Array, steps: int = STEPS) -> Screened:
    """Descend from every start `begin` [s, f]; with many rows, first on a sample of them.

    A descent ends after at most `steps` steps.
    """
    n = len(target)
    if n <= FEW_ROWS:
        points, values = descend(objective, begin.copy(), target, weights, steps=steps)
        return Screened(points, values, np.arange(len(begin)))
    rows = sample_rows(objective, target, max(_SAMPLE, _ROWS_PER_PARAMETER * begin.shape[1]))
    part = objective.subset(rows)
    tried, values = descend(part, begin.copy(), target[rows], weights[rows], gain=_GAIN)
    basin, optima = _basins(tried, values)
    # The ranking of the optima on the sample may differ from that on all rows.
    with np.errstate(all="ignore"):
        whole = np.array([float(objective.value(objective.residuals(z, target), weights)) for z in optima])
    best = np.argsort(whole, kind="stable")[:_BASINS]
    points, values = descend(objective, optima[best], target, weights, steps=steps)
    new = np.full(len(optima) + 1, -1)
    new[best] = np.arange(len(best))
    return Screened(points, values, new[basin])


def sample_rows(objective: Objective, target: Array, size: int) -> np.ndarray:
    """Return about `size` rows: the extremes of every variable and of the losses, and a random rest (fixed seed)."""
    columns = [target, *objective.points.columns]
    ends = {int(end(column)) for column in columns for end in (np.argmin, np.argmax)}
    rest = np.setdiff1d(np.arange(len(target)), list(ends))
    drawn = np.random.default_rng(0).choice(rest, size=min(len(rest), size), replace=False)
    return np.sort(np.concatenate([np.array(sorted(ends), dtype=int), drawn]))


def _basins(points: Array, values: Array) -> tuple[np.ndarray, Array]:
    """Return the basin index of each start [s], -1 outside the law's domain, and one point per basin [b, f]."""
    basin = np.full(len(points), -1)
    firsts: list[int] = []
    for i in np.argsort(values, kind="stable"):
        if not np.isfinite(values[i]):
            break
        for number, first in enumerate(firsts):
            close = values[i] <= values[first] * (1 + _SAME_VALUE)
            if close and np.abs(points[i] - points[first]).max() <= _SAME_POINT:
                basin[i] = number
                break
        else:
            basin[i] = len(firsts)
            firsts.append(int(i))
    return basin, points[firsts]
