"""Laws with tied parameters, such as one exponent for both N and D (α = β)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scalelab.errors import UsageError
from scalelab.laws.base import Array, Law, Points


class TiedLaw(Law):
    """`law` with each parameter in `ties` set equal to the one that it maps to."""

    def __init__(self, law: Law, ties: Mapping[str, str]) -> None:
        for name, other in ties.items():
            for each in (name, other):
                if each not in law.names:
                    raise UsageError(
                        f"the parameters of the law {law.name!r} are {', '.join(law.names)}",
                        argument="tie",
                        value={name: other},
                    )
            if name == other or other in ties:
                reason = f"{name} must be tied to another parameter that is not tied itself"
                raise UsageError(reason, argument="tie", value={name: other})
        self.law, self.ties = law, dict(ties)
        self.name, self.variables, self.source = law.name, law.variables, law.source
        self.latex = law.latex + "".join(rf",\ {name} = {other}" for name, other in ties.items())
        self.parameters = tuple(p for p in law.parameters if p.name not in ties)
        kept = {p.name: i for i, p in enumerate(self.parameters)}
        self._columns = np.array([kept[ties.get(p.name, p.name)] for p in law.parameters])

    def loss(self, params: Array, at: Points) -> Array:
        """Return the loss of the untied law, nats per token, [..., n]."""
        return self.law.loss(params[..., self._columns], at)

    def evaluate(self, params: Array, at: Points) -> tuple[Array, Array]:
        """Return the loss [..., n] and its derivatives by the remaining parameters, [..., n, k]."""
        loss, slopes = self.law.evaluate(params[..., self._columns], at)
        total = np.zeros((*slopes.shape[:-1], len(self.parameters)))
        for column, index in enumerate(self._columns):
            total[..., index] += slopes[..., column]
        return loss, total

    def equation(self, params: Mapping[str, float], digits: int = 4) -> str:
        """Return the equation of the untied law, tied parameters filled in."""
        return self.law.equation({**params, **{name: params[other] for name, other in self.ties.items()}}, digits)


def tied(law: Law, ties: Mapping[str, str]) -> Law:
    """Return `law` with parameters tied, or `law` itself if `ties` is empty. Raises `UsageError` for a wrong name."""
    return TiedLaw(law, ties) if ties else law
