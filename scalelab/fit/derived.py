"""Quantities derived from a fitted law, with intervals from its bootstrap draws."""

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

_FAR = 10.0  # factor outside the range of N, P or D at which a note on extrapolation becomes serious
_STEPS = 80  # of bisection and golden section, to machine precision
_REACH = 150.0  # search range in ln N on each side: more than twice N·P^5 for P of a million
FLOPS_PER_TOKEN = 6.0  # per parameter and token, forward and backward; Hoffmann et al., arXiv 2203.15556


@dataclass(frozen=True)
class Estimate:
    """A number and its interval. An open end is infinite; both ends are None without draws."""

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, form: Callable[[float], str], none: str = "") -> str:
        """Return value and interval as ``4.75B (4.50B–4.90B)``, or with `none` in brackets if there is no interval."""
        value = "beyond any" if np.isinf(self.value) else form(self.value)
        interval = none if self.low is None or self.high is None else format_interval(self.low, self.high, form)
        return f"{value} ({interval})" if interval else value

    def __str__(self) -> str:
        return self.text(format_count if abs(self.value) >= 1000 else lambda value: f"{value:.4f}")

    @classmethod
    def of(cls, value: float, draws: Array, level: float = LEVEL) -> Estimate:
        """Return `value` with the interval of `draws` [n]; NaNs are ignored."""
        draws = draws[~np.isnan(draws)]
        if not len(draws):
            return cls(value, None, None)
        # A number and infinity cannot be interpolated: use the nearest draws.
        method = "linear" if np.isfinite(draws).all() else "closest_observation"
        low, high = np.quantile(draws, tails(level), method=method)
        return cls(value, float(low), float(high))


