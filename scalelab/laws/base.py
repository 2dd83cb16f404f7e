"""What a law is: a pure function of (N, P) with named parameters and its derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    `positive` parameters are fitted as their logarithm; `start` is the range from which
    starting values are drawn, on that same scale (log-uniform for positive ones).
    """

    name: str
    unit: str
    start: tuple[float, float]
    bounds: tuple[float, float]
    positive: bool = True


@dataclass(frozen=True)
class Points:
    """Where a law is evaluated: arrays [n]."""

    N: Array
    P: Array


class Law(Protocol):
    """A law without solver or I/O; see `scalelab.laws.parallel` for one.

    `params` is [..., k] in the order of `parameters`; leading axes are batches.
    """

    name: str
    parameters: tuple[Parameter, ...]
    latex: str
    source: str

    def loss(self, params: Array, at: Points) -> Array:
        """Loss in nats a token, [..., n]; NaN where the parameters are outside the law's domain."""
        ...

    def jacobian(self, params: Array, at: Points) -> Array:
        """∂loss/∂params, [..., n, k], in the parameters' own (not logarithmic) scale."""
        ...

    def equation(self, params: Mapping[str, float]) -> str:
        """The law with constants, as a line to read and to compute with."""
        ...
