"""Find the best N for each P: the widest decoder within the limits, or the narrowest that reaches a loss.

Costs rise and losses fall with the width, so both are found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.laws.base import Array
from scalelab.plan.problem import Candidate, Problem
from scalelab.plan.shapes import MAX_WIDTH, MIN_WIDTH

_STEPS = 48  # of a bisection over ln width, to about 1e-13
_LOSS_STEPS = 70  # of a bisection over ln N
_GRID = 64  # widths for the log-linear interpolation of costs, to about 1e-5


@dataclass(frozen=True)
class Sized:
    """The best decoder for one P; `candidate` is None if there is none.

    For a target loss, `N_draws` [draws] holds the N of each draw of the fit, infinite if the draw does not
    reach it; otherwise `losses` [draws] holds the losses, NaN where the law is undefined.
    """

    P: int
    candidate: Candidate | None
    loss: float
    binds: str | None  # the limit that is reached or exceeded
    losses: Array
    N_draws: Array


def widest(problem: Problem, P: int) -> tuple[Candidate | None, str | None]:
    """Return the largest decoder with P streams within all limits, and the limit that it reaches.

    If even the narrowest is too large, return None and the limit that it exceeds most.
    """
    least = problem.at_width(MIN_WIDTH, P)
    shares = problem.used(least)
    if max(shares.values()) > 1:
        return None, max(shares, key=lambda name: shares[name])
    low, high = math.log(MIN_WIDTH), math.log(MAX_WIDTH)
    if max(problem.used(problem.at_width(MAX_WIDTH, P)).values()) <= 1:
        return problem.at_width(MAX_WIDTH, P), None
    found = least
    for _ in range(_STEPS):
        middle = (low + high) / 2
        tried = problem.at_width(math.exp(middle), P)
        if max(problem.used(tried).values()) <= 1:
            low, found = middle, tried
        else:
            high = middle
    shares = problem.used(found)
    return found, max(shares, key=lambda name: shares[name])


def lowest_loss(problem: Problem, P: int) -> Sized:
    """Return the lowest loss of P streams within the limits. Raises `ScalelabError` if the law rises with N."""
    candidate, binds = widest(problem, P)
    draws = np.array(problem.fit.draws).reshape(-1, len(problem.fit.params))
    if candidate is None:
        return Sized(P, None, math.nan, binds, np.full(len(draws), np.nan), np.empty(0))
    params = np.array(problem.fit.params)
    loss, before = (float(problem.losses(params, np.array(n), P)) for n in (candidate.N, candidate.N * 0.9))
    if loss > before:
        raise ScalelabError(
            f"the law {problem.fit.law.name!r} rises with N at P = {P}, so no size is best; fit another `law`"
        )
    return Sized(P, candidate, loss, binds, problem.losses(draws, np.array(candidate.N), P), np.empty(0))


def reaching(problem: Problem, P: int, loss: float) -> Sized:
    """Return the smallest decoder with P streams that reaches `loss`; `binds` is a limit that it exceeds.

    There is no candidate if no width reaches the loss. If the narrowest decoder has a lower loss, it is the candidate,
    with that loss.
    """
    draws = np.array(problem.fit.draws).reshape(-1, len(problem.fit.params))
    N = float(n_reaching(problem, np.array(problem.fit.params), P, loss))
    many = n_reaching(problem, draws, P, loss)
    width = problem.shapes.width_of(N, P) if math.isfinite(N) else None
    if width is None:
        return Sized(P, None, math.nan, None, np.empty(0), many)
    candidate = problem.at_width(width, P)
    shares = problem.used(candidate)
    most = max(shares, key=lambda name: shares[name])
    if width == MIN_WIDTH:
        loss = min(loss, float(problem.losses(np.array(problem.fit.params), np.array(N), P)))
    return Sized(P, candidate, loss, most if shares[most] > 1 else None, np.empty(0), many)


def n_reaching(problem: Problem, params: Array, P: int, loss: float) -> Array:
    """Return the N [...] with P streams whose loss is `loss`, for params [..., k]; infinite if there is none.

    If the narrowest decoder has a lower loss, its N is returned.
    """
    least, most = (problem.shapes.n_params(width, P) for width in (MIN_WIDTH, MAX_WIDTH))
    low, high = (np.full(params.shape[:-1], math.log(end)) for end in (least, most))
    out_of_reach = ~(problem.losses(params, np.exp(high), P) <= loss)  # also for NaN
    already = problem.losses(params, np.exp(low), P) <= loss
    for _ in range(_LOSS_STEPS):
        middle = (low + high) / 2
        above = problem.losses(params, np.exp(middle), P) > loss
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    # The upper end reaches the loss unless nothing does. Rounding must not leave the range of sizes.
    found = np.clip(np.exp(high), least, most)
    return np.where(out_of_reach, np.inf, np.where(already, least, found))


class CostCurve:
    """Interpolated costs of P streams over N between two sizes, for many N at once."""

    def __init__(self, problem: Problem, P: int, N: Array, points: int = _GRID) -> None:
        """Make a curve of `points` points that spans the finite sizes `N`."""
        inside = [problem.shapes.width_of(float(n), P) for n in (N.min(), N.max())]
        low, high = (w or end for w, end in zip(inside, (MIN_WIDTH, MAX_WIDTH), strict=True))
        self._grid = [problem.at_width(float(w), P) for w in np.geomspace(low, high * (1 + 1e-9), points)]
        self._ln_N = np.log([c.N for c in self._grid])

    def largest(self, bounds: Mapping[str, Array]) -> Array:
        """Return the largest N [draws] whose metrics are within `bounds` ([draws] each); 0 if there is none."""
        ln_N = np.full(next(iter(bounds.values())).shape, self._ln_N[-1])
        for metric, bound in bounds.items():
            values = np.maximum.accumulate([c.metric(metric) or 0.0 for c in self._grid])
            rising = np.append(True, np.diff(values) > 0)
            with np.errstate(divide="ignore"):
                found = np.interp(np.log(bound), np.log(values[rising]), self._ln_N[rising], left=-np.inf)
            ln_N = np.minimum(ln_N, found)
        return np.exp(ln_N)

    def at(self, metric: str, N: Array) -> Array:
        """Return the metric at N, in the shape of N; infinite where N is infinite."""
        values = [c.metric(metric) for c in self._grid]
        if any(v is None for v in values):
            raise ValueError(f"{metric} is not known")
        finite = np.isfinite(N)
        result = np.full(N.shape, np.inf)
        result[finite] = np.exp(np.interp(np.log(N[finite]), self._ln_N, np.log(np.array(values, dtype=float))))
        return result
