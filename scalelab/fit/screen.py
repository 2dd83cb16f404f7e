"""Try many starts on a sample of the rows, so that all rows are only needed for the few optima that differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.fit.descent import descend
from scalelab.fit.objective import Objective
from scalelab.laws.base import Array

FEW_ROWS = 100  # up to here every start sees every row
_SAMPLE = 64  # rows that starts are tried on where there are more
_ROWS_A_PARAMETER = 12  # at least
_GAIN = 1e-6  # of the sample's objective, relatively: its optima need not be exact
_BASINS = 12  # optima of the sample that are refined on all rows
_SAME_VALUE, _SAME_PLACE = 1e-3, 0.1  # starts that end this close, relatively and in fitting coordinates, are one


@dataclass(frozen=True)
class Screened:
    """Ends of the starts, on all rows: distinct optima, and the starts that led to each."""

    points: Array  # [b, f]
    values: Array  # [b]
    basin: np.ndarray  # of each start, int [s]; -1 for one whose basin was not refined


def screen(objective: Objective, begin: Array, target: Array, weights: Array) -> Screened:
    """Descend from every start `begin` [s, f], on a sample of the rows first where there are many."""
    n = len(target)
    if n <= FEW_ROWS:
        points, values = descend(objective, begin.copy(), target, weights)
        return Screened(points, values, np.arange(len(begin)))
    rows = sample_rows(objective, target, max(_SAMPLE, _ROWS_A_PARAMETER * begin.shape[1]))
    part = objective.subset(rows)
    tried, values = descend(part, begin.copy(), target[rows], weights[rows], gain=_GAIN)
    basin, places = _basins(tried, values)
    # The sample's order of the optima need not be that of all rows.
    with np.errstate(all="ignore"):
        whole = np.array([float(objective.value(objective.residuals(z, target), weights)) for z in places])
    best = np.argsort(whole, kind="stable")[:_BASINS]
    points, values = descend(objective, places[best], target, weights)
    new = np.full(len(places) + 1, -1)
    new[best] = np.arange(len(best))
    return Screened(points, values, new[basin])


def sample_rows(objective: Objective, target: Array, size: int) -> np.ndarray:
    """About `size` rows: the ends of every variable and of the losses, and others drawn with a seed of their own."""
    columns = [target, *objective.points.columns]
    ends = {int(end(column)) for column in columns for end in (np.argmin, np.argmax)}
    rest = np.setdiff1d(np.arange(len(target)), list(ends))
    drawn = np.random.default_rng(0).choice(rest, size=min(len(rest), size), replace=False)
    return np.sort(np.concatenate([np.array(sorted(ends), dtype=int), drawn]))


def _basins(points: Array, values: Array) -> tuple[np.ndarray, Array]:
    """The number of each start's basin [s], -1 outside the law's domain, and a point of each basin [b, f]."""
    basin = np.full(len(points), -1)
    places: list[int] = []
    for i in np.argsort(values, kind="stable"):
        if not np.isfinite(values[i]):
            break
        for number, first in enumerate(places):
            close = values[i] <= values[first] * (1 + _SAME_VALUE)
            if close and np.abs(points[i] - points[first]).max() <= _SAME_PLACE:
                basin[i] = number
                break
        else:
            basin[i] = len(places)
            places.append(int(i))
    return basin, points[places]
