"""One law for two recipes: shared parameters, and ratios of those that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from scalelab.laws.base import Array, Law, Parameter, Points

Factor = Literal["N", "D", "compute"]
RECIPE = "recipe"  # name of the variable: 0 for the first recipe, 1 for the second
_START, _BOUNDS = (0.5, 2.0), (1e-12, 1e12)


class RecipeLaw(Law):
    """A law whose second recipe has some parameters multiplied by ratios.

    Args:
        base: The law of one recipe.
        groups: Names of parameters; those of a group share one ratio.
    """

    def __init__(self, base: Law, groups: Sequence[Sequence[str]]) -> None:
        self.base, self.groups = base, tuple(tuple(group) for group in groups)
        self.name, self.variables = base.name, base.variables
        self.latex, self.source = base.latex, base.source
        ratios = [Parameter(f"ratio of {' and '.join(group)}", "1", _START, _BOUNDS) for group in self.groups]
        self.parameters = (*base.parameters, *ratios)

    def of_recipe(self, params: Array, recipe: int) -> Array:
        """Return the parameters [..., k] of the base law for one recipe."""
        count = len(self.base.parameters)
        own = params[..., :count].copy()
        for i, group in enumerate(self.groups if recipe else ()):
            for name in group:
                own[..., self.base.names.index(name)] *= params[..., count + i]
        return own

    def loss(self, params: Array, at: Points) -> Array:
        """Return the loss, nats per token, [..., n]."""
        first, second = (self.base.loss(self.of_recipe(params, i), at) for i in (0, 1))
        return np.where(at.value(RECIPE) > 0, second, first)

    def evaluate(self, params: Array, at: Points) -> tuple[Array, Array]:
        """Return the loss [..., n] and its derivatives [..., n, k] by the chain rule over the ratios."""
        count, is_second = len(self.base.parameters), at.value(RECIPE) > 0
        first, J_first = self.base.evaluate(self.of_recipe(params, 0), at)
        second, J_second = self.base.evaluate(self.of_recipe(params, 1), at)
        J = np.zeros((*first.shape, len(self.parameters)))
        J[..., :count] = np.where(is_second[:, None], J_second, J_first)
        for i, group in enumerate(self.groups):
            for name in group:
                j = self.base.names.index(name)
                slope = np.where(is_second, J_second[..., j], 0.0)
                J[..., j] = np.where(is_second, slope * params[..., count + i, None], J[..., j])
                J[..., count + i] += slope * params[..., j, None]
        return np.where(is_second, second, first), J

    def equation(self, params: Mapping[str, float], digits: int = 4) -> str:
        """Return the law of the first recipe with its constants."""
        return self.base.equation(params, digits)


def scales(law: Law, variables: Sequence[str] = ("N", "D", "C")) -> list[str]:
    """Return the parameters with the unit of one of the variables, such as A of N."""
    return [p.name for p in law.parameters if p.relative_to in variables]


def exponents(law: Law) -> list[str]:
    """Return the exponents of N, D and C."""
    return [p.name for p in law.parameters if p.needs in ("N", "D", "C") and p.relative_to is None and p.positive]


def factor_groups(law: Law, factor: Factor) -> list[list[str]]:
    """Return the groups of a law in which the second recipe multiplies N, D, or both; empty if it has none of them."""
    names = scales(law, {"N": ("N",), "D": ("D",), "compute": ("N", "D", "C")}[factor])
    return [names] if names else []


def multiplier(law: RecipeLaw, params: Array, factor: Factor) -> Array:
    """Return the multiplier [...] of N, D or compute that the second recipe is worth, from params [..., k].

    With N and D both multiplied by √m, compute is multiplied by m, as it is if only one of them is multiplied by m.
    """
    power = 2 if factor == "compute" and len(law.groups[0]) == 2 else 1
    return params[..., len(law.base.parameters)] ** -float(power)
