"""Compare streams with the plain model of equal loss: training and serving costs, and the break-even point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scalelab.cost.request import TRAINING_SHARE, Device
from scalelab.fit.derived import Estimate, n_equivalent
from scalelab.plan.problem import Candidate, Problem
from scalelab.plan.shapes import MIN_WIDTH

# Streams are cheaper at once (in both), after a number of tokens, until a number of tokens, or never.
Verdict = Literal["at once", "after", "until", "never"]


@dataclass(frozen=True)
class Versus:
    """P streams compared with the plain model of the same loss.

    `plain` is None if no decoder reaches that loss. `token_s` is on the serving device, `train_s` on the training
    device, at `TRAINING_SHARE` of its peak. `tokens` is the number of generated tokens at the break-even
    point, 0 or infinite without one. `verdict` and `tokens` are None if D is not known or `plain` is None.
    """

    N: Estimate
    plain: Candidate | None
    train_s: float | None = None  # difference to the plain model
    token_s: float | None = None  # difference to the plain model per generated token
    verdict: Verdict | None = None
    tokens: float | None = None
    in_money: bool = False  # `tokens` is where both cost the same, not where both take the same time


def against_plain(problem: Problem, streams: Candidate, train_on: Device) -> Versus:
    """Return `streams` (P > 1) compared with the plain model of equal loss, both trained on `train_on`.

    The break-even point is in money if both devices have an hourly price, from the table or the caller, else in hours,
    with equal weight for both devices.
    """
    D = problem.D if "D" in problem.fit.law.variables else None
    N = n_equivalent(problem.fit, streams.N, streams.P, D)
    width = None
    if math.isfinite(N.value):  # at least the narrowest plain model
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
    """Return the seconds of serving that cost as much as one second of training; None without both prices."""
    given = train_on.price_per_hour
    training = train_on.found().price_per_hour if given is None else given
    serving = streams.cost.price_per_hour
    return training / serving if training and serving else None


def break_even(train_s: float, token_s: float) -> tuple[Verdict, float]:
    """Return the verdict and the number of tokens at break-even.

    Streams cost `train_s` more once, and `token_s` more per token.
    """
    if train_s <= 0 and token_s <= 0:
        return "at once", 0.0
    if train_s >= 0 and token_s >= 0:
        return "never", math.inf
    return ("after" if train_s > 0 else "until"), -train_s / token_s
