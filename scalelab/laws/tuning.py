"""A law for learning rate and batch size, whose optima are powers of N and D."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scalelab.laws.base import Array, Law, Parameter, Points
from scalelab.laws.forms import D_UNIT, D_WRITTEN, N_UNIT, N_WRITTEN
from scalelab.laws.terms import Power
from scalelab.units import format_number


class TuningLaw(Law):
    """(E + (A/N)^α + (B/D)^β)·exp(q), q a quadratic form of ln lr − ln lr* and ln B − ln B*.

    lr* = lr_v·(N/10⁹)^lr_N·(D/10¹¹)^lr_D, and B* in the same way, as in StepLaw (Li et al. 2025, arXiv
    2503.04715). q = u·x² + w·y² + m·√(u·w)·x·y with |m| < 1. `scalelab.fit.tuning` fits the optimum.
    """

    name = "lr-batch"
    variables = ("N", "D", "lr", "B")
    source = "Li et al. 2025, arXiv 2503.04715: optimum as powers of N and D; quadratic around it"
    latex = r"L(N,D,\eta,B) = \left(E + (A/N)^\alpha + (B/D)^\beta\right) e^{q(\ln\eta - \ln\eta^*, \ln B - \ln B^*)}"

    def __init__(self) -> None:
        self._size, self._data = Power(), Power("D", ("B", "beta"))
        self.parameters = (
            Parameter("E", "nats/token", (0.05, 0.98), (1e-8, 2.0), relative_to="loss"),
            *self._size.parameters,
            *self._data.parameters,
            Parameter("lr_v", "1", (0.1, 10.0), (1e-4, 1e4), relative_to="lr", needs="lr"),
            Parameter("lr_N", "1", (-1.0, 0.0), (-3.0, 3.0), positive=False, needs="lr"),
            Parameter("lr_D", "1", (-0.3, 0.5), (-3.0, 3.0), positive=False, needs="lr"),
            Parameter("B_v", "1", (0.1, 10.0), (1e-4, 1e4), relative_to="B", needs="B"),
            Parameter("B_N", "1", (-0.3, 0.3), (-3.0, 3.0), positive=False, needs="B"),
            Parameter("B_D", "1", (0.0, 0.8), (-3.0, 3.0), positive=False, needs="B"),
            Parameter("u", "1", (1e-3, 3e-2), (1e-7, 10.0), needs="lr", neutral=0.0),
            Parameter("w", "1", (1e-3, 3e-2), (1e-7, 10.0), needs="B", neutral=0.0),
            Parameter("m", "1", (-0.8, 0.8), (-0.99, 0.99), positive=False, needs="B"),
        )

    def loss(self, params: Array, at: Points) -> Array:
        """Return the loss, nats per token, [..., n]."""
        base, q, *_ = self._parts(params, at)
        return base * np.exp(q)

    def evaluate(self, params: Array, at: Points) -> tuple[Array, Array]:
        """Return the loss [..., n] and its analytic derivatives by the parameters, [..., n, 14]."""
        base, q, x, y, n, d, terms = self._parts(params, at)
        value = base * np.exp(q)
        _, A, alpha, B, beta, lr_v, _, _, B_v, _, _, u, w, m = (params[..., i, None] for i in range(14))
        root = np.sqrt(u * w)
        grown = np.exp(q)
        size = [s * grown for s in self._size.slopes((A, alpha), at, terms[0])]
        data = [s * grown for s in self._data.slopes((B, beta), at, terms[1])]
        by_x, by_y = value * (2 * u * x + m * root * y), value * (2 * w * y + m * root * x)
        with np.errstate(divide="ignore", invalid="ignore"):
            cross = np.where(root > 0, m * root * x * y / 2, 0.0)
            by_u = value * (x**2 + np.where(u > 0, cross / u, 0.0))
            by_w = value * (y**2 + np.where(w > 0, cross / w, 0.0))
        columns = [grown, *size, *data, -by_x / lr_v, -by_x * n, -by_x * d, -by_y / B_v, -by_y * n, -by_y * d]
        columns += [by_u, by_w, value * root * x * y]
        shape = value.shape
        return value, np.stack([np.broadcast_to(c, shape) for c in columns], axis=-2).swapaxes(-1, -2)

    def optimum(self, params: Array, N: float, D: float) -> tuple[Array, Array]:
        """Return the best learning rate and batch size at N and D, [...] each, for params [..., k]."""
        n, d = np.log(N / N_UNIT), np.log(D / D_UNIT)
        rate = params[..., 5] * np.exp(params[..., 6] * n + params[..., 7] * d)
        return rate, params[..., 8] * np.exp(params[..., 9] * n + params[..., 10] * d)

    def equation(self, params: Mapping[str, float], digits: int = 4) -> str:
        """Return the law with constants, as a formula that can be evaluated."""
        v = {name: format_number(params[name], digits) for name in self.names}
        n, d = f"ln(N / {N_WRITTEN})", f"ln(D / {D_WRITTEN})"
        x = f"(ln lr - ln {v['lr_v']} - ({v['lr_N']})·{n} - ({v['lr_D']})·{d})"
        y = f"(ln B - ln {v['B_v']} - ({v['B_N']})·{n} - ({v['B_D']})·{d})"
        base = f"{v['E']} + ({v['A']} / N)^{v['alpha']} + ({v['B']} / D)^{v['beta']}"
        cross = f"({v['m']})·({v['u']}·{v['w']})^0.5·{x}·{y}"
        return f"L = ({base})·exp({v['u']}·{x}^2 + {v['w']}·{y}^2 + {cross})"

    def _parts(self, params: Array, at: Points) -> tuple:
        E, A, alpha, B, beta, lr_v, lr_N, lr_D, B_v, B_N, B_D, u, w, m = (params[..., i, None] for i in range(14))
        n, d = at.ln("N") - np.log(N_UNIT), at.ln("D") - np.log(D_UNIT)
        terms = self._size.value((A, alpha), at), self._data.value((B, beta), at)
        x = at.ln("lr") - np.log(lr_v) - lr_N * n - lr_D * d
        y = at.ln("B") - np.log(B_v) - B_N * n - B_D * d
        q = u * x**2 + w * y**2 + m * np.sqrt(u * w) * x * y
        return E + terms[0] + terms[1], q, x, y, n, d, terms
