"""Streams beside the plain model of equal loss: what each costs to serve and to train, and when that is even."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scalelab.cost.request import Device
from scalelab.fit.derived import Estimate, n_equivalent
from scalelab.plan.problem import Candidate, Problem
from scalelab.plan.shapes import MIN_WIDTH

TRAINING_SHARE = 0.4  # of the peak at 16 bits, as large models are trained (arXiv 2104.04473, arXiv 2407.21783)

# at once: cheaper in both; after: dearer to train, repaid later; until: cheaper to train, spent later.
Verdict = Literal["at once", "after", "until", "never"]


@dataclass(frozen=True)
class Versus:
    """P streams against the plain model of the same loss.

    `plain` is None where none of the decoders gets there. `token_s` is of the device that serves, `train_s` of the
    one that trains, at `TRAINING_SHARE` of its peak; `tokens` is how many generated ones make training
    and serving even, infinite or 0 where nothing does. Both None where D is not known or nothing to compare.
    """

    N: Estimate
    plain: Candidate | None
    train_s: float | None = None  # more than the plain model's; below 0 less
    token_s: float | None = None  # more than the plain model's for each generated token; below 0 less
    verdict: Verdict | None = None
    tokens: float | None = None
    in_money: bool = False  # `tokens` are those at which both cost the same, not those at which both take as long


def against_plain(problem: Problem, streams: Candidate, train_on: Device) -> Versus:
    """`streams` (P > 1) against the plain model of their loss, both trained on `train_on`.

    Training and serving are even in money where the table or the caller gives the hourly price of both devices,
    else in hours, those of one device counted like those of the other.
    """
    D = problem.D if "D" in problem.fit.law.variables else None
    N = n_equivalent(problem.fit, streams.N, streams.P, D)
    width = None
    if math.isfinite(N.value):  # no narrower plain model is looked at than the narrowest
        width = problem.shapes.width_of(max(N.value, problem.shapes.n_params(MIN_WIDTH, 1)), 1)
    if width is None:
        return Versus(N, None)
    plain = problem.at_width(width, 1)
    made = problem.workload.batch * problem.workload.tokens_out
    token_s = (streams.latency - plain.latency) / made
    if streams.training is None or plain.training is None:
        return Versus(N, plain, token_s=token_s)
    flops_per_s = train_on.found().peak("bf16") * TRAINING_SHARE
    train_s = (streams.training - plain.training) / flops_per_s
    worth = _worth(streams, train_on)
    return Versus(N, plain, train_s, token_s, *break_even(train_s * (worth or 1.0), token_s), worth is not None)


def _worth(streams: Candidate, train_on: Device) -> float | None:
    """Return the seconds of serving that cost as much as one of training; None where either has no price."""
    given = train_on.price_per_hour
    training = train_on.found().price_per_hour if given is None else given
    serving = streams.cost.price_per_hour
    return training / serving if training and serving else None


def break_even(train_s: float, token_s: float) -> tuple[Verdict, float]:
    """Return when something is the cheaper one, and the number of tokens at which it is even.

    It costs `train_s` more once and `token_s` more for each token.
    """
    if train_s <= 0 and token_s <= 0:
        return "at once", 0.0
    if train_s >= 0 and token_s >= 0:
        return "never", math.inf
    return ("after" if train_s > 0 else "until"), -train_s / token_s
