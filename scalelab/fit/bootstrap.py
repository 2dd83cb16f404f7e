"""Bootstrap: refit the law to data that might as well have been seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scalelab.fit.data import FitData
from scalelab.fit.objective import Objective
from scalelab.fit.warm import refit
from scalelab.laws.base import Array

Report = Callable[[str, float], None]  # told a stage and which share of it is done

_BLOCK = 2**20  # numbers in a block of resampled losses
_KERNEL = 2.0  # width of the smoothing kernel over the residuals' robust spread: chosen in docs/LOG.md


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
    """Refitted parameters [draws, k] (natural scale) around the optimum z [f] with linear standard `errors` [f].

    - residual: errors drawn from the residuals are put on the fitted losses; N, P and D stay.
    - wild: each residual keeps its place and gets a random sign.
    - pairs: runs are drawn with replacement.

    Runs of one configuration (repeated seeds) are not independent evidence about the law's form:
    residuals are then drawn in two levels, and signs and pairs by configuration. Without a degree
    of freedom left there is nothing to draw from: [0, k].
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
    """Targets and weights of `draws` data sets, each [draws, n] or [n] where it is always the same."""
    target, weights = objective.to_target(data.loss), data.weight
    if method == "pairs" or objective.kind == "asymmetric":  # whose errors have no symmetric distribution
        counts = rng.multinomial(data.n_configs, np.full(data.n_configs, 1 / data.n_configs), size=draws)
        return target, weights * counts[:, data.config]
    make = wild_errors if method == "wild" else residual_errors
    if data.run is not None and method == "residual":
        make = run_errors
    return target + objective.residuals(z, target) + make(objective, data, z, draws, rng), weights


def freedom(objective: Objective, data: FitData) -> int:
    """Degrees of freedom left: units of evidence less the fitted parameters that they must determine.

    Where runs have several rows, parameters of a variable that varies along a run, such as D, are determined
    within runs, and only the others take a run's worth of evidence each.
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
    return min(len(np.unique(data.place)) - n_free, data.n_configs - between)


def run_errors(objective: Objective, data: FitData, z: Array, draws: int, rng: np.random.Generator) -> Array:
    """Errors [draws, n] for runs with several rows: rows of one run are off together.

    What is common to a run is drawn from the runs' mean residuals, as large as errors, smoothed and widened as in
    `residual_errors`. What is left along a run keeps its place, and so its correlation from row to row, with one random
    sign for each run (the wild cluster bootstrap of Cameron, Gelbach & Miller 2008).
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
    shared = _smooth_draws(means / np.sqrt(1 - leverage), (draws, data.n_configs), rng)
    signs = rng.choice([-1.0, 1.0], size=(draws, data.n_configs))
    return (shared[:, run] + signs[:, run] * along) * _widening(freedom(objective, data)) / root


def residual_errors(objective: Objective, data: FitData, z: Array, draws: int, rng: np.random.Generator) -> Array:
    """Errors [draws, n] like those behind the residuals at z.

    Fitted residuals are smaller than errors, and few residuals are a coarse picture of their
    distribution, the more so under Huber's loss, which passes close to some runs. So they are divided by
    √(1 − leverage) (Davison & Hinkley 1997, section 6.2), drawn with a random sign (so that one far
    run does not shift all), smoothed by a kernel (section 3.4 there), set to the unbiased variance, and
    widened by t over normal quantiles for the degrees of freedom left.
    """
    residuals = _standardised(objective, data, z)
    between, within = _levels(residuals, data)
    # A draw for each configuration (shared by its runs) and one for each run.
    shared = _smooth_draws(between, (draws, data.n_configs), rng)[:, data.config]
    own = _smooth_draws(within, (draws, len(residuals)), rng)
    return (shared + own) * _widening(freedom(objective, data)) / np.sqrt(data.weight)


def wild_errors(objective: Objective, data: FitData, z: Array, draws: int, rng: np.random.Generator) -> Array:
    """Errors [draws, n]: each run's own, with one random sign for each configuration.

    Right where errors differ in size from run to run; otherwise too narrow for small sets.
    """
    signs = rng.choice([-1.0, 1.0], size=(draws, data.n_configs))[:, data.config]
    return signs * _standardised(objective, data, z) * _widening(freedom(objective, data)) / np.sqrt(data.weight)


def _standardised(objective: Objective, data: FitData, z: Array) -> Array:
    """Residuals [n] of unit weight, as large as the errors behind them."""
    residuals, slopes = objective.evaluate(z, objective.to_target(data.loss))
    root = np.sqrt(data.weight)
    leverage = np.minimum(leverages(slopes * root[:, None]), 0.99)
    if data.n_configs == len(residuals):
        return residuals * root / np.sqrt(1 - leverage)
    # What is common to a configuration was drawn towards the law; what differs inside it was not.
    size = np.bincount(data.config)
    common = (np.bincount(data.config, residuals * root) / size)[data.config]
    together = np.minimum(np.bincount(data.config, leverage), 0.99)[data.config]
    spread = np.sqrt(size / np.maximum(size - 1, 1))[data.config]
    return common / np.sqrt(1 - together) + (residuals * root - common) * spread


def leverages(slopes: Array) -> Array:
    """Diagonal of the hat matrix of slopes [n, f], [n]."""
    return (orthonormal(slopes) ** 2).sum(1)


def orthonormal(slopes: Array) -> Array:
    """An orthonormal basis of the columns of slopes [n, f], [n, f]."""
    length = np.sqrt((slopes**2).sum(0))
    return np.linalg.qr(slopes / np.where(length > 0, length, 1.0))[0]


def _levels(residuals: Array, data: FitData) -> tuple[Array, Array]:
    """Pools of errors between configurations and between runs of one, each of its own variance."""
    if data.n_configs == len(residuals):
        return np.zeros(1), residuals
    size = np.bincount(data.config)
    common = np.bincount(data.config, residuals) / size
    repeated = (size > 1)[data.config]
    within = (residuals - common[data.config])[repeated]
    # Means of configurations must differ as much as they do: what the noise of their runs does not
    # explain is between them, and where they differ by less than that noise would have it, the noise is less.
    means, noise = float((common**2).mean()), float((within**2).mean() * (1 / size).mean())
    if means > noise:
        return common * np.sqrt(1 - noise / means), within
    return np.zeros(1), within * np.sqrt(means / max(noise, 1e-300))


def _smooth_draws(pool: Array, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Draws from ± pool, smoothed, with the pool's own mean square."""
    kernel = _KERNEL * 1.4826 * float(np.median(np.abs(pool)))
    size = float((pool**2).mean())
    if size == 0:
        return np.zeros(shape)
    draws = rng.choice(pool, size=shape) * rng.choice([-1.0, 1.0], size=shape) + kernel * rng.standard_normal(shape)
    return draws * np.sqrt(size / (size + kernel**2))


def _widening(degrees: int) -> float:
    from scipy.special import ndtri, stdtrit  # quantiles of the normal and of t; scipy.stats takes 0.3 s to import

    return float(stdtrit(degrees, 0.975) / ndtri(0.975))
