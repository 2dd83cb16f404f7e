"""Fits of few runs: a law with its starting ranges as a prior, so that any number of runs has a posterior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.fit.objective import Objective
from scalelab.fit.solver import draw_starts
from scalelab.laws.base import Array, Points

_SUPPORT = 8  # points among the candidates, and among the targets
LEVEL = 0.3  # least standard deviation of ln loss of runs about those known
LEAST_SPREAD = 1e-3  # of a prior, in fitting coordinates


@dataclass(frozen=True)
class PriorObjective(Objective):
    """Least squares on ln loss, followed by one residual for each free parameter: its distance from a prior draw.

    A target has the n logarithms of the losses, then the f coordinates of the draw. Weights are those of the rows, then
    σ²/τ² for an error variance σ² and a prior variance τ².
    """

    kind: str = "log"

    def residuals(self, z: Array, target: Array) -> Array:
        """Return the residuals [..., n + f]; NaN where the law is undefined."""
        n = len(self.points.N)
        return np.concatenate([super().residuals(z, target[..., :n]), z - target[..., n:]], axis=-1)

    def evaluate(self, z: Array, target: Array) -> tuple[Array, Array]:
        """Return the residuals [..., n + f] and their derivatives by z, [..., n + f, f]."""
        n, f = len(self.points.N), z.shape[-1]
        if n:
            residuals, slopes = super().evaluate(z, target[..., :n])
        else:
            residuals, slopes = np.empty((*z.shape[:-1], 0)), np.empty((*z.shape[:-1], 0, f))
        identity = np.broadcast_to(np.eye(f), (*z.shape[:-1], f, f))
        prior = np.broadcast_to(z - target[..., n:], z.shape)
        return np.concatenate([residuals, prior], axis=-1), np.concatenate([slopes, identity], axis=-2)


@dataclass(frozen=True, eq=False)
class Support:
    """Points without a known loss, whose losses are expected near the known ones: within a factor, not at any value.

    This keeps laws with wide starting ranges from absurd losses at candidates and targets.
    """

    points: Points

    def expected(self, logs: Array) -> Array:
        """Return the expected ln loss at each point, [p], given known ones [n]."""
        return np.full(len(self.points.N), logs.mean())

    def width(self, logs: Array) -> float:
        """Return the standard deviation of ln loss about the expected one."""
        return max(LEVEL, float(np.ptp(logs)))

    def weights(self, logs: Array, variance: float) -> Array:
        """Return the weights [p] beside runs with errors of this variance."""
        return np.full(len(self.points.N), variance / self.width(logs) ** 2)

    def draws(self, logs: Array, count: int, rng: np.random.Generator) -> Array:
        """Return random ln losses [count, p], the level of all points being one draw."""
        shared = rng.standard_normal((count, 1))
        return self.expected(logs) + self.width(logs) * np.broadcast_to(shared, (count, len(self.points.N)))


def with_prior(objective: Objective, rows: np.ndarray, support: Support) -> PriorObjective:
    """Return the objective of some rows, followed by the support, with a prior."""
    o, points = objective, join(objective.points.subset(rows), support.points)
    return PriorObjective(o.law, points, o.scale, o.lower, o.upper, o.fixed)


def join(first: Points, second: Points) -> Points:
    """Return the points of both, in order."""
    others = {name: np.concatenate([first.value(name), second.value(name)]) for name in first.others}
    N, P, D = (
        np.concatenate([np.full(len(at.N), np.nan) if value is None else value for at, value in pairs])
        for pairs in ([(at, getattr(at, name)) for at in (first, second)] for name in ("N", "P", "D"))
    )
    return Points(N, P, D, others=others)


def prior_spread(objective: Objective) -> Array:
    """Return the prior's standard deviations [f] in fitting coordinates: half of each starting range."""
    spread = []
    for parameter, free in zip(objective.law.parameters, objective.free, strict=True):
        if free:
            low, high = np.log(parameter.start) if parameter.positive else np.array(parameter.start)
            spread.append(max((high - low) / 2, LEAST_SPREAD))
    return np.array(spread)


def prior_draws(objective: Objective, count: int, seed: int) -> Array:
    """Return draws [count, f] from the starting ranges, in fitting coordinates."""
    return draw_starts(objective, count, seed)


def support_of(candidates: Points, target: Points | None) -> Support:
    """Return some of the candidates and of the points of a target, evenly spaced in their order."""
    parts = [at for at in (candidates, target) if at is not None]
    some = [at.subset(np.unique(np.linspace(0, len(at.N) - 1, _SUPPORT).round().astype(int))) for at in parts]
    return Support(some[0] if len(some) == 1 else join(some[0], some[1]))
