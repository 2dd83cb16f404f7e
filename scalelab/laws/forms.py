"""Laws beyond sums of simple powers: breaks, exponents that change with N, repeated data, experts, tuning.

Each has analytic derivatives. Where a logarithm needs a unit, N and D are relative to `N_UNIT` parameters and
`D_UNIT` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from scalelab.laws.base import Array, Parameter, Points, Variable
from scalelab.laws.terms import EXPONENT_BOUNDS, SIZE_BOUNDS, Power, times_log, unit_of

N_UNIT, D_UNIT = 1e9, 1e11
N_WRITTEN, D_WRITTEN = "1e9", "1e11"  # in equations


class Broken:
    """(A/x)^c0·(1 + (x/d)^(1/f))^(−c1·f): a power law that changes its exponent at d, over a width of f.

    Caballero et al. 2023, arXiv 2210.14891, equation 1 with one break.
    """

    def __init__(self, variable: Literal["N", "D", "C"]) -> None:
        self.variable: Variable = variable
        self.parameters: tuple[Parameter, ...] = (
            Parameter("A", unit_of(variable), (1e-8, 1e2), SIZE_BOUNDS, relative_to=variable, needs=variable),
            Parameter("c0", "1", (0.05, 1.0), EXPONENT_BOUNDS, needs=variable),
            Parameter("c1", "1", (-0.5, 0.5), (-5.0, 5.0), positive=False, needs=variable),
            Parameter("d", unit_of(variable), (0.05, 20.0), SIZE_BOUNDS, relative_to=variable, needs=variable),
            Parameter("f", "1", (0.1, 1.0), (0.02, 10.0), needs=variable),
        )
        x = variable
        self.latex = (
            rf"\left(\frac{{A}}{{{x}}}\right)^{{c_0}}\left(1 + \left(\frac{{{x}}}{{d}}\right)^{{1/f}}\right)^{{-c_1 f}}"
        )

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        A, c0, c1, d, f = values
        x = at.ln(self.variable)
        return np.exp(c0 * (np.log(A) - x) - c1 * f * np.logaddexp(0.0, (x - np.log(d)) / f))

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by A, c0, c1, d and f, [..., n] each."""
        A, c0, c1, d, f = values
        x = at.ln(self.variable)
        u = (x - np.log(d)) / f
        soft, share = np.logaddexp(0.0, u), 0.5 * (1 + np.tanh(u / 2))
        return (
            value * c0 / A,
            value * (np.log(A) - x),
            -value * f * soft,
            value * c1 * share / d,
            -value * c1 * (soft - u * share),
        )

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        A, c0, c1, d, f = values
        return f"({A} / {self.variable})^{c0}·(1 + ({self.variable} / {d})^(1 / {f}))^(-({c1})·{f})"


