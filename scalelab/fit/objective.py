"""What a fit minimises: the sum of Huber losses of log residuals.

    Σ_i huber_δ(ln L(x_i; θ) − ln loss_i),  huber_δ(r) = r²/2 for |r| ≤ δ, δ(|r| − δ/2) beyond

δ = 0.001 as in Hoffmann et al. (arXiv 2203.15556) and the ParScale paper; the sum, not the mean.
Parameters are in fitting coordinates: the logarithm of positive ones, the rest as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import Array, Law, Points

DELTA = 1e-3


def huber(residuals: Array, delta: float) -> Array:
    size = np.abs(residuals)
    return np.where(size <= delta, residuals**2 / 2, delta * (size - delta / 2))


@dataclass(frozen=True)
class Objective:
    """The objective of one law on points and log losses.

    `free` [k] says which parameters are fitted; the others keep the value in `fixed` [k].
    """

    law: Law
    points: Points
    free: np.ndarray
    fixed: Array
    delta: float = DELTA

    def to_params(self, z: Array) -> Array:
        """Natural parameters [..., k] from fitting coordinates of the free ones [..., f]."""
        params = np.broadcast_to(self.fixed, (*z.shape[:-1], len(self.fixed))).copy()
        params[..., self.free] = np.where(self._log, np.exp(z), z)
        return params

    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of the fitting coordinates, [f] each."""
        chosen = [p for p, free in zip(self.law.parameters, self.free, strict=True) if free]
        scale = [np.log if p.positive else float for p in chosen]
        ends = [[f(p.bounds[i]) for p, f in zip(chosen, scale, strict=True)] for i in (0, 1)]
        return np.array(ends[0]), np.array(ends[1])

    def residuals(self, z: Array, log_loss: Array) -> Array:
        """Log residuals [..., n]; NaN where the law is undefined."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(self.law.loss(self.to_params(z), self.points)) - log_loss

    def jacobian(self, z: Array) -> Array:
        """∂residuals/∂z, [..., n, f]."""
        params = self.to_params(z)
        chain = np.where(self._log, params[..., self.free], 1.0)
        slopes = self.law.jacobian(params, self.points)[..., self.free] * chain[..., None, :]
        return slopes / self.law.loss(params, self.points)[..., None]

    def value(self, residuals: Array) -> Array:
        """The objective [...] of residuals [..., n]; infinite where the law is undefined."""
        total = huber(residuals, self.delta).sum(-1)
        return np.where(np.isfinite(total), total, np.inf)

    @property
    def _log(self) -> np.ndarray:
        return np.array([p.positive for p in self.law.parameters])[self.free]
