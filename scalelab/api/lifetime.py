"""Lifetime plans: the N, P and D of the lowest cost of training and serving at one loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from scalelab.conventions import CONVENTIONS
from scalelab.cost.request import TRAINING_SHARE, Device
from scalelab.errors import UsageError, choice_error
from scalelab.fit import FitResult
from scalelab.laws import LAWS, Law
from scalelab.laws.base import VARIABLES, Array
from scalelab.laws.published import PUBLISHED
from scalelab.plan.lifetime import LifetimePlan, plan_lifetime
from scalelab.plan.lifetime_costs import UNITS, LifetimeCosts, Serving
from scalelab.plan.lifetime_reach import Belief
from scalelab.plan.lifetime_search import LawDraws
from scalelab.units import format_number, one_count

_NO_DRAWS = np.empty((0, 0))
_SMALL_SCALE = 1e4  # parameters or tokens; fits of real losses have A and B well above it


def is_published(fit: object, constants: Mapping[str, float] | None) -> bool:
    """Return True if a plan is asked for by the name of a published law, or by constants."""
    named = isinstance(fit, str | Path) and str(fit).lower() in PUBLISHED and not Path(fit).exists()
    return named or constants is not None


def belief_of(fit: FitResult | str | Path, constants: Mapping[str, float] | None = None) -> tuple[Belief, str]:
    """Return the laws to plan with, and the convention of N: of a fit, of published constants, or of constants.

    Raises:
        UsageError: The law is unknown, or its constants are incomplete.
    """
    if isinstance(fit, FitResult):
        if constants is not None:
            raise UsageError("a fit has its own: give the name of a law instead of it", argument="constants")
        own = fit.meaning("N")
        known = {convention.meaning for convention in CONVENTIONS.values()} | {VARIABLES["N"]}
        meaning = own if own in known else f"column {own!r} of the runs"
        draws = np.array(fit.draws).reshape(-1, len(fit.params))
        return Belief((LawDraws(fit.law, np.array(fit.params), draws),), fit.title, meaning, fit), (
            fit.options.convention
        )
    if constants is None:
        found = PUBLISHED[str(fit).lower()]
        title = f"{fit}: {found.source}"
        counts = CONVENTIONS[found.convention].meaning
        return _without_draws(found.law, np.array(found.params), title, counts), found.convention
    if str(fit) not in LAWS:
        raise UsageError(f"{fit}: not a law: `constants` need one of {', '.join(_planned())}")
    law = LAWS[str(fit)]
    missing, unknown = [n for n in law.names if n not in constants], [n for n in constants if n not in law.names]
    if missing or unknown:
        wrong = f"{', '.join(missing)} missing" if missing else f"no constant {unknown[0]!r}"
        reason = f"{wrong}: the law {law.name!r} has {', '.join(law.names)}"
        raise UsageError(reason, argument="constants")
    values = np.array([float(constants[name]) for name in law.names])
    for parameter, value in zip(law.parameters, values, strict=True):
        if not np.isfinite(value) or (parameter.positive and value <= 0):
            kind = "a number above 0" if parameter.positive else "a number"
            raise UsageError(f"{parameter.name} must be {kind}, not {value:g}", argument="constants")
    given = dict(zip(law.names, values.tolist(), strict=True))
    counts, notes = "counted as in the constants", tuple(_in_hoffmanns_form(law, given))
    return _without_draws(law, values, law.equation(given), counts, notes), "paper"


def _planned() -> list[str]:
    """Return the names of laws of N, D and perhaps P."""
    return [name for name, law in LAWS.items() if {"N", "D"} <= {*law.variables} <= {"N", "D", "P"}]


def _in_hoffmanns_form(law: Law, given: Mapping[str, float]) -> Iterator[str]:
    """Yield a note for each scale that looks like Hoffmann's A, which is A^α here."""
    for scale, exponent in (("A", "alpha"), ("B", "beta")):
        if {scale, exponent} <= {*given} and 10 < given[scale] < _SMALL_SCALE and law.name != "farseer":
            N, own = "ND"[scale == "B"], given[scale] ** (1 / given[exponent])
            yield (
                f"{scale} = {given[scale]:g} is small for ({scale}/{N})^{exponent}; if it is Hoffmann's {scale}/{N}^"
                f"{exponent}, give {scale}={format_number(own)}"
            )


def _without_draws(law: Law, params: Array, title: str, counts: str, notes: tuple[str, ...] = ()) -> Belief:
    return Belief((LawDraws(law, params, _NO_DRAWS),), title, counts, notes=notes)


def lifetime_plan(
    belief: Belief,
    serving: Serving,
    serve_tokens: str | float,
    loss: float | None,
    by: str | None,
    streams: Sequence[int],
    second_stage_fraction: float,
    attention: bool,
    train_on: Device,
    train_utilisation: float | None,
    train_price_per_hour: float | None,
    left_out: Mapping[str, object],
) -> LifetimePlan:
    """Return the cheapest N, P and D for a loss.

    `left_out` are arguments of plans that a lifetime plan does not take, by name.

    Raises:
        UsageError: An argument is missing or does not apply.
    """
    if loss is None:
        raise UsageError("needs the loss to reach, in nats per token: give `loss`", argument="serve_tokens")
    for name, value in left_out.items():
        if value is not None:
            reason = {
                "D": "a lifetime plan finds the best D",
                "train_flops": "training is part of the cost that a lifetime plan minimises",
            }[name]
            raise UsageError(f"{reason}: leave out `{name}`, or `serve_tokens`", argument=name, value=value)
    if by is not None and by not in UNITS:
        raise choice_error("by", by, UNITS, " with `serve_tokens`")
    if train_utilisation is not None and by not in ("seconds", "money"):
        raise UsageError("applies to seconds and money: give `by`", argument="train_utilisation")
    if train_price_per_hour is not None:
        if by != "money":
            raise UsageError("applies to money: give `by='money'`", argument="train_price_per_hour")
        if not 0 <= train_price_per_hour < float("inf"):
            reason = "must be a number of at least 0"
            raise UsageError(reason, argument="train_price_per_hour", value=train_price_per_hour)
        train_on = replace(train_on, price_per_hour=train_price_per_hour)
    served = one_count(serve_tokens, "serve_tokens")
    unit = "flops" if by is None else by
    costs = LifetimeCosts(
        unit,  # type: ignore[arg-type]
        second_stage_fraction,
        serving,
        attention,
        train_on,
        TRAINING_SHARE if train_utilisation is None else train_utilisation,
    )
    return plan_lifetime(belief, served, loss, sorted(streams), costs)