class Farseer:
    """exp(s(N)) + exp(b(N))·D^(−exp(a(N))), each of s, b and a a shifted power of N.

    Li et al. 2025, arXiv 2506.10972. They write a power as a·N^γ + b; here it is v + r·((N/10⁹)^g − 1)/g, the same
    family with parameters that are easy to read: value and slope by ln N at 10⁹ parameters, and the curvature.
    """

    names = ("s", "b", "a")

    def __init__(self) -> None:
        starts = {
            "s": ((-1.5, 0.8), (-0.3, 0.0), (-5.0, 5.0)),
            "b": ((3.0, 9.0), (-1.5, 0.3), (-10.0, 25.0)),
            "a": ((-1.6, -0.7), (-0.3, 0.1), (-6.0, 2.0)),
        }
        self.parameters: tuple[Parameter, ...] = tuple(
            p
            for name, (value, rate, bounds) in starts.items()
            for p in (
                Parameter(f"{name}_v", "1", value, bounds, positive=False),
                Parameter(f"{name}_r", "1", rate, (-10.0, 10.0), positive=False, needs="N"),
                Parameter(f"{name}_g", "1", (-0.3, 0.3), (-3.0, 3.0), positive=False, needs="N"),
            )
        )
        self.latex = r"e^{s(N)} + e^{b(N)} D^{-e^{a(N)}}"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        s, b, a = (_shifted(values[3 * i : 3 * i + 3], at)[0] for i in range(3))
        return np.exp(s) + np.exp(b - np.exp(a) * at.ln("D"))

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by value, slope and shape of s, b and a, [..., n] each."""
        (s, ds), (b, db), (a, da) = (_shifted(values[3 * i : 3 * i + 3], at) for i in range(3))
        steep = np.exp(a) * at.ln("D")
        floor, falls = np.exp(s), np.exp(b - steep)
        outer = (floor, falls, -falls * steep)
        return [o * inner for o, part in zip(outer, (ds, db, da), strict=True) for inner in part]

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        s, b, a = (
            f"{v} + ({r})·((N / {N_WRITTEN})^({g}) - 1)/({g})"
            for v, r, g in (values[3 * i : 3 * i + 3] for i in range(3))
        )
        return f"exp({s}) + exp({b} - exp({a})·ln D)"


def _shifted(values: Sequence[Array], at: Points) -> tuple[Array, tuple[Array, Array, Array]]:
    """Return v + r·(x^g − 1)/g for x = N/10⁹ (r·ln x where g is 0), and its derivatives by v, r and g."""
    v, r, g = values
    x = at.ln("N") - np.log(N_UNIT)
    gx = g * x
    small = np.abs(gx) < 1e-4
    safe = np.where(small, 1.0, g)
    rise = np.where(small, x * (1 + gx / 2 + gx**2 / 6), np.expm1(gx) / safe)
    bend = np.where(small, x**2 * (0.5 + gx / 3), (gx * np.exp(gx) - np.expm1(gx)) / safe**2)
    return v + r * rise, (np.ones_like(rise), rise, r * bend)


class Repeated:
    """(A/N')^α + (B/D')^β: repeated tokens and excess parameters have a diminishing effect.

    Muennighoff et al. 2023, arXiv 2305.16264, equations 5 and 6: D' = U + U·R_D·(1 − exp(−(D/U − 1)/R_D)), and N' from
    N in the same way with R_N; U_N is the size that the law itself makes optimal for U tokens.
    """

    def __init__(self) -> None:
        first, second = Power(), Power("D", ("B", "beta"))
        self.parameters: tuple[Parameter, ...] = (
            *first.parameters,
            *second.parameters,
            Parameter("R_D", "epochs", (2.0, 50.0), (0.01, 1e6), needs="U"),
            Parameter("R_N", "1", (1.0, 50.0), (0.01, 1e6), needs="U"),
        )
        self.latex = r"\left(\frac{A}{N'(N, U)}\right)^\alpha + \left(\frac{B}{D'(D, U)}\right)^\beta"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        ln_N, ln_D, *_ = self._effective(values, at)
        A, alpha, B, beta = values[:4]
        return np.exp(alpha * (np.log(A) - ln_N)) + np.exp(beta * (np.log(B) - ln_D))

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by A, α, B, β, R_D and R_N, [..., n] each."""
        ln_N, ln_D, by_base, by_R_N, by_R_D, base = self._effective(values, at)
        A, alpha, B, beta, *_ = values
        size, data = (np.exp(e * (np.log(c) - x)) for c, e, x in ((A, alpha, ln_N), (B, beta, ln_D)))
        lever = -size * alpha * by_base  # derivative by ln U_N
        below = base < at.ln("N")  # U_N depends on the law's parameters only where N exceeds it
        ln_B = at.ln("U") - np.log(B)
        ratio = np.log(alpha / beta)
        return (
            size * alpha / A + np.where(below, lever / A, 0.0),
            size * (np.log(A) - ln_N) + np.where(below, lever * ((1 - ratio) / alpha**2 - beta / alpha**2 * ln_B), 0.0),
            data * beta / B - np.where(below, lever * beta / (alpha * B), 0.0),
            data * (np.log(B) - ln_D) + np.where(below, lever * (ln_B / alpha - 1 / (alpha * beta)), 0.0),
            -data * beta * by_R_D,
            -size * alpha * by_R_N,
        )

    def _effective(self, values: Sequence[Array], at: Points) -> tuple[Array, ...]:
        """Return ln N', ln D', d ln N'/d ln U_N, d ln N'/d R_N, d ln D'/d R_D, and ln of the optimal size for U."""
        A, alpha, B, beta, R_D, R_N = values
        ln_U = at.ln("U")
        best = np.log(A) + np.log(alpha / beta) / alpha + beta / alpha * (ln_U - np.log(B))
        base = np.minimum(at.ln("N"), best)
        grown_N, by_R_N, by_N = _worth(at.ln("N") - base, R_N)
        grown_D, by_R_D, _ = _worth(np.maximum(at.ln("D") - ln_U, 0.0), R_D)
        unique = np.minimum(ln_U, at.ln("D"))
        return base + grown_N, unique + grown_D, 1 - by_N, by_R_N, by_R_D, best

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        A, alpha, B, beta, R_D, R_N = values
        best = f"{A}·({alpha} / {beta})^(1 / {alpha})·(U / {B})^({beta} / {alpha})"
        return f"({A} / N')^{alpha} + ({B} / D')^{beta}, N' = worth(N, min(N, {best}), {R_N}), D' = worth(D, U, {R_D})"


