"""Draws of the parameters of every plausible law, from all basins, given a few runs.

Each draw is a randomised maximum a posteriori estimate (Oliver, He & Reynolds 1996): the optimum for losses with random
errors and a random prior mean, found from that mean. So draws spread over basins and along directions that the runs do
not determine, which the local covariance at one optimum does not show. Laws get draws in proportion to their Akaike
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalelab.designs.pool import Pool
from scalelab.designs.prior import PriorObjective, Support, prior_draws, prior_spread, with_prior
from scalelab.errors import ScalelabError
from scalelab.fit.descent import descend
from scalelab.fit.options import FitOptions, build_objective
from scalelab.fit.select import CandidateLaw
from scalelab.laws.base import Array, Points

NOISE = 0.005  # expected relative error of a loss, worth `_PRIOR_RUNS` runs
_PRIOR_RUNS = 3.0
_STARTS, _STEPS, _TURNS = 48, 60, 2
_LEAST_WEIGHT = 0.02  # of a law
_FAR = 12.0  # a draw whose objective is above the law's best by more, in units of the noise, is in a worse basin
_FALL, _FALL_SPREAD = 0.9, 0.25  # power of N·P·D by which the weight of a run grows: expected, and how well known
_CHI = 2.2  # standard deviation of ln r² of a normal error r
_ROBUST = 3.0  # residuals beyond so many standard deviations count less


@dataclass(frozen=True, eq=False)
class LawDraws:
    """Draws of one law.

    Attributes:
        candidate: The law.
        params: Parameters of the draws, [s, k].
        weight: Akaike weight.
        judged: Variance of relative errors with which each row of the pool is weighed: it falls with the row's size.
        error: Variance of the relative error of a run, the same for all.
    """

    candidate: CandidateLaw
    params: Array
    weight: float
    judged: Array
    error: float

    def losses(self, at: Points) -> Array:
        """Return the loss of each draw at each point, nats per token, [s, n]."""
        with np.errstate(all="ignore"):
            return self.candidate.law.loss(self.params, at)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws of all plausible laws."""

    laws: tuple[LawDraws, ...]

    @property
    def judged(self) -> Array:
        """Relative standard deviation by which each row of the pool is weighed, averaged over laws."""
        return np.sqrt(np.sum([one.weight * one.judged for one in self.laws], axis=0))

    @property
    def error(self) -> float:
        """Relative standard deviation of the loss of a run about its law, averaged over laws."""
        return float(np.sqrt(sum(one.weight * one.error for one in self.laws)))

    def losses(self, at: Points) -> Array:
        """Return the losses of all draws at points, [s, n]."""
        return np.concatenate([one.losses(at) for one in self.laws])

    def middle(self, at: Points) -> Array:
        """Return the median loss over draws at points, nats per token, [n]."""
        return np.nanmedian(self.losses(at), axis=0)

    @property
    def number(self) -> np.ndarray:
        """Number of the law of each draw, int [s]."""
        return np.repeat(np.arange(len(self.laws)), [len(one.params) for one in self.laws])


@dataclass(frozen=True, eq=False)
class _Fitted:
    candidate: CandidateLaw
    objective: PriorObjective
    z: Array
    weights: Array  # of the rows, [n]
    variance: float  # of a row of weight 1
    judged: Array  # error variance that weighs a row of the pool
    error: float  # error variance of a run, the same for all
    evidence: float  # −AICc/2
    spread: Array


def posterior(
    laws: Sequence[CandidateLaw],
    pool: Pool,
    seen: np.ndarray,
    support: Support,
    draws: int,
    seed: int,
) -> Posterior:
    """Return draws of the laws given the losses of the rows `seen` of `pool` (indices); the others only set scales.

    Runs are weighed by their size N·P·D, since a law is less exact far from the targets, and as far as the residuals
    agree; runs beyond the largest known like that. The draws' errors have one size for all runs, which keeps intervals
    valid if the noise does not fall with size.

    Raises:
        ScalelabError: no law is defined at these runs.
    """
    fitted = [found for law in laws if (found := _fit(law, pool, seen, support, seed)) is not None]
    if not fitted:
        raise ScalelabError("no law is defined at these runs; choose other laws")
    evidence = np.array([one.evidence for one in fitted])
    weights = np.exp(evidence - evidence.max())
    weights = (weights / weights.sum()).tolist()
    kept = [(one, w) for one, w in zip(fitted, weights, strict=True) if w >= _LEAST_WEIGHT]
    total = sum(w for _, w in kept)
    found = []
    for one, w in kept:
        count = max(2, round(draws * w / total))
        sample = _draw(one, pool, seen, support, count, seed)
        params = one.objective.to_params(sample)
        found.append(LawDraws(one.candidate, params, w / total, one.judged, one.error))
    return Posterior(tuple(found))


