"""The objective of a fit: a sum over runs of a loss of residuals.

    huber: Σ w_i·huber_δ(r_i),  r = ln L − ln loss;  huber_δ(r) = r²/2 for |r| ≤ δ, δ(|r| − δ/2) beyond
    log:   Σ w_i·r_i²/2 with the same r
    raw:   Σ w_i·r_i²/2 with r = L − loss
    asymmetric: huber, times a tenth for runs above the law (r < 0), since poorly tuned runs have a loss that is too
           high, never too low (after the expectiles of Newey & Powell 1987)

Huber with δ = 0.001 is the objective of Hoffmann et al. (arXiv 2203.15556) and of the ParScale
paper; the sum, not the mean. Parameters are in fitting coordinates: relative to the data's scale,
and as logarithms if positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scalelab.laws import Law
from scalelab.laws.base import Array, Points

DELTA = 1e-3
KINDS = ("huber", "log", "raw", "asymmetric")
LIGHT = 0.1  # weight of a run above the law relative to one below it, for `asymmetric`


def huber(residuals: Array, delta: float) -> Array:
    """Return Huber's loss of each residual, in the shape of `residuals`."""
    size = np.abs(residuals)
    inside = np.minimum(size, delta)
    return inside * (size - inside / 2)


@dataclass(frozen=True)
class Objective:
    """The objective of one law at fixed points.

    `scale`, `lower` and `upper` [k] are in the parameters' own units; parameters in `fixed` have the
    values given there. The methods take the data as `target` [n] (from `to_target`) and `weights`
    [n], or with one row for each point of a batch.
    """

    law: Law
    points: Points
    scale: Array
    lower: Array
    upper: Array
    fixed: Mapping[str, float]
    kind: str = "huber"
    delta: float = DELTA

    @cached_property
    def free(self) -> np.ndarray:
        """Mask of the fitted parameters, bool [k]; f of them are true."""
        return np.array([name not in self.fixed for name in self.law.names])

    @property
    def free_names(self) -> list[str]:
        """Names of the fitted parameters, in their order."""
        return [name for name in self.law.names if name not in self.fixed]

    def subset(self, rows: np.ndarray) -> Objective:
        """Return the objective at some of the points, with the same scales and bounds."""
        return replace(self, points=self.points.subset(rows))

    def to_target(self, loss: Array) -> Array:
        """Return the target of the residuals for losses [n]: the losses or their logarithms."""
        return loss if self.kind == "raw" else np.log(loss)

    def to_params(self, z: Array) -> Array:
        """Return natural parameters [..., k] from fitting coordinates of the free ones [..., f]."""
        params = np.broadcast_to(self._constants, (*z.shape[:-1], len(self.scale))).copy()
        with np.errstate(over="ignore"):
            params[..., self.free] = np.where(self._log, np.exp(z), z) * self.scale[self.free]
        return params

    def from_params(self, params: Array) -> Array:
        """Return fitting coordinates [..., f] of natural parameters [..., k]."""
        relative = params[..., self.free] / self.scale[self.free]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self._log, np.log(relative), relative)

    def bounds(self) -> tuple[Array, Array]:
        """Return lower and upper bounds of the fitting coordinates, [f] each."""
        return self.from_params(self.lower), self.from_params(self.upper)

    def residuals(self, z: Array, target: Array) -> Array:
        """Return the residuals [..., n]; NaN where the law is undefined."""
        with np.errstate(all="ignore"):
            return self._link(self.law.loss(self.to_params(z), self.points)) - target

    def evaluate(self, z: Array, target: Array) -> tuple[Array, Array]:
        """Return the residuals [..., n] and ∂residuals/∂z [..., n, f]."""
        params = self.to_params(z)
        with np.errstate(all="ignore"):
            loss, slopes = self.law.evaluate(params, self.points)
            chain = np.where(self._log, params[..., self.free], self.scale[self.free])
            slopes = (slopes if self.free.all() else slopes[..., self.free]) * chain[..., None, :]
            if self.kind != "raw":
                slopes /= loss[..., None]
            return self._link(loss) - target, slopes

    def value(self, residuals: Array, weights: Array) -> Array:
        """Return the objective [...] of residuals [..., n]; infinite where the law is undefined."""
        with np.errstate(all="ignore"):
            each = huber(residuals, self.delta) if self.robust else residuals**2 / 2
            if self.kind == "asymmetric":
                each = each * self.side(residuals)
            total = (weights * each).sum(-1)
        return np.where(np.isfinite(total), total, np.inf)

    def influence(self, residuals: Array) -> Array:
        """Return the weight of each residual relative to least squares: ψ(r)/r, [..., n]."""
        if not self.robust:
            return np.ones_like(residuals)
        with np.errstate(divide="ignore"):
            share = np.minimum(1.0, self.delta / np.abs(residuals))
        return share * self.side(residuals) if self.kind == "asymmetric" else share

    @property
    def robust(self) -> bool:
        """True for Huber's loss and its asymmetric form."""
        return self.kind in ("huber", "asymmetric")

    def side(self, residuals: Array) -> Array:
        """Return the weight of the side of the law that each residual is on, [..., n]."""
        return np.where(residuals < 0, LIGHT, 1.0)

    def curvature(self, residuals: Array, width: float) -> Array:
        """Return the second derivative of the expected objective by each residual, [..., n].

        For Huber's loss it is 1 within δ and 0 beyond. As few residuals may lie within δ, their density there is
        estimated from those within `width`.
        """
        if not self.robust:
            return np.ones_like(residuals)
        reach = max(self.delta, width)
        bend = np.where(np.abs(residuals) < reach, self.delta / reach, 0.0)
        return bend * self.side(residuals) if self.kind == "asymmetric" else bend

    @cached_property
    def _log(self) -> np.ndarray:
        return np.array([p.positive for p in self.law.parameters])[self.free]

    @cached_property
    def _constants(self) -> Array:
        return np.array([self.fixed.get(name, 0.0) for name in self.law.names])

    def _link(self, loss: Array) -> Array:
        # A negative loss is outside every law's domain; without a logarithm it has to be checked.
        return np.where(loss > 0, loss, np.nan) if self.kind == "raw" else np.log(loss)
