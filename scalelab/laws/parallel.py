"""The parallel scaling law: P streams act like N·(k ln P + 1) parameters.

    L(N, P) = E + (A / (N·(k·ln P + 1)))^α

Chen et al., arXiv 2505.10475, equation 5. With k = 0 (or P = 1) it is the N-part of Chinchilla.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scalelab.laws.base import Array, Parameter, Points
from scalelab.units import format_number


class ParallelLaw:
    """L(N, P) = E + (A / (N·(k·ln P + 1)))^α, at one number of training tokens."""

    name = "parallel"
    latex = r"L(N,P) = E + \left(\frac{A}{N\,(k \ln P + 1)}\right)^{\alpha}"
    source = "Chen et al. 2025, arXiv 2505.10475, equation 5"
    # k may be negative: data in which streams hurt must be able to say so. The law ends where
    # k ln P + 1 reaches 0, and `loss` is NaN from there on.
    parameters = (
        Parameter("E", "nats/token", (0.05, 5.0), (1e-8, 50.0)),
        Parameter("A", "parameters", (1e2, 1e12), (1e-8, 1e30)),
        Parameter("k", "1", (0.0, 1.0), (-10.0, 100.0), positive=False),
        Parameter("alpha", "1", (0.05, 1.0), (1e-3, 5.0)),
    )

    def loss(self, params: Array, at: Points) -> Array:
        """Nats a token, [..., n] for params [..., 4]."""
        E, _, _, _ = _columns(params)
        return E + self._reducible(params, at)

    def jacobian(self, params: Array, at: Points) -> Array:
        """∂L/∂(E, A, k, α), [..., n, 4]."""
        _, A, k, alpha = _columns(params)
        reducible = self._reducible(params, at)
        gain = k * np.log(at.P) + 1
        with np.errstate(all="ignore"):
            columns = (
                np.ones_like(reducible),
                reducible * alpha / A,
                -reducible * alpha * np.log(at.P) / gain,
                reducible * np.log(A / (at.N * gain)),
            )
        return np.stack(columns, axis=-1)

    def equation(self, params: Mapping[str, float]) -> str:
        E, A, k, alpha = (format_number(params[p.name]) for p in self.parameters)
        return f"L = {E} + ({A} / (N·({k}·ln P + 1)))^{alpha}"

    def _reducible(self, params: Array, at: Points) -> Array:
        _, A, k, alpha = _columns(params)
        gain = k * np.log(at.P) + 1
        with np.errstate(all="ignore"):
            return np.where(gain > 0, np.exp(alpha * (np.log(A) - np.log(at.N * gain))), np.nan)


def _columns(params: Array) -> list[Array]:
    """E, A, k, α as [..., 1] each, to broadcast against points [n]."""
    return [params[..., i, None] for i in range(4)]