@dataclass(frozen=True)
class Allocation:
    """Compute-optimal N and D for a training budget at one P, and the loss there.

    N and D are None for a law of compute alone, which does not depend on them.
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
    """Return the law's loss, nats per token; `others` are the variables except N, P and D, such as C.

    Raises `ScalelabError` if the law is undefined at P.
    """
    return _estimate(fit, lambda params: fit.evaluate(params, N, P, D, **others), level, P)


def n_equivalent(
    fit: FitResult, N: float, P: float, D: float | None = None, level: float = LEVEL, **others: float
) -> Estimate:
    """Return the number of parameters at P = 1 with the same loss as N with P streams.

    Infinite if no plain model reaches that loss, as may happen if the gain of P does not depend on N.
    """
    return _estimate(fit, lambda params: _plain_sizes(fit, params, N, P, D, **others), level, P)


def n_equivalent_draws(fit: FitResult, N: float, P: float, D: float | None = None) -> Array:
    """Return the draws [n] behind the interval of `n_equivalent`; empty for a fit without draws."""
    if not fit.draws:
        return np.empty(0)
    with np.errstate(all="ignore"):
        sizes = _plain_sizes(fit, np.array(fit.draws), N, P, D)
    return sizes[~np.isnan(sizes)]


def _plain_sizes(fit: FitResult, params: Array, N: float, P: float, D: float | None, **others: float) -> Array:
    """Return the N [...] at P = 1 with the same loss as N with P streams, for each row of params [..., k]."""
    wanted = fit.evaluate(params, N, P, D, **others)
    low, high = np.full(wanted.shape, np.log(N) - _REACH), np.full(wanted.shape, np.log(N) + _REACH)
    beyond = _along(fit, params, np.exp(high), 1.0, D, **others) > wanted
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = _along(fit, params, np.exp(middle), 1.0, D, **others) > wanted
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(np.isnan(wanted), np.nan, np.where(beyond, np.inf, np.exp((low + high) / 2)))


def doubling_gain(
    fit: FitResult, N: float, P: float, D: float | None = None, level: float = LEVEL, **others: float
) -> Estimate:
    """Return the reduction of the loss from P to 2P streams, nats per token; negative if streams raise the loss.

    Raises `ScalelabError` if the law is undefined at 2P.
    """

    def gain(params: Array) -> Array:
        return fit.evaluate(params, N, P, D, **others) - fit.evaluate(params, N, 2 * P, D, **others)

    return _estimate(fit, gain, level, 2 * P)


def compute_optimal(fit: FitResult, flops: float, P: float = 1.0, level: float = LEVEL) -> Allocation:
    """Return the N and D with the lowest loss for a training budget of 6·N·D·P FLOPs.

    P streams multiply the compute per token; embedding and aggregation are left out, as they are
    from N. A law of compute alone gives the loss only.

    Raises:
        UsageError: the law has no N or D, or P is not 1 and the law has no P.
        ScalelabError: the law is undefined at P, or has no optimum.
    """
    if fit.law.variables == ("C",):
        return Allocation(flops, P, None, None, predicted(fit, P=P, level=level, C=flops))
    if "D" not in fit.law.variables or "N" not in fit.law.variables:
        raise UsageError(
            f"the law {fit.law.name!r} does not depend on both N and D, so it has no best N and D for a budget; "
            "fit one that does, such as 'chinchilla' or 'joint'"
        )
    if "P" not in fit.law.variables and P != 1:
        raise UsageError(f"the law {fit.law.name!r} does not depend on P; leave out `P`")
    if not (0 < flops < np.inf and 0 < P < np.inf):
        raise UsageError("`flops` and `P` must be positive and finite")
    tokens_times_n = flops / (FLOPS_PER_TOKEN * P)

    def best(params: Array) -> Array:
        return optimal_sizes(fit, params, flops, P)

    N = _estimate(fit, best, level, P)
    near = _near(fit, tokens_times_n)
    if not near[0] - _REACH + 1 < np.log(N.value) < near[1] + _REACH - 1:
        raise ScalelabError(
            "this fit has no best N and D for a training budget: its loss falls without end towards one side"
        )
    D = _estimate(fit, lambda q: tokens_times_n / best(q), level, P)
    loss = _estimate(fit, lambda q: _along(fit, q, best(q), P, tokens_times_n / best(q)), level, P)
    return Allocation(flops, P, N, D, loss)


def optimal_sizes(fit: FitResult, params: Array, flops: float, P: float = 1.0) -> Array:
    """Return the N [...] of the lowest loss at 6·N·D·P = `flops`, for each row of params [..., k]."""
    tokens_times_n = flops / (FLOPS_PER_TOKEN * P)

    def losses(ln_N: Array) -> Array:
        return _along(fit, params, np.exp(ln_N), P, tokens_times_n / np.exp(ln_N))

    least, most = _near(fit, tokens_times_n)
    shape = params.shape[:-1]
    low, high = np.full(shape, least - _REACH), np.full(shape, most + _REACH)
    ratio = (np.sqrt(5.0) - 1) / 2
    for _ in range(_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        falls = losses(left) > losses(right)
        low, high = np.where(falls, left, low), np.where(falls, high, right)
    middle = (low + high) / 2
    return np.where(np.isnan(losses(middle)), np.nan, np.exp(middle))


def _near(fit: FitResult, tokens_times_n: float) -> tuple[float, float]:
    """Return the range of ln N of the runs, and of the N that have their D at a budget."""
    data = fit.data
    ends = np.log([data.N.min(), data.N.max(), tokens_times_n / data.D.max(), tokens_times_n / data.D.min()])
    return float(ends.min()), float(ends.max())


def hoffmann_coefficients(fit: FitResult, level: float = LEVEL) -> dict[str, Estimate]:
    """Return the coefficients of the power terms in Hoffmann's form A/N^α, that is A^α here, with intervals.

    Empty for a law without power terms of N, D or compute. Source: Hoffmann et al. 2022, arXiv 2203.15556, equation 2.
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
    """Return the coefficients in Hoffmann's form as text; empty if there are none."""
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
    """Return a note for each variable that is outside the range of the runs, with the factor."""
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
                    f"{name} {format_count(value)} is a factor of {factor:.3g} outside the runs: the interval is valid "
                    "only if the law holds there",
                    {f"{name}_factor": factor},
                )
            )
    return notes


def _along(fit: FitResult, params: Array, N: Array, P: float, D: Array | float | None, **others: float) -> Array:
    """Return the loss [...] of each row of params [..., k] at the N and D [...] of that row."""
    given = [np.asarray(v, dtype=float) for v in (N, P, np.nan if D is None else D)]
    points = [np.broadcast_to(v, params.shape[:-1])[..., None] for v in given]
    more = {name: np.broadcast_to(float(v), params.shape[:-1])[..., None] for name, v in others.items()}
    with np.errstate(all="ignore"):  # far from the runs a law may overflow or be undefined
        return fit.law.loss(params, Points(*points, others=more))[..., 0]


def _estimate(fit: FitResult, of: Callable[[Array], Array], level: float, P: float) -> Estimate:
    with np.errstate(all="ignore"):  # overflow far from the runs, differences of infinities
        value = float(of(np.array(fit.params)))
        draws = of(np.array(fit.draws)) if fit.draws else np.empty(0)
    if np.isnan(value):
        raise ScalelabError(f"the law {fit.law.name!r} is undefined at P = {P:g} with the fitted parameters")
    return Estimate.of(value, draws, level)
