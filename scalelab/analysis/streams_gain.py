"""Gain in accuracy from streams at equal loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from scalelab.analysis.sigmoid import accuracy_at, fit_sigmoid
from scalelab.analysis.tasks import TaskRuns
from scalelab.fit.derived import Estimate
from scalelab.laws.base import Array


@dataclass(frozen=True)
class StreamsGain:
    """Accuracy that streams add at equal loss.

    Attributes:
        per_doubling: Accuracy that a doubling of P adds at the same loss, as a share, with its 95 % interval.
        runs: Number of runs.
    """

    per_doubling: Estimate
    runs: int

    @property
    def is_clear(self) -> bool:
        """True if the interval does not hold zero."""
        low, high = self.per_doubling.low, self.per_doubling.high
        return low is not None and high is not None and (low > 0 or high < 0)


def streams_gain(runs: TaskRuns, draws: int, seed: int) -> StreamsGain | None:
    """Fit a sigmoid of the loss plus a term in log2 P; None if P does not vary.

    The interval is that of a residual bootstrap.

    Raises:
        ScalelabError: There are too few runs.
    """
    P = runs.records["n_streams"].to_numpy(dtype=float)
    if np.isnan(P).any() or len(np.unique(P)) < 2:
        return None
    doublings, loss = np.log2(P), runs.loss
    rng = np.random.default_rng(seed)
    begin = fit_sigmoid(loss, runs.accuracy, 0, rng)
    start = np.append(begin.params[int(begin.weights.argmax())], 0.0)
    best = _fit(loss, doublings, runs.accuracy, start)
    fitted = _accuracy(best, loss, doublings)
    off = runs.accuracy - fitted
    off = (off - off.mean()) * np.sqrt(len(off) / max(1, len(off) - len(best)))
    samples = fitted + rng.choice(off, size=(draws, len(off)))
    found = np.array([_fit(loss, doublings, sample, best)[-1] for sample in samples])
    return StreamsGain(Estimate.of(float(best[-1]), found), len(off))


def _accuracy(params: Array, loss: Array, doublings: Array) -> Array:
    return accuracy_at(loss, params[:-1]) + params[-1] * doublings


def _fit(loss: Array, doublings: Array, accuracy: Array, start: Array) -> Array:
    scale = np.array([1.0, 1.0, max(start[2], 1e-3), 1.0, 1.0])
    low = np.array([0.0, 0.0, 1e-6, -np.inf, -1.0])
    high = np.array([1.0, 1.0, np.inf, np.inf, 1.0])
    inside = np.clip(start, low + 1e-9, high - 1e-9)
    found = least_squares(
        lambda p: _accuracy(p, loss, doublings) - accuracy, inside, bounds=(low, high), x_scale=scale, max_nfev=200
    )
    return found.x
