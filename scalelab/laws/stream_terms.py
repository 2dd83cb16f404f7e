"""Terms of laws that depend on the number of streams P: factors on N, a factor on the loss, and an additive term.

Source: Chen et al. (arXiv 2505.10475, proposition 1 and equation 5), unless a term names another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalelab.laws.base import Array, Parameter, Points
from scalelab.laws.terms import Power, times_log


class _GainedPower(Power):
    """(A/(N·g(P)))^α for a gain g with one parameter: streams act like more parameters."""

    gain_parameter: Parameter
    gain_latex: str

    def __init__(self) -> None:
        super().__init__()
        A, alpha = self.parameters
        self.parameters = (A, self.gain_parameter, alpha)
        self.latex = rf"\left(\frac{{A}}{{N\,{self.gain_latex}}}\right)^{{\alpha}}"

    def log_gain(self, parameter: Array, at: Points) -> Array:
        """Return ln g(P), [..., n]."""
        raise NotImplementedError

    def log_gain_slope(self, parameter: Array, at: Points) -> Array:
        """Return the derivative of ln g(P) by the gain parameter, [..., n]."""
        raise NotImplementedError

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        return np.exp(values[2] * self._log_ratio(values, at))

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by A, the gain parameter and α, [..., n] each."""
        A, gain, alpha = values
        steep = value * alpha
        return steep / A, -steep * self.log_gain_slope(gain, at), times_log(value, self._log_ratio(values, at))

    def _log_ratio(self, values: Sequence[Array], at: Points) -> Array:
        return np.log(values[0]) - at.ln_N - self.log_gain(values[1], at)


class LogGain(_GainedPower):
    """(A/(N·(k ln P + 1)))^α, equation 5 of arXiv 2505.10475.

    k may be negative, for data in which streams raise the loss. The law is undefined where
    k ln P + 1 ≤ 0.
    """

    gain_parameter = Parameter("k", "1", (0.0, 1.0), (-10.0, 100.0), positive=False, needs="P")
    gain_latex = r"(k \ln P + 1)"

    def log_gain(self, parameter: Array, at: Points) -> Array:
        """Return ln(k ln P + 1), [..., n]; NaN where the argument is not positive."""
        gain = parameter * at.ln_P + 1
        return np.log(np.where(gain > 0, gain, np.nan))

    def log_gain_slope(self, parameter: Array, at: Points) -> Array:
        """Return the derivative of ln(k ln P + 1) by k, [..., n]."""
        return at.ln_P / (parameter * at.ln_P + 1)

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        return f"({values[0]} / (N·({values[1]}·ln P + 1)))^{values[2]}"


class PowerGain(_GainedPower):
    """(A/(N·P^γ))^α: each doubling of P equals the same factor of N."""

    gain_parameter = Parameter("gamma", "1", (0.0, 0.5), (-5.0, 5.0), positive=False, needs="P")
    gain_latex = r"P^{\gamma}"

    def log_gain(self, parameter: Array, at: Points) -> Array:
        """Return γ ln P, [..., n]."""
        return parameter * at.ln_P

    def log_gain_slope(self, parameter: Array, at: Points) -> Array:
        """Return ln P, the derivative of γ ln P by γ, [..., n]."""
        return at.ln_P + np.zeros_like(parameter)

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        return f"({values[0]} / (N·P^{_signed(values[1])}))^{values[2]}"


