"""Laws: pure functions of N, P, D and other variables with named parameters and their derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scalelab.units import format_number

Array = NDArray[np.float64]
Variable = Literal["N", "P", "D", "C", "U", "X", "R", "lr", "B"]
# Symbol and meaning of every variable that a law may use.
VARIABLES: dict[Variable, str] = {
    "N": "parameters",
    "P": "parallel streams",
    "D": "training tokens",
    "C": "training compute, FLOPs",
    "U": "unique training tokens",
    "X": "experts, or total over active parameters",
    "R": "passes through the layers",
    "lr": "peak learning rate",
    "B": "batch size",
}

_STEP = 6e-6  # about the cube root of the rounding error, best for central differences


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    Parameters that are `positive` are fitted as their logarithm; starting values are drawn from
    `start` on the same scale (log-uniform if positive). With `relative_to`, `start` and `bounds` are
    multiples of the data's scale (geometric mean of N or D, smallest loss), so that the fit does not
    depend on the units of the table. If the variable that a parameter `needs` does not vary in the
    data, the parameter is fixed at `neutral`, where that variable has no effect.
    """

    name: str
    unit: str
    start: tuple[float, float]
    bounds: tuple[float, float] = (0.0, np.inf)
    positive: bool = True
    relative_to: Variable | Literal["loss"] | None = None
    needs: Variable | None = None
    neutral: float = 0.0

    def __post_init__(self) -> None:
        for what, ends in (("start", self.start), ("bounds", self.bounds)):
            if len(ends) != 2 or not ends[0] <= ends[1] or (self.positive and ends[0] < 0):
                raise ValueError(
                    f"parameter {self.name}: {what} {ends} must be (low, high), without negative values if positive"
                )
        if self.positive and self.start[0] == 0:
            raise ValueError(f"parameter {self.name}: a positive parameter cannot start at 0")
        names = ", ".join(VARIABLES)
        if self.relative_to not in (None, "loss", *VARIABLES) or self.needs not in (None, *VARIABLES):
            raise ValueError(
                f"parameter {self.name}: `relative_to` must be one of {names}, loss; `needs` one of {names}"
            )


@dataclass(frozen=True)
class Points:
    """Points at which a law is evaluated: arrays [n], or [..., n] with different points for each row of params.

    D may be omitted for laws without it; `others` holds all variables except N, P and D, by name.
    """

    N: Array
    P: Array
    D: Array | None = None
    others: Mapping[str, Array] = field(default_factory=dict, kw_only=True)

    def value(self, variable: str) -> Array:
        """Return the values of a variable, [n]. Raises `ValueError` if the points do not have it."""
        found = self.others.get(variable, {"N": self.N, "P": self.P, "D": self.D}.get(variable))
        if found is None:
            raise ValueError(f"this law depends on {variable}, which the points do not have")
        return found

    def ln(self, variable: str) -> Array:
        """Return the natural logarithm of a variable, [n]; cached."""
        if variable not in self._logs:
            self._logs[variable] = np.log(self.value(variable))
        return self._logs[variable]

    @property
    def columns(self) -> tuple[Array, ...]:
        """Arrays of all known variables, [n] each."""
        found = (self.N, self.P, self.D, *self.others.values())
        return tuple(v for v in found if v is not None and not np.isnan(v).any())

    def subset(self, rows: np.ndarray) -> Points:
        """Return the points at `rows`: indices, or bool [n]."""
        others = {name: values[rows] for name, values in self.others.items()}
        return Points(self.N[rows], self.P[rows], None if self.D is None else self.D[rows], others=others)

    @cached_property
    def _logs(self) -> dict[str, Array]:
        return {}

    @property
    def ln_N(self) -> Array:
        """Natural logarithm of N, [n]."""
        return self.ln("N")

    @property
    def ln_P(self) -> Array:
        """Natural logarithm of P, [n]."""
        return self.ln("P")

    @property
    def ln_D(self) -> Array:
        """Natural logarithm of D, [n]."""
        return self.ln("D")


class Law:
    """A scaling law as a pure function. Subclass it and define `loss`; the other methods have defaults.

    `params` is [..., k] in the order of `parameters`; leading axes are batches: take a parameter
    as params[..., i, None], and it broadcasts against the points. Derivatives are central differences
    unless a subclass overrides `evaluate`.
    """

    name: str
    parameters: tuple[Parameter, ...]
    variables: tuple[Variable, ...] = ("N", "P")
    latex: str = ""
    source: str = ""

    def loss(self, params: Array, at: Points) -> Array:
        """Return the loss, nats per token, [..., n]; NaN where the parameters are outside the law's domain."""
        raise NotImplementedError

    def evaluate(self, params: Array, at: Points) -> tuple[Array, Array]:
        """Return the loss [..., n] and ∂loss/∂params [..., n, k], not by the logarithms of params."""
        columns = []
        for i in range(params.shape[-1]):
            step = np.zeros_like(params)
            step[..., i] = _STEP * np.maximum(np.abs(params[..., i]), 1e-6)
            rise = self.loss(params + step, at) - self.loss(params - step, at)
            columns.append(rise / (2 * step[..., i, None]))
        return self.loss(params, at), np.stack(columns, axis=-1)

    def equation(self, params: Mapping[str, float], digits: int = 4) -> str:
        """Return the law with its constants, as one line of text."""
        constants = ", ".join(f"{p.name} = {format_number(params[p.name], digits)}" for p in self.parameters)
        return f"{self.name}({', '.join(self.variables)}) with {constants}"

    @property
    def title(self) -> str:
        """The law in words: ``parallel law``."""
        return f"{self.name} law"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in their order."""
        return tuple(p.name for p in self.parameters)