def _fit(law: CandidateLaw, pool: Pool, seen: np.ndarray, support: Support, seed: int) -> _Fitted | None:
    """Return the optimum with the prior, and −AICc/2 of the law; None if the law is undefined."""
    options = FitOptions(objective="log", fix=dict(law.fix))
    # Only known losses set scales, so that a replay learns nothing of the others.
    losses = np.full(len(pool.data.loss), np.exp(np.log(pool.data.loss[seen]).mean()))
    losses[seen] = pool.data.loss[seen]
    whole = build_objective(law.law, replace(pool.data, loss=losses), options)
    objective = with_prior(whole, seen, support)
    begin, spread = prior_draws(whole, _STARTS, seed), prior_spread(whole)
    centre = (begin.min(0) + begin.max(0)) / 2
    size = np.log(np.minimum(pool.size, pool.size[seen].max())) - np.log(pool.size[seen]).mean()
    losses, own = np.log(losses[seen]), pool.data.weight[seen]
    n, f = len(seen), len(spread)
    spare = max(0.0, n - f)
    target = np.concatenate([losses, support.expected(losses), centre])

    def optimum(weights: Array, variance: float) -> Array | None:
        nonlocal begin
        every = np.concatenate([weights, support.weights(losses, variance), variance / spread**2])
        points, values = descend(objective, begin, target, every, _STEPS)
        begin = np.concatenate([begin[:16], points[np.argsort(values)[:8]]])
        return points[np.argmin(values)] if np.isfinite(values).any() else None

    def variance_at(residuals: Array, weights: Array) -> float:
        return (_PRIOR_RUNS * NOISE**2 + float((weights * residuals**2).sum())) / (_PRIOR_RUNS + spare)

    z = optimum(own, NOISE**2)
    if z is None:
        return None
    evidence = _evidence(objective, z, target, own, spread, n)
    fall = np.exp(-_FALL * size)
    weights, variance = own / fall[seen], NOISE**2
    for turn in range(_TURNS):  # the weights depend on the residuals
        z = optimum(weights, variance)
        if z is None:
            return None
        residuals = objective.residuals(z, target)[:n]
        variance = variance_at(residuals, weights)
        if turn < _TURNS - 1 and n > 2 * f:
            fall = np.exp(-_power(size[seen], residuals) * size)
            weights = own / fall[seen]
            scaled = np.abs(residuals) * np.sqrt(weights)
            usual = 1.4826 * float(np.median(scaled)) * (n / spare) ** 0.5
            weights = weights / np.maximum(1.0, scaled / max(_ROBUST * usual, 1e-12))
    outliers = weights * fall[seen]
    error = variance_at(objective.residuals(z, target)[:n], outliers)
    return _Fitted(law, objective, z, weights, variance, variance * fall, error, evidence, spread)


def _power(size: Array, residuals: Array) -> float:
    """Return the power by which the variance of residuals falls with N·P·D, at ln N·P·D `size`, [n]."""
    x = size - size.mean()
    y = np.log(np.maximum(residuals**2, 1e-20))
    precision = (x @ x) / _CHI**2
    prior = 1 / _FALL_SPREAD**2
    return float(np.clip((-(x @ y) / _CHI**2 + prior * _FALL) / (precision + prior), 0.0, 1.0))


def _evidence(objective: PriorObjective, z: Array, target: Array, weights: Array, spread: Array, n: int) -> float:
    """Return −AICc/2 of an optimum, with the number of parameters that the runs determine, as `fit` weighs laws.

    The noise has a prior, so that any number of runs gives a value; `weights` are the same for all laws.
    """
    residuals, slopes = objective.evaluate(z, target)
    squares = _PRIOR_RUNS * NOISE**2 + float((weights * residuals[:n] ** 2).sum())
    variance = squares / (_PRIOR_RUNS + n)
    scaled = slopes[:n] * np.sqrt(weights)[:, None] * spread
    information = np.linalg.eigvalsh(scaled.T @ scaled / variance)
    count = float((information / (1 + information)).sum()) + 1
    # With few runs the correction of AICc grows without bound and would leave the smallest law alone.
    penalty = 2 * count + 2 * count * (count + 1) / max(n - count - 1, count + 1)
    return -0.5 * (n * np.log(variance) + penalty)


def _draw(one: _Fitted, pool: Pool, seen: np.ndarray, support: Support, count: int, seed: int) -> Array:
    """Return draws [count, f] of the parameters in fitting coordinates."""
    rng = np.random.default_rng(seed + 1)
    n = len(seen)
    extra = count + max(8, count // 4)
    prior = prior_draws(one.objective, extra, seed + 2)
    # Half of the draws begin at the optimum, so that a basin that is hard to find has its share.
    begin = prior.copy()
    begin[::2] = one.z
    errors = one.error**0.5 * rng.standard_normal((extra, n)) / np.sqrt(pool.data.weight[seen])
    losses = np.log(pool.data.loss[seen])
    levels = support.draws(losses, extra, rng)
    targets = np.concatenate([losses + errors, levels, prior], axis=1)
    weights = np.concatenate([one.weights, support.weights(losses, one.variance), one.variance / one.spread**2])
    points, values = descend(one.objective, begin, targets, weights, _STEPS)
    misfit = 2 * values / one.variance
    good = np.isfinite(misfit)
    if not good.any():
        return np.tile(one.z, (count, 1))
    limit = np.nanmedian(misfit[good]) if n else np.inf
    usual = misfit[good] <= limit + _FAR * np.sqrt(2 * (n + 1))
    points = points[good][usual]
    return (
        points[rng.permutation(len(points))[:count]]
        if len(points) >= count
        else points[rng.integers(0, len(points), count)]
    )
