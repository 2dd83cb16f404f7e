"""Conclusions from a fitted law, with intervals from its bootstrap draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.result import LEVEL, FitResult, Note, tails
from scalelab.laws import Points
from scalelab.laws.base import Array
from scalelab.laws.terms import Power
from scalelab.units import format_count, format_interval, format_number

_FAR = 10.0  # times the range of N, P or D from which an extrapolation is serious
_STEPS = 80  # of bisection and golden section: enough for the last digit
_REACH = 150.0  # how far they look for N, in its logarithm: N·P^5 for P of a million, twice over
FLOPS_PER_TOKEN = 6.0  # for each parameter, forward and backward; Hoffmann et al., arXiv 2203.15556


@dataclass(frozen=True)
class Estimate:
    """A number and its interval. An end that the draws do not close is infinite; None without draws."""

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, form: Callable[[float], str], none: str = "") -> str:
        """Return value and interval as ``4.75B (4.50B–4.90B)``; `none` in brackets where there is no interval."""
        value = "beyond any" if np.isinf(self.value) else form(self.value)
        interval = none if self.low is None or self.high is None else format_interval(self.low, self.high, form)
        return f"{value} ({interval})" if interval else value

    def __str__(self) -> str:
        return self.text(format_count if abs(self.value) >= 1000 else lambda value: f"{value:.4f}")

    @classmethod
    def of(cls, value: float, draws: Array, level: float = LEVEL) -> Estimate:
        """`value` with the interval of `draws` [n], of which those that are no number say nothing."""
        draws = draws[~np.isnan(draws)]
        if not len(draws):
            return cls(value, None, None)
        # Between a number and infinity there is no mean: there the nearest draws themselves.
        method = "linear" if np.isfinite(draws).all() else "closest_observation"
        low, high = np.quantile(draws, tails(level), method=method)
        return cls(value, float(low), float(high))


@dataclass(frozen=True)
class Allocation:
    """The best use of a training budget at one P: N, D, and the loss that the law gives there.

    N and D are None for a law of compute alone, which says the loss, not how to spend the budget.
    """

    flops: float
    P: float
    N: Estimate | None
    D: Estimate | None
    loss: Estimate


def predicted(
    fit: FitResult,
    N: float | None = None,
    P: float = 1.0,
    D: float | None = None,
    level: float = LEVEL,
    **others: float,
) -> Estimate:
    """The law's loss, nats a token; `others` are variables beside N, P and D, such as C.

    Raises `ScalelabError` where the law ends before P.
    """
    return _estimate(fit, lambda params: fit.evaluate(params, N, P, D, **others), level, P)


def n_equivalent(fit: FitResult, N: float, P: float, D: float | None = None, level: float = LEVEL) -> Estimate:
    """The number of parameters at P = 1 whose loss equals that of N with P streams.

    Infinite where no plain model gets there, which laws with a gain of P apart from N allow.
    """
    return _estimate(fit, lambda params: _plain_sizes(fit, params, N, P, D), level, P)


def n_equivalent_draws(fit: FitResult, N: float, P: float, D: float | None = None) -> Array:
    """Return the draws [n] behind the interval of `n_equivalent`; none of a fit without draws."""
    if not fit.draws:
        return np.empty(0)
    with np.errstate(all="ignore"):
        sizes = _plain_sizes(fit, np.array(fit.draws), N, P, D)
    return sizes[~np.isnan(sizes)]


def _plain_sizes(fit: FitResult, params: Array, N: float, P: float, D: float | None) -> Array:
    """Solve for the parameters at P = 1 with the loss of N with P streams, for each row of params [..., k]."""
    wanted = fit.evaluate(params, N, P, D)
    low, high = np.full(wanted.shape, np.log(N) - _REACH), np.full(wanted.shape, np.log(N) + _REACH)
    beyond = _along(fit, params, np.exp(high), 1.0, D) > wanted
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = _along(fit, params, np.exp(middle), 1.0, D) > wanted
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(np.isnan(wanted), np.nan, np.where(beyond, np.inf, np.exp((low + high) / 2)))


def doubling_gain(fit: FitResult, N: float, P: float, D: float | None = None, level: float = LEVEL) -> Estimate:
    """Loss gained by going from P to 2P streams, nats a token; below 0 where streams hurt.

    Raises `ScalelabError` where the law ends before 2P.
    """
    return _estimate(fit, lambda q: fit.evaluate(q, N, P, D) - fit.evaluate(q, N, 2 * P, D), level, 2 * P)


def compute_optimal(fit: FitResult, flops: float, P: float = 1.0, level: float = LEVEL) -> Allocation:
    """N and D with the least loss for a training budget of 6·N·D·P floating-point operations.

    P streams multiply the computation of every token; embedding and aggregation are left out, as
    they are from N. Of a law of compute alone only the loss is known.

    Raises `UsageError` for a law without D or with another P than 1 for one
    without P, `ScalelabError` where the law ends before P.
    """
    if fit.law.variables == ("C",):
        return Allocation(flops, P, None, None, predicted(fit, P=P, level=level, C=flops))
    if "D" not in fit.law.variables or "N" not in fit.law.variables:
        raise UsageError(f"the law {fit.law.name!r} does not know D, so it cannot trade N against D")
    if "P" not in fit.law.variables and P != 1:
        raise UsageError(f"the law {fit.law.name!r} does not know P")
    if not (0 < flops < np.inf and 0 < P < np.inf):
        raise UsageError("a training budget and P must be positive")
    tokens_times_n = flops / (FLOPS_PER_TOKEN * P)
    data = fit.data
    near = np.log([data.N.min(), data.N.max(), tokens_times_n / data.D.max(), tokens_times_n / data.D.min()])

    def losses(params: Array, ln_N: Array) -> Array:
        return _along(fit, params, np.exp(ln_N), P, tokens_times_n / np.exp(ln_N))

    def best(params: Array) -> Array:
        shape = params.shape[:-1]
        low, high = np.full(shape, near.min() - _REACH), np.full(shape, near.max() + _REACH)
        ratio = (np.sqrt(5.0) - 1) / 2
        for _ in range(_STEPS):
            left, right = high - ratio * (high - low), low + ratio * (high - low)
            falls = losses(params, left) > losses(params, right)
            low, high = np.where(falls, left, low), np.where(falls, high, right)
        middle = (low + high) / 2
        return np.where(np.isnan(losses(params, middle)), np.nan, np.exp(middle))

    N = _estimate(fit, best, level, P)
    if not near.min() - _REACH + 1 < np.log(N.value) < near.max() + _REACH - 1:
        raise ScalelabError(
            "this fit has no best N and D for a training budget: its loss keeps falling towards one side"
        )
    D = _estimate(fit, lambda q: tokens_times_n / best(q), level, P)
    return Allocation(flops, P, N, D, _estimate(fit, lambda q: losses(q, np.log(best(q))), level, P))


def hoffmann_coefficients(fit: FitResult, level: float = LEVEL) -> dict[str, Estimate]:
    """Return the coefficients of the powers in Hoffmann's form, A/N^α: our scale to its exponent, with intervals.

    Empty for a law without powers of N, D or compute. Source: Hoffmann et al. 2022, arXiv 2203.15556, equation 2.
    """
    found = {}
    for term in getattr(fit.law, "terms", ()):
        if isinstance(term, Power) and {p.needs for p in term.parameters} == {term.variable}:
            scale, exponent = (fit.law.names.index(p.name) for p in term.parameters)
            params, draws = np.array(fit.params), np.array(fit.draws).reshape(-1, len(fit.params))
            with np.errstate(all="ignore"):
                draws = draws[:, scale] ** draws[:, exponent]
                value = float(params[scale] ** params[exponent])
            found[term.parameters[0].name] = Estimate.of(value, draws, level)
    return found


def hoffmann_form(fit: FitResult) -> str:
    """The coefficients in Hoffmann's form as words; empty where there are none."""
    words = []
    for name, estimate in hoffmann_coefficients(fit).items():
        ends = (
            ""
            if estimate.low is None or estimate.high is None
            else (f" ({format_number(estimate.low, 3)} to {format_number(estimate.high, 3)})")
        )
        words.append(f"{name} {format_number(estimate.value)}{ends}")
    return ", ".join(words)


