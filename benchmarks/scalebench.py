"""ScaleBench (arXiv 2604.22753; data CC-BY-4.0): where its tables are, its published scores, and laws of one task."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.laws import Law, Parameter, Points

PUBLIC = Path(os.environ.get("SCALELAB_PUBLIC_DATA", "../shared/reference")) / "scalebench"
BUDGETS = ("1%", "5%", "10%")
PUBLISHED = {  # R² of table 2 of the paper: random, D-optimal, V-optimal, and the paper's method
    "parallel": {
        "random": (-1.0, 0.27, 0.19),
        "D": (-1.0, 0.70, 0.99),
        "V": (-1.0, 0.69, 0.99),
        "paper": (-1.0, 0.77, 0.99),
    },
    "farseer": {
        "random": (-0.77, 0.78, 0.79),
        "D": (-0.11, 0.49, 0.87),
        "V": (0.67, 0.87, 0.92),
        "paper": (0.60, 0.88, 0.93),
    },
}


class BenchmarkLaw(Law):
    """A law of the benchmark: a formula of its variables, with the benchmark's bounds as starting ranges."""

    def __init__(
        self, name: str, variables: tuple[Any, ...], formula: Callable[..., Any], bounds: Sequence[tuple[float, float]]
    ) -> None:
        self.name, self.variables, self.formula = name, variables, formula
        self.parameters = tuple(Parameter(f"t{i}", "1", ends, ends, positive=False) for i, ends in enumerate(bounds))

    def loss(self, params: Any, at: Points) -> Any:
        """Return the value of the formula, [..., n]."""
        values = [params[..., i, None] for i in range(params.shape[-1])]
        with np.errstate(all="ignore"):
            return self.formula(*values, *(at.value(v) for v in self.variables))


def _log_gain(k: Any, P: Any) -> Any:
    return np.maximum(1 + k * np.log(P), 1e-12)


_FLOOR, _SCALE, _POWER, _WIDE = (-5.0, 5.0), (0.0, 500.0), (0.0, 2.0), (-50.0, 50.0)
_NEGATIVE = (-2.0, 0.0)
# The ten laws of the task `parallel`, with the bounds of their parameters.
PARALLEL = {
    "N, P and their product": (
        lambda E, A, a, B, b, F, N, P: E + A * N**-a + B * P**-b + F * N**-a * P**-b,
        [_FLOOR, _SCALE, _POWER, _WIDE, _POWER, (-100.0, 100.0)],
    ),
    "additive": (lambda E, A, a, B, b, N, P: E + A * N**-a + B * P**-b, [_FLOOR, _SCALE, _POWER, _WIDE, _POWER]),
    "additive, 1/(1 + P)": (lambda A, a, B, E, N, P: E + A * N**a + B / (1 + P), [_SCALE, _NEGATIVE, _FLOOR, _FLOOR]),
    "additive, P^(-1/2)": (lambda A, a, B, E, N, P: E + A * N**a + B * P**-0.5, [_SCALE, _NEGATIVE, _FLOOR, _FLOOR]),
    "parallel": (
        lambda A, k, a, E, N, P: E + (A / (N * _log_gain(k, P))) ** a,
        [(0.0, 1e9), (-100.0, 100.0), (0.0, 3.0), _FLOOR],
    ),
    "one factor": (
        lambda E, A, a, b, N, P: E + A * (N**-a + P**-b),
        [(-200.0, 200.0), (-200.0, 200.0), _POWER, _POWER],
    ),
    "gain divides the power": (
        lambda E, A, a, k, N, P: E + A * N**-a / _log_gain(k, P),
        [_FLOOR, _SCALE, _POWER, _WIDE],
    ),
    "gain divides the loss": (
        lambda A, a, E, k, N, P: (A * N**a + E) / _log_gain(k, P),
        [_SCALE, _NEGATIVE, _FLOOR, (-10.0, 10.0)],
    ),
    "product of powers": (lambda A, a, b, N, P: A * N**-a * P**-b, [(0.0, 5000.0), _POWER, _POWER]),
    "power of P times the loss": (lambda A, a, E, b, N, P: (A * N**-a + E) * P**-b, [_SCALE, _POWER, _FLOOR, _POWER]),
}
