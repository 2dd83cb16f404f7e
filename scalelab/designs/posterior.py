"""What a few runs say: draws of the parameters of every plausible law, from all basins.

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
_STARTS, _STEPS = 48, 60
_LEAST_WEIGHT = 0.02  # of a law
_FAR = 12.0  # a draw whose objective is above the law's best by more, in units of the noise, is in a worse basin
_FALL, _FALL_SPREAD = 0.9, 0.25  # power of N·P·D by which the error variance falls: expected, and how well known
_CHI = 2.2  # standard deviation of ln r² of a normal error r
_ROBUST = 3.0  # residuals beyond so many standard deviations count less


@dataclass(frozen=True, eq=False)
class LawDraws:
    """Draws of one law: parameters [s, k], its weight, and the variance of its relative errors by row of the pool."""

    candidate: CandidateLaw
    params: Array
    weight: float
    variance: Array
    best: Array  # parameters of the optimum, [k]

    def losses(self, at: Points) -> Array:
        """Return the loss of each draw at each point, nats per token, [s, n]."""
        with np.errstate(all="ignore"):
            return self.candidate.law.loss(self.params, at)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws of all plausible laws."""

    laws: tuple[LawDraws, ...]

    @property
    def noise(self) -> Array:
        """Relative standard deviation of the loss of each row of the pool about its law, averaged over laws."""
        return np.sqrt(np.sum([one.weight * one.variance for one in self.laws], axis=0))

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
    fall: Array  # of the error variance with N·P·D, by row of the pool
    evidence: float  # −AICc/2
    spread: Array


def posterior(
    laws: Sequence[CandidateLaw],
    pool: Pool,
    seen: np.ndarray,
    support: Support,
    draws: int,
    seed: int,
    noise: float = NOISE,
) -> Posterior:
    """Return draws of the laws given the losses of the rows `seen` of `pool` (indices); the others only set scales.

    Errors about a law fall with the size N·P·D of a run: small runs have more noise, and a law is less exact there, far
    from the targets.

    Raises:
        ScalelabError: no law is defined at these runs.
    """
    fitted = [found for law in laws if (found := _fit(law, pool, seen, support, seed, noise)) is not None]
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
        found.append(
            LawDraws(one.candidate, params, w / total, one.variance * one.fall, one.objective.to_params(one.z))
        )
    return Posterior(tuple(found))


def _fit(law: CandidateLaw, pool: Pool, seen: np.ndarray, support: Support, seed: int, noise: float) -> _Fitted | None:
    """Return the optimum with the prior, and −AICc/2 of the law; None if the law is undefined."""
    options = FitOptions(objective="log", fix=dict(law.fix))
    # Only known losses set scales, so that a replay learns nothing of the others.
    losses = np.full(len(pool.data.loss), np.exp(np.log(pool.data.loss[seen]).mean()))
    losses[seen] = pool.data.loss[seen]
    whole = build_objective(law.law, replace(pool.data, loss=losses), options)
    objective = with_prior(whole, seen, support)
    begin, spread = prior_draws(whole, _STARTS, seed), prior_spread(whole)
    centre = (begin.min(0) + begin.max(0)) / 2
    losses, size = np.log(losses[seen]), np.log(pool.size) - np.log(pool.size[seen]).mean()
    fall = np.exp(-_FALL * size)
    row_weight = pool.data.weight[seen] / fall[seen]
    n, f = len(seen), len(spread)
    expected = support.expected(losses)
    target = np.concatenate([losses, expected, centre])
    variance = noise**2
    z = centre
    for turn in range(3):  # the noise and the weights of outliers depend on the fit
        weights = np.concatenate([row_weight, support.weights(losses, variance), variance / spread**2])
        points, values = descend(objective, begin, target, weights, _STEPS)
        if not np.isfinite(values).any():
            return None
        z = points[np.argmin(values)]
        residuals = objective.residuals(z, target)[:n]
        squares = float((row_weight * residuals**2).sum())
        spare = max(0.0, n - f)
        variance = (_PRIOR_RUNS * noise**2 + squares) / (_PRIOR_RUNS + spare)
        if turn < 2 and n > 2 * f:
            fall = np.exp(-_power(size[seen], residuals) * size)
            row_weight = pool.data.weight[seen] / fall[seen]
            scaled = np.abs(residuals) * np.sqrt(row_weight)
            usual = 1.4826 * float(np.median(scaled)) * (n / spare) ** 0.5
            row_weight = row_weight / np.maximum(1.0, scaled / max(_ROBUST * usual, 1e-12))
        begin = np.concatenate([begin[:16], points[np.argsort(values)[:8]]])
    even = pool.data.weight[seen] * np.exp(_FALL * size[seen])
    evidence = _evidence(objective, z, target, even, spread, noise, n)
    return _Fitted(law, objective, z, row_weight, variance, fall, evidence, spread)


def _power(size: Array, residuals: Array) -> float:
    """Return the power by which the error variance falls with N·P·D, from residuals at ln N·P·D `size`, [n]."""
    x = size - size.mean()
    y = np.log(np.maximum(residuals**2, 1e-20))
    precision = (x @ x) / _CHI**2
    prior = 1 / _FALL_SPREAD**2
    return float(np.clip((-(x @ y) / _CHI**2 + prior * _FALL) / (precision + prior), 0.0, 1.0))


def _evidence(
    objective: PriorObjective, z: Array, target: Array, weights: Array, spread: Array, noise: float, n: int
) -> float:
    """Return −AICc/2 of an optimum, with the number of parameters that the runs determine, as `fit` weighs laws.

    The noise has a prior, so that any number of runs gives a value; `weights` are the same for all laws.
    """
    residuals, slopes = objective.evaluate(z, target)
    squares = _PRIOR_RUNS * noise**2 + float((weights * residuals[:n] ** 2).sum())
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
    n, sigma = len(seen), one.variance**0.5
    extra = count + max(8, count // 4)
    prior = prior_draws(one.objective, extra, seed + 2)
    # Half of the draws begin at the optimum, so that a basin that is hard to find has its share.
    begin = prior.copy()
    begin[::2] = one.z
    errors = sigma * rng.standard_normal((extra, n)) / np.sqrt(np.maximum(one.weights, 1e-12))
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