def extrapolation_notes(
    fit: FitResult, N: float | None = None, P: float = 1.0, D: float | None = None, **others: float
) -> list[Note]:
    """A note for each variable that lies outside the range of the runs, with the factor."""
    notes = []
    data = fit.data
    given: dict[Any, float | None] = {"N": N, "P": P, "D": D, **others}
    for name, value in given.items():
        if value is None or name not in fit.law.variables:
            continue
        seen = data.values(name)
        with np.errstate(over="ignore"):
            factor = float(max(value / seen.max(), seen.min() / value))
        if factor > 1.0005:
            notes.append(
                Note(
                    "extrapolation",
                    "serious" if factor >= _FAR else "warning",
                    f"{name} {format_count(value)} is a factor of {factor:.3g} outside the runs: the interval holds if "
                    "the law does there",
                    {f"{name}_factor": factor},
                )
            )
    return notes


def _along(fit: FitResult, params: Array, N: Array, P: float, D: Array | float | None) -> Array:
    """Loss of each row of params [..., k] at its own N and D [...]."""
    given = [np.asarray(v, dtype=float) for v in (N, P, np.nan if D is None else D)]
    points = [np.broadcast_to(v, params.shape[:-1])[..., None] for v in given]
    with np.errstate(all="ignore"):  # far out a law may overflow, or end
        return fit.law.loss(params, Points(*points))[..., 0]


def _estimate(fit: FitResult, of: Callable[[Array], Array], level: float, P: float) -> Estimate:
    with np.errstate(all="ignore"):  # overflow far out, differences of infinities
        value = float(of(np.array(fit.params)))
        draws = of(np.array(fit.draws)) if fit.draws else np.empty(0)
    if np.isnan(value):
        raise ScalelabError(f"the law {fit.law.name!r} with the fitted parameters ends before P = {P:g}")
    return Estimate.of(value, draws, level)
