"""Bootstrap: refit the law to resampled data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scalelab.fit.data import FitData
from scalelab.fit.objective import Objective
from scalelab.fit.warm import refit
from scalelab.laws.base import Array

Report = Callable[[str, float], None]  # called with a stage and its completed share

_BLOCK = 2**20  # numbers in a block of resampled losses
_KERNEL = 2.0  # width of the smoothing kernel in robust standard deviations of the residuals (docs/LOG.md)

# Independent errors that the smooth error along a run is worth: Satterthwaite's degrees of freedom of 10 to 30 points
# with correlations of 0.9 to 0.97 between neighbours, less their mean, are 2.6 to 4.7.
_ALONG = 3


def bootstrap(
    objective: Objective,
    data: FitData,
    z: Array,
    method: str,
    draws: int,
    seed: int,
    errors: Array,
    report: Report | None = None,
) -> Array:
    """Return refitted parameters [draws, k] (natural scale) around the optimum z [f] with linear `errors` [f].

    - residual: errors drawn from the residuals are added to the fitted losses; N, P and D are kept.
    - wild: each residual stays with its run and gets a random sign.
    - pairs: runs are drawn with replacement.

    Runs of one configuration (repeated seeds) are not independent evidence about the law's form:
    residuals are then drawn on two levels, and signs and pairs by configuration. Without degrees of
    freedom there is nothing to draw from, and the result is [0, k].
    """
    if freedom(objective, data) < 1 or not draws:
        return np.empty((0, len(objective.law.parameters)))
    rng, found = np.random.default_rng(seed), []
    block = max(1, _BLOCK // len(data.loss))
    for done in range(0, draws, block):
        targets, weights = resample(objective, data, z, method, min(block, draws - done), rng)
        points, values = refit(objective, data, z, targets, weights, errors)
        found.append(points[np.isfinite(values)])
        if report is not None:
            report("bootstrap", min(1.0, (done + block) / draws))
    return objective.to_params(np.concatenate(found))


def resample(
    objective: Objective, data: FitData, z: Array, method: str, draws: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return targets and weights of `draws` data sets, each [draws, n], or [n] if the same in all of them."""
    target, weights = objective.to_target(data.loss), data.weight
    if method == "pairs" or objective.kind == "asymmetric":  # its errors are not symmetric
        counts = rng.multinomial(data.n_configs, np.full(data.n_configs, 1 / data.n_configs), size=draws)
        return target, weights * counts[:, data.config]
    make = wild_errors if method == "wild" else residual_errors
    if data.run is not None and method == "residual":
        make = run_errors
    return target + objective.residuals(z, target) + make(objective, data, z, draws, rng), weights


def freedom(objective: Objective, data: FitData) -> int:
    """Return the degrees of freedom: independent units of data minus the fitted parameters.

    If runs have several rows, parameters of a variable that varies along a run, such as D, are determined
    within runs, and only the others use up one run each.
    """
    n_free = int(objective.free.sum())
    if data.run is None:
        return data.n_configs - n_free
    along = {
        variable
        for variable in data.known
        if any(np.ptp(data.values(variable)[data.config == i]) > 0 for i in range(data.n_configs))
    }
    between = sum(
        free and p.needs not in along for p, free in zip(objective.law.parameters, objective.free, strict=True)
    )
    return min(len(np.unique(data.configuration)) - n_free, data.n_configs - between)


def run_errors(objective: Objective, data: FitData, z: Array, draws: int, rng: np.random.Generator) -> Array:
    """Return errors [draws, n] for runs with several rows, which are correlated within a run.

    The error common to a run is drawn from the runs' mean residuals, scaled to errors, smoothed and widened as in
    `residual_errors`. The remainder stays with its rows, which keeps its autocorrelation, with one random sign per
    run (the wild cluster bootstrap of Cameron, Gelbach & Miller 2008).
    """
    residuals, slopes = objective.evaluate(z, objective.to_target(data.loss))
    root, run = np.sqrt(data.weight), data.config
    residuals = residuals * root
    size = np.bincount(run)
    basis = orthonormal(slopes * root[:, None])
    sums = np.stack([np.bincount(run, column) for column in basis.T], axis=1)
    leverage = np.minimum((sums**2).sum(1) / size, 0.9)
    means = np.bincount(run, residuals) / size
    along = (residuals - means[run]) / np.sqrt(1 - min(0.9, basis.shape[1] / len(residuals)))
    shared = smooth_draws(means / np.sqrt(1 - leverage), (draws, data.n_configs), rng)
    signs = rng.choice([-1.0, 1.0], size=(draws, data.n_configs))
    shared *= widening(freedom(objective, data))
    along *= widening(_ALONG * (data.n_configs - 1))
    return (shared[:, run] + signs[:, run] * along) / root


