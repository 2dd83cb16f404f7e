"""Options of a fit: all settings that change its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scalelab.errors import UsageError, choice_error
from scalelab.fit.data import CONVENTIONS, FitData
from scalelab.fit.objective import DELTA, KINDS, Objective
from scalelab.fit.solver import STARTS
from scalelab.laws import Law

DRAWS = 1000
BOOTSTRAPS = ("residual", "wild", "pairs")


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit, validated on creation, which raises `UsageError` naming the option.

    `fix` holds values of parameters that are not fitted, `bounds` limits of those that are, both by
    name and in the parameters' own units.
    """

    convention: str = "paper"  # how N is counted: a name in CONVENTIONS
    objective: str = "huber"  # one of KINDS
    delta: float = DELTA  # Huber threshold
    starts: int = STARTS
    bootstrap: str = "residual"  # residual, wild or pairs
    draws: int = DRAWS
    seed: int = 0
    fix: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tie: Mapping[str, str] = field(default_factory=dict)  # parameters set equal to another: {"beta": "alpha"}
    best: bool = False  # of each configuration, fit the row with the lowest loss only, as after a tuning sweep

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("count", self.convention, tuple(CONVENTIONS)),
            ("objective", self.objective, KINDS),
            ("bootstrap", self.bootstrap, BOOTSTRAPS),
        ):
            if value not in allowed:
                raise choice_error(name, value, allowed)
        if not 1e-8 <= self.delta <= 1e3:
            raise UsageError("choose between 1e-8 and 1e3", argument="delta", value=self.delta)
        if self.starts < 1 or self.draws < 0:
            raise UsageError("`starts` must be 1 or more and `draws` 0 or more")
        for name, (low, high) in self.bounds.items():
            if not low < high:
                raise UsageError(f"`bounds` {name}: the lower bound {low:g} must be below {high:g}")
            if name in self.fix:
                raise UsageError(f"parameter {name} cannot be in both `fix` and `bounds`")


def build_objective(law: Law, data: FitData, options: FitOptions) -> Objective:
    """Return the objective of `law` for `data`, scaled by the data.

    Parameters of a variable that does not vary in the data are fixed at their neutral value.

    Raises:
        UsageError: `fix` or `bounds` names a parameter that the law does not have, or a value outside its range.
    """
    for argument, given in (("fix", options.fix), ("bounds", options.bounds)):
        for name in given:
            if name not in law.names:
                raise UsageError(
                    f"the law {law.name!r} has parameters {', '.join(law.names)}", argument=argument, value=name
                )
    fixed = dict(options.fix)
    scale, lower, upper = np.ones(len(law.parameters)), [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        own = {name: np.exp(data.points.ln(name).mean()) for name in data.known} | {"loss": data.loss.min()}
    for i, p in enumerate(law.parameters):
        if p.relative_to is not None:
            scale[i] = own.get(p.relative_to, 1.0)
        low, high = (end * scale[i] for end in p.bounds)
        if p.name in options.bounds:
            wish = options.bounds[p.name]
            low, high = max(low, wish[0]), min(high, wish[1])
            if not low < high:
                raise UsageError(
                    f"`bounds` {p.name}: {wish[0]:g} to {wish[1]:g} is outside the law's range, "
                    f"{p.bounds[0] * scale[i]:g} to {p.bounds[1] * scale[i]:g}"
                )
        least = 0.0 if p.positive else low  # 0 removes a floor or an exponent
        if p.name in fixed and not (math.isfinite(fixed[p.name]) and least <= fixed[p.name] <= high):
            must = "be positive" if p.positive and fixed[p.name] < 0 else f"lie between {least:g} and {high:g}"
            raise UsageError(f"{p.name} must {must}", argument="fix", value={p.name: fixed[p.name]})
        if p.needs not in (None, "N", "D") and not data.varies(p.needs):
            fixed.setdefault(p.name, p.neutral)
        lower.append(low)
        upper.append(high)
    return Objective(law, data.points, scale, np.array(lower), np.array(upper), fixed, options.objective, options.delta)