def _worth(excess: Array, R: Array) -> tuple[Array, Array, Array]:
    """Return ln(1 + R·(1 − exp(−r/R))) for r = exp(excess) − 1, and its derivatives by R and `excess`."""
    r = np.expm1(np.minimum(excess, 300.0))
    fades = np.exp(-r / R)
    total = 1 - R * np.expm1(-r / R)
    by_R = (-np.expm1(-r / R) - r / R * fades) / total
    return np.log(total), by_R, fades * (r + 1) / total


class StartedExperts(Power):
    """(A/N)^α·((X − 1 + S)/S)^(−g): the first experts add less than a power of their number says, as if there were S.

    The saturated number of experts of Clark et al. 2022, arXiv 2202.01169, from its start alone: without their
    interaction with N and their limit of many experts, which need more runs than most tables have. A dense model has
    X = 1, and so the factor 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parameters = (
            *self.parameters,
            Parameter("S", "1", (1.0, 8.0), (1e-3, 1e4), needs="X"),
            Parameter("g", "1", (0.0, 0.3), (-5.0, 5.0), positive=False, needs="X"),
        )
        self.latex += r"\left(\frac{X - 1 + S}{S}\right)^{-g}"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        A, alpha, S, g = values
        return np.exp(alpha * (np.log(A) - at.ln("N")) - g * self._ln_experts(S, at))

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by A, α, S and g, [..., n] each."""
        A, alpha, S, g = values
        more = np.exp(at.ln("X")) - 1
        by_S = value * g * more / (S * (more + S))
        return value * (alpha / A), times_log(value, np.log(A) - at.ln("N")), by_S, -value * self._ln_experts(S, at)

    def _ln_experts(self, S: Array, at: Points) -> Array:
        return np.log1p((np.exp(at.ln("X")) - 1) / S)

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        A, alpha, S, g = values
        return f"({A} / N)^{alpha}·((X - 1 + {S}) / {S})^(-({g}))"


class Experts(Power):
    """(A/N)^α·X^(−(g + h·ln(N/10⁹))): experts divide the reducible loss, by less at larger N if h < 0.

    Clark et al. 2022, arXiv 2202.01169, equation 1, plus a floor. N is the active or dense size, X the number of
    experts or the ratio of total to active parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parameters = (
            *self.parameters,
            Parameter("g", "1", (0.0, 0.3), (-5.0, 5.0), positive=False, needs="X"),
            Parameter("h", "1", (-0.05, 0.05), (-2.0, 2.0), positive=False, needs="X"),
        )
        self.latex += r"X^{-(g + h \ln (N/10^9))}"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        A, alpha, g, h = values
        size = at.ln("N") - np.log(N_UNIT)
        return np.exp(alpha * (np.log(A) - at.ln("N")) - (g + h * size) * at.ln("X"))

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by A, α, g and h, [..., n] each."""
        A, alpha, *_ = values
        size = at.ln("N") - np.log(N_UNIT)
        away = -value * at.ln("X")
        return value * (alpha / A), times_log(value, np.log(A) - at.ln("N")), away, away * size

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        A, alpha, g, h = values
        return f"({A} / N)^{alpha}·X^(-({g} + ({h})·ln(N / {N_WRITTEN})))"