class PeakGain(Power):
    """(A/(N·P^(γ − q·ln P)))^α: the gain of streams rises up to P* = exp(γ/(2q)) and falls beyond it.

    Measured gains fall again at large P, in sweeps of tiny models here and elsewhere; q = 0 is the power law of P.
    """

    def __init__(self) -> None:
        super().__init__()
        A, alpha = self.parameters
        self.parameters = (
            A,
            Parameter("gamma", "1", (0.0, 0.5), (-5.0, 5.0), positive=False, needs="P"),
            Parameter("q", "1", (0.0, 0.2), (-2.0, 2.0), positive=False, needs="P"),
            alpha,
        )
        self.latex = r"\left(\frac{A}{N\,P^{\gamma - q \ln P}}\right)^{\alpha}"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        return np.exp(values[3] * self._gained(values, at))

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by A, γ, q and α, [..., n] each."""
        A, _, _, alpha = values
        steep = value * alpha
        return steep / A, -steep * at.ln_P, steep * at.ln_P**2, times_log(value, self._gained(values, at))

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        return f"({values[0]} / (N·P^({values[1]} - ({values[2]})·ln P)))^{values[3]}"

    def _gained(self, values: Sequence[Array], at: Points) -> Array:
        return np.log(values[0]) - at.ln_N - values[1] * at.ln_P + values[2] * at.ln_P**2


class ReuseGain(Power):
    """(A/(N·P^γ·R^φ))^α: streams and passes through the layers, each with an exponent, act like more parameters.

    An exponent of 1 would make each of them as good as its number of separate weights, 0 leaves no effect. φ is the
    recurrence-equivalence exponent of arXiv 2604.21106, if all layers are repeated.
    """

    def __init__(self) -> None:
        super().__init__()
        A, alpha = self.parameters
        self.parameters = (
            A,
            Parameter("gamma", "1", (0.0, 0.5), (-5.0, 5.0), positive=False, needs="P"),
            Parameter("phi", "1", (0.0, 0.8), (-5.0, 5.0), positive=False, needs="R"),
            alpha,
        )
        self.latex = r"\left(\frac{A}{N\,P^{\gamma} R^{\varphi}}\right)^{\alpha}"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        return np.exp(values[3] * self._gained(values, at))

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by A, γ, φ and α, [..., n] each."""
        A, _, _, alpha = values
        steep = value * alpha
        return steep / A, -steep * at.ln_P, -steep * at.ln("R"), times_log(value, self._gained(values, at))

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        A, gamma, phi, alpha = values
        return f"({A} / (N·P^{_signed(gamma)}·R^{_signed(phi)}))^{alpha}"

    def _gained(self, values: Sequence[Array], at: Points) -> Array:
        return np.log(values[0]) - at.ln_N - values[1] * at.ln_P - values[2] * at.ln("R")


class Diversity(Power):
    """(A/N)^α·(1 + (P − 1)ρ)/P, proposition 1 of arXiv 2505.10475: ρ is the correlation of the streams' errors.

    With ρ = 1 there is no gain, with ρ = 0 the reducible loss is divided by P; above 1, streams raise the loss.
    """

    def __init__(self) -> None:
        super().__init__()
        rho = Parameter("rho", "1", (0.0, 1.0), (-1.0, 10.0), positive=False, needs="P", neutral=1.0)
        A, alpha = self.parameters
        self.parameters = (A, rho, alpha)
        self.latex += r"\frac{1 + (P - 1)\rho}{P}"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        A, rho, alpha = values
        share = (1 + (at.P - 1) * rho) / at.P
        return np.where(share > 0, super().value((A, alpha), at) * share, np.nan)

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by A, ρ and α, [..., n] each."""
        A, rho, alpha = values
        steep = value * (at.P - 1) / (1 + (at.P - 1) * rho)
        return value * alpha / A, steep, times_log(value, self._log_ratio((A, alpha), at))

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        return f"({values[0]} / N)^{values[2]}·(1 + (P - 1)·{_signed(values[1])})/P"


class StreamPower:
    """B·P^(−c): streams lower the loss by an amount that does not depend on N.

    B may be negative, for data in which streams raise the loss.
    """

    def __init__(self, name: str = "B") -> None:
        self.parameters = (
            Parameter(name, "nats/token", (0.0, 0.3), (-10.0, 10.0), positive=False, relative_to="loss", needs="P"),
            Parameter("c", "1", (0.05, 2.0), (1e-3, 20.0), needs="P", neutral=0.5),
        )
        self.latex = rf"{name}\,P^{{-c}}"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        return values[0] * np.exp(-values[1] * at.ln_P)

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by B and c, [..., n] each."""
        return np.exp(-values[1] * at.ln_P), -value * at.ln_P

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        return f"{values[0]}·P^-{values[1]}"


def _signed(number: str) -> str:
    """Return a number that may follow an operator: in brackets if negative."""
    return f"({number})" if number.startswith("-") else number