def residual_errors(objective: Objective, data: FitData, z: Array, draws: int, rng: np.random.Generator) -> Array:
    """Return errors [draws, n] with the distribution estimated from the residuals at z.

    Fitted residuals are smaller than the errors, and a few of them estimate the distribution poorly,
    especially under Huber's loss, whose fit passes close to some runs. So they are divided by
    √(1 − leverage) (Davison & Hinkley 1997, section 6.2), drawn with a random sign (so that one outlier
    does not shift all), smoothed by a kernel (section 3.4 there), scaled to the unbiased variance, and
    widened by the ratio of t to normal quantiles for the degrees of freedom.
    """
    residuals = _standardised(objective, data, z)
    between, within = _levels(residuals, data)
    # One draw per configuration (shared by its runs) and one per run.
    shared = smooth_draws(between, (draws, data.n_configs), rng)[:, data.config]
    own = smooth_draws(within, (draws, len(residuals)), rng)
    return (shared + own) * widening(freedom(objective, data)) / np.sqrt(data.weight)


def wild_errors(objective: Objective, data: FitData, z: Array, draws: int, rng: np.random.Generator) -> Array:
    """Return errors [draws, n]: the residual of each run, with one random sign per configuration.

    Valid if the size of errors differs from run to run; otherwise too narrow for small data sets.
    """
    signs = rng.choice([-1.0, 1.0], size=(draws, data.n_configs))[:, data.config]
    return signs * _standardised(objective, data, z) * widening(freedom(objective, data)) / np.sqrt(data.weight)


def _standardised(objective: Objective, data: FitData, z: Array) -> Array:
    """Return residuals [n] of unit weight, scaled to the size of the errors."""
    residuals, slopes = objective.evaluate(z, objective.to_target(data.loss))
    root = np.sqrt(data.weight)
    leverage = np.minimum(leverages(slopes * root[:, None]), 0.99)
    if data.n_configs == len(residuals):
        return residuals * root / np.sqrt(1 - leverage)
    # The fit shrinks the error common to a configuration, not the differences within it.
    size = np.bincount(data.config)
    common = (np.bincount(data.config, residuals * root) / size)[data.config]
    together = np.minimum(np.bincount(data.config, leverage), 0.99)[data.config]
    spread = np.sqrt(size / np.maximum(size - 1, 1))[data.config]
    return common / np.sqrt(1 - together) + (residuals * root - common) * spread


def leverages(slopes: Array) -> Array:
    """Return the diagonal [n] of the hat matrix of slopes [n, f]."""
    return (orthonormal(slopes) ** 2).sum(1)


def orthonormal(slopes: Array) -> Array:
    """Return an orthonormal basis [n, f] of the columns of slopes [n, f]."""
    length = np.sqrt((slopes**2).sum(0))
    return np.linalg.qr(slopes / np.where(length > 0, length, 1.0))[0]


def _levels(residuals: Array, data: FitData) -> tuple[Array, Array]:
    """Return errors between configurations and errors between runs of one, each scaled to its variance."""
    if data.n_configs == len(residuals):
        return np.zeros(1), residuals
    size = np.bincount(data.config)
    common = np.bincount(data.config, residuals) / size
    repeated = (size > 1)[data.config]
    within = (residuals - common[data.config])[repeated]
    # The variance of the means of configurations is kept: the part that run noise does not explain is
    # between them; if they vary less than run noise implies, the noise is scaled down.
    means, noise = float((common**2).mean()), float((within**2).mean() * (1 / size).mean())
    if means > noise:
        return common * np.sqrt(1 - noise / means), within
    return np.zeros(1), within * np.sqrt(means / max(noise, 1e-300))


def smooth_draws(pool: Array, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Return smoothed draws from ± pool with the mean square of the pool."""
    kernel = _KERNEL * 1.4826 * float(np.median(np.abs(pool)))
    size = float((pool**2).mean())
    if size == 0:
        return np.zeros(shape)
    draws = rng.choice(pool, size=shape) * rng.choice([-1.0, 1.0], size=shape) + kernel * rng.standard_normal(shape)
    return draws * np.sqrt(size / (size + kernel**2))


def widening(degrees: int) -> float:
    """Return the ratio of t to normal quantiles for 95 % intervals with so many degrees of freedom."""
    from scipy.special import ndtri, stdtrit  # quantiles of normal and t; scipy.stats takes 0.3 s to import

    return float(stdtrit(degrees, 0.975) / ndtri(0.975))
