"""Means of paired differences with intervals that allow for seeds in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scalelab.fit.derived import Estimate
from scalelab.fit.result import LEVEL

if TYPE_CHECKING:
    from scalelab.laws.base import Array

_MOST_PAIRS = 10_000


def mean_difference(differences: Array, seeds: Array) -> tuple[Estimate, int | None, int | None]:
    """Return the mean with its interval, the number of pairs that would just decide it, and the seeds that count.

    The interval is Student's t over the pairs. Pairs of one seed share the order of the text at every size, and so may
    be alike; where they are (their mean square between seeds is above that within), the interval is over the seeds'
    means instead, and the last value is the number of seeds, else None.

    Args:
        differences: One for each pair, [n].
        seeds: Seed of each pair, [n].
    """
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Estimate(mean), None, None
    which, count = np.unique(seeds, return_inverse=True, return_counts=True)[1:]
    K = len(count)
    square, units = float(differences.var(ddof=1)), n  # the mean square of one pair, and how many means are averaged
    if 1 < K < n:
        means = np.bincount(which, differences) / count
        between = float(count @ (means - mean) ** 2) / (K - 1)
        within = float(((differences - means[which]) ** 2).sum()) / (n - K)
        if between > within:
            square, units = between, K
    of_one = square * units / n
    half = _half(units, of_one)
    decides = next((k for k in range(2, _MOST_PAIRS) if _half(k, of_one) < abs(mean)), None)
    needed = None if decides is None else round(decides * n / units)
    return Estimate(mean, mean - half, mean + half), needed, K if units < n else None


def _half(units: int, square: float) -> float:
    """Return half the width of the interval of the mean of `units` values with this mean square."""
    from scipy.special import stdtrit  # scipy.stats takes 0.3 s to import

    return float(stdtrit(units - 1, 0.5 + LEVEL / 2)) * (square / units) ** 0.5
