"""Accuracy over loss: sigmoids with a floor and a ceiling, fitted by least squares.

Runs seldom show the ceiling. So there are two curves, one with a ceiling of 1 and one with a ceiling of its own;
predictions average over them with Akaike weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.laws.base import Array

PARAMETERS = ("floor", "ceiling", "slope", "middle")
LEAST_RUNS = len(PARAMETERS) + 3  # for AICc with the noise as a parameter
_SLOPES, _MIDDLES = 48, 64  # grid of the nonlinear parameters
_STEEP = (0.3, 60.0)  # slope times the range of the losses
_AROUND = 1.5  # ranges of the losses that the middle may lie outside of them
_ROBUST = 1.345  # of standard deviations: Huber's threshold, with 95 % efficiency for normal errors
_ROUNDS, _ZOOMS = 5, 4


@dataclass(frozen=True)
class Sigmoid:
    """Accuracy as floor + (ceiling − floor) / (1 + exp(slope·(loss − middle))).

    Attributes:
        params: Parameters [2, 4]: floor, ceiling, slope in 1/loss, middle in units of the loss. The first curve has a
            ceiling of 1.
        weights: Akaike weights [2] of the two curves.
        draws: Parameters [n, 4] of bootstrap samples, each of one of the curves.
        sd: Standard deviation of accuracies around the heavier curve, corrected for the number of parameters.
    """

    params: Array
    weights: Array
    draws: Array
    sd: float

    def __call__(self, loss: Array) -> Array:
        """Return the averaged accuracies at `loss` [...]."""
        each = accuracy_at(np.asarray(loss)[..., None], self.params)
        return (each * self.weights).sum(axis=-1)


def accuracy_at(loss: Array, params: Array) -> Array:
    """Return the accuracy at `loss`, for params [..., 4] broadcast against it."""
    floor, ceiling, slope, middle = np.moveaxis(np.asarray(params, dtype=float), -1, 0)
    return floor + (ceiling - floor) * _falling(slope * (loss - middle))


def fit_sigmoid(loss: Array, accuracy: Array, draws: int, rng: np.random.Generator) -> Sigmoid:
    """Fit the curves to accuracies between 0 and 1, with residual bootstrap.

    For each slope and middle of a grid the best floor and ceiling between 0 and 1 follow from a linear problem, so the
    optimum is global up to the grid. Runs far off the curve weigh less (Huber).

    Args:
        loss: Losses [n] of the runs.
        accuracy: Their accuracies [n].
        draws: Bootstrap samples.
        rng: Source of the samples.

    Raises:
        ScalelabError: There are fewer than 7 runs, or all have the same loss.
    """
    if len(loss) < LEAST_RUNS:
        raise ScalelabError(f"{len(loss)} runs cannot determine a sigmoid; {LEAST_RUNS} or more can: add runs")
    if np.ptp(loss) == 0:
        raise ScalelabError("all runs have the same loss; add runs with other losses")
    made = [_one(loss, accuracy, ceiling) for ceiling in (1.0, None)]
    aicc = np.array([each.aicc for each in made])
    weights = np.exp((aicc.min() - aicc) / 2)
    weights /= weights.sum()
    counts = rng.multinomial(draws, weights)
    samples = np.concatenate([each.resample(int(count), rng) for each, count in zip(made, counts, strict=True)])
    params = np.stack([each.params for each in made])
    return Sigmoid(params, weights, samples[rng.permutation(len(samples))], made[int(aicc.argmin())].sd)


@dataclass(frozen=True)
class _Curve:
    """One curve with a fixed or free ceiling, and the weights of the runs."""

    loss: Array
    params: Array
    off: Array
    weights: Array
    ceiling: float | None

    @property
    def free(self) -> int:
        return len(PARAMETERS) - (self.ceiling is not None)

    @property
    def sd(self) -> float:
        n = len(self.loss)
        return float(np.sqrt(np.average(self.off**2, weights=self.weights) * n / (n - self.free)))

    @property
    def aicc(self) -> float:
        n, k = len(self.loss), self.free + 1
        mean = max(float(np.average(self.off**2, weights=self.weights)), 1e-14)
        return n * np.log(mean) + 2 * k + 2 * k * (k + 1) / (n - k - 1)

    def resample(self, draws: int, rng: np.random.Generator) -> Array:
        if not draws:
            return np.empty((0, len(PARAMETERS)))
        n = len(self.loss)
        errors = np.sqrt(self.weights) * (self.off - np.average(self.off, weights=self.weights))
        errors *= np.sqrt(n / (n - self.free))
        samples = accuracy_at(self.loss, self.params) + rng.choice(errors, size=(draws, n))
        return _best(self.loss, samples, self.weights, self.ceiling, zooms=0)


def _one(loss: Array, accuracy: Array, ceiling: float | None) -> _Curve:
    weights = np.ones(len(loss))
    params = np.zeros(len(PARAMETERS))
    for _ in range(_ROUNDS):
        params = _best(loss, accuracy[None], weights, ceiling, _ZOOMS)[0]
        off = accuracy - accuracy_at(loss, params)
        scale = max(float(np.median(np.abs(off)) / 0.6745), 1e-6)
        weights = np.minimum(1.0, _ROBUST * scale / np.maximum(np.abs(off), 1e-12))
    return _Curve(loss, params, accuracy - accuracy_at(loss, params), weights, ceiling)


def _best(loss: Array, accuracies: Array, weights: Array, ceiling: float | None, zooms: int) -> Array:
    """Return the parameters [m, 4] with the least squares for each row of accuracies [m, n]; m is 1 to zoom."""
    low, width = float(loss.min()), float(np.ptp(loss))
    steep = np.log(np.array(_STEEP) / width)
    around = np.array([low - _AROUND * width, low + (1 + _AROUND) * width])
    found = _search(loss, accuracies, weights, ceiling, steep, around)
    for _ in range(zooms):
        steep = np.log(found[0, 2]) + np.array([-1, 1]) * 2 * np.ptp(steep) / _SLOPES
        around = found[0, 3] + np.array([-1, 1]) * 2 * np.ptp(around) / _MIDDLES
        found = _search(loss, accuracies, weights, ceiling, steep, around)
    return found


def _search(
    loss: Array, accuracies: Array, weights: Array, ceiling: float | None, steep: Array, around: Array
) -> Array:
    best = np.full((len(accuracies), 1 + len(PARAMETERS)), np.inf)
    middles = np.linspace(float(around[0]), float(around[1]), _MIDDLES)
    for slope in np.exp(np.linspace(float(steep[0]), float(steep[1]), _SLOPES)):
        found = _linear(loss, accuracies, weights, ceiling, float(slope), middles)
        best = np.where(found[:, :1] < best[:, :1], found, best)
    return best[:, 1:]


def _linear(
    loss: Array, accuracies: Array, weights: Array, ceiling: float | None, slope: float, middles: Array
) -> Array:
    """Return the smallest sum of squares and its parameters [m, 5] over `middles`, for one slope."""
    high = _falling(slope * (loss - middles[:, None]))  # [g, n], share of the ceiling
    low = 1 - high
    aa, ab, bb = ((weights * x * y).sum(axis=1)[:, None] for x, y in ((low, low), (low, high), (high, high)))
    ay, by = ((weights * x) @ accuracies.T for x in (low, high))  # [g, m]
    yy = (weights * accuracies**2).sum(axis=1)

    def squares(f: Array, c: Array) -> Array:
        return aa * f**2 + 2 * ab * f * c + bb * c**2 - 2 * (f * ay + c * by) + yy

    top = 1.0 if ceiling is None else ceiling
    with np.errstate(all="ignore"):  # a curve that is flat over the runs determines one of the two only
        floors = np.clip(np.nan_to_num((ay - ab * top) / aa, nan=0.0), 0.0, top)
        ceilings = np.full_like(ay, top)
        if ceiling is None:
            f, c = (bb * ay - ab * by) / (aa * bb - ab**2), (aa * by - ab * ay) / (aa * bb - ab**2)
            at_zero = np.clip(np.nan_to_num(by / bb, nan=1.0), 0.0, 1.0)
            inside = (f >= 0) & (c <= 1) & (f <= c)
            zero = squares(np.zeros_like(ay), at_zero) < squares(floors, ceilings)
            floors = np.where(inside, f, np.where(zero, 0.0, floors))
            ceilings = np.where(inside, c, np.where(zero, at_zero, ceilings))
    total = squares(floors, ceilings)
    at, each = total.argmin(axis=0), np.arange(total.shape[1])
    columns = (total[at, each], floors[at, each], ceilings[at, each], np.full(len(each), slope), middles[at])
    return np.stack(columns, axis=1)


def _falling(x: Array) -> Array:
    """Return 1 / (1 + exp(x)) without overflow."""
    return 0.5 * (1 - np.tanh(x / 2))
