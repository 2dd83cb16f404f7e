"""Loss against cost for each P, on both sides of the limits, for the figure of a plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import Array
from scalelab.plan.answer import Plan
from scalelab.plan.shapes import MAX_WIDTH, MIN_WIDTH

_POINTS = 60
_MARGIN = 1.7  # range of widths around the option, as a factor


@dataclass(frozen=True)
class Curve:
    """One P over n widths. Arrays are [n]; `low` and `high` are the interval of the loss, infinite without draws."""

    P: int
    memory: Array  # bytes
    latency: Array  # seconds
    loss: Array
    low: Array
    high: Array
    within: np.ndarray  # bool: within all limits


def frontier(plan: Plan) -> list[Curve]:
    """Return a curve for each option of the plan."""
    problem, curves = plan.problem, []
    for option in plan.options:
        best = option.candidate.width
        ends = max(MIN_WIDTH, best / _MARGIN), min(MAX_WIDTH, best * _MARGIN)
        # Includes the width of the option, so that the style of the curve changes exactly at the limit.
        grid = np.unique(np.append(np.geomspace(*ends, _POINTS), best))
        found = [problem.at_width(float(width), option.P) for width in grid]
        N = np.array([c.N for c in found])
        D = problem.D if "D" in problem.fit.law.variables else None
        curves.append(
            Curve(
                option.P,
                np.array([c.memory for c in found]),
                np.array([c.latency for c in found]),
                problem.fit.losses(N, option.P, D),
                *problem.fit.band(N, option.P, D),
                np.array([max(problem.used(c).values()) <= 1 for c in found]),
            )
        )
    return curves
