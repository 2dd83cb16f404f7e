"""Laws as sums of terms: the sum, a floor, and powers of N, D and C; `stream_terms` has those of P.

Each term has parameters, a value, derivatives and a written form. Powers of N and D are those of
Hoffmann et al. (arXiv 2203.15556, equation 2), written as (A/N)^α, so that A is a number of
parameters; Hoffmann's A is this A to the power of α.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from scalelab.laws.base import Array, Law, Parameter, Points, Variable
from scalelab.units import format_number

EXPONENT_BOUNDS = (1e-3, 5.0)
SIZE_BOUNDS = (1e-100, 1e100)


class Term(Protocol):
    """One term of a sum. `values` are its parameters, [..., 1] each, which broadcast against points [n]."""

    parameters: tuple[Parameter, ...]
    latex: str

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]; NaN outside the term's domain."""
        ...

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by each parameter, [..., n] each; `value` is the result of `value`."""
        ...

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants, as a formula that can be evaluated."""
        ...


class SumLaw(Law):
    """A law that is a sum of terms."""

    def __init__(self, name: str, variables: tuple[Variable, ...], terms: Sequence[Term], source: str) -> None:
        self.name = name
        self.variables = variables
        self.source = source
        self.terms = tuple(terms)
        self.parameters = tuple(p for term in self.terms for p in term.parameters)
        self.latex = f"L({','.join(variables)}) = " + " + ".join(term.latex for term in self.terms)

    def loss(self, params: Array, at: Points) -> Array:
        """Return the sum of the terms, nats per token, [..., n]."""
        columns = self._columns(params)
        total = sum(term.value(mine, at) for term, mine in zip(self.terms, columns, strict=True))
        return np.asarray(total) + np.zeros(np.shape(at.value(self.variables[0])))

    def evaluate(self, params: Array, at: Points) -> tuple[Array, Array]:
        """Return the loss [..., n] and its analytic derivatives by the parameters, [..., n, k]."""
        shape: tuple[int, ...] = np.broadcast_shapes((*params.shape[:-1], 1), np.shape(at.value(self.variables[0])))
        total = np.zeros(shape)
        jacobian = np.empty((*shape[:-1], params.shape[-1], shape[-1]))  # one row per parameter
        index = 0
        for term, mine in zip(self.terms, self._columns(params), strict=True):
            value = term.value(mine, at)
            total += value
            for slope in term.slopes(mine, at, value):
                jacobian[..., index, :] = slope
                index += 1
        return total, jacobian.swapaxes(-1, -2)

    def equation(self, params: Mapping[str, float], digits: int = 4) -> str:
        """Return the law with constants, as a formula that can be evaluated."""
        shown = {p.name: format_number(params[p.name], digits) for p in self.parameters}
        return "L = " + " + ".join(term.text([shown[p.name] for p in term.parameters]) for term in self.terms)

    def _columns(self, params: Array) -> list[list[Array]]:
        columns, index = [], 0
        for term in self.terms:
            width = len(term.parameters)
            columns.append([params[..., i, None] for i in range(index, index + width)])
            index += width
        return columns


class Floor:
    """E, the irreducible loss."""

    parameters = (Parameter("E", "nats/token", (0.05, 0.98), (1e-8, 2.0), relative_to="loss"),)
    latex = "E"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        return values[0]

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by E, [..., n] each."""
        return (np.ones_like(value),)

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        return values[0]


class Power:
    """(A/N)^α, or (B/D)^β."""

    def __init__(self, variable: Literal["N", "D", "C"] = "N", names: tuple[str, str] = ("A", "alpha")) -> None:
        self.variable: Variable = variable
        unit = unit_of(variable)
        self.parameters: tuple[Parameter, ...] = (
            Parameter(names[0], unit, (1e-8, 1e2), SIZE_BOUNDS, relative_to=variable, needs=variable),
            Parameter(names[1], "1", (0.05, 1.0), EXPONENT_BOUNDS, needs=variable),
        )
        self.latex = rf"\left(\frac{{{names[0]}}}{{{variable}}}\right)^{{\{names[1]}}}"

    def value(self, values: Sequence[Array], at: Points) -> Array:
        """Return the value of the term, nats per token, [..., n]."""
        return np.exp(values[1] * self._log_ratio(values, at))

    def slopes(self, values: Sequence[Array], at: Points, value: Array) -> Sequence[Array]:
        """Return the derivatives by scale and exponent, [..., n] each."""
        return value * (values[1] / values[0]), times_log(value, self._log_ratio(values, at))

    def text(self, values: Sequence[str]) -> str:
        """Return the term with its constants written out."""
        return f"({values[0]} / {self.variable})^{values[1]}"

    def _log_ratio(self, values: Sequence[Array], at: Points) -> Array:
        return np.log(values[0]) - at.ln(self.variable)


def unit_of(variable: Variable) -> str:
    """Return the unit of a scale parameter of `variable`."""
    return {"N": "parameters", "D": "tokens", "C": "FLOPs"}.get(variable, "1")


def times_log(value: Array, log: Array) -> Array:
    """Return value·log, or 0 where value is 0: a term fixed at 0 has a logarithm of −∞."""
    return np.where(value == 0, 0.0, value * log)
