"""The plan: the best option for each P, the winner, and the probability that it is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scalelab.cost.request import Device
from scalelab.errors import UsageError, choice_error
from scalelab.fit.derived import Estimate, extrapolation_notes
from scalelab.fit.mixture import draws_of_laws, law_share, laws_of
from scalelab.fit.result import FitResult, Note
from scalelab.laws.base import Array
from scalelab.plan.doubt import Factors, doubted_losses, doubted_sizes
from scalelab.plan.payback import Versus, against_plain
from scalelab.plan.problem import METRICS, Candidate, Problem
from scalelab.plan.search import CostCurve, Sized, lowest_loss, reaching
from scalelab.plan.shapes import MIN_WIDTH
from scalelab.shown import Shown
from scalelab.units import format_count

if TYPE_CHECKING:
    import pandas as pd

_ABOUT_STREAMS = ("few_P", "one_P", "P_ignored", "seed_noise", "streams_in_N")


@dataclass(frozen=True)
class Option:
    """The best decoder with P streams.

    Without a target, N is the largest within the limits, `loss` has the interval of the law, and `N` that of the costs.
    With a target, the loss is the target, and N and costs have intervals. `share` is the share of the fit's draws in
    which this P is the best, None without draws. `binds` is the limit that is reached or, if not `within` the limits,
    exceeded most; `broken` are all exceeded limits, the worst first.
    """

    candidate: Candidate
    broken: tuple[str, ...]
    binds: str | None
    loss: Estimate
    N: Estimate
    costs: Mapping[str, Estimate]  # by name in METRICS; training if D is known
    share: float | None
    extrapolates: tuple[Note, ...]
    versus: Versus | None  # for P > 1

    @property
    def P(self) -> int:
        """Number of streams."""
        return self.candidate.P

    @property
    def within(self) -> bool:
        """True if no limit is exceeded."""
        return not self.broken


@dataclass(frozen=True)
class Plan(Shown):
    """A model to train and serve. `winner` is None if no option is within the limits.

    With a `target` loss the winner has the lowest cost `by`, else the lowest loss. `gain` compares it to
    the best plain model: the difference of losses (nats per token), or with a target the ratio of
    costs. `no_answer` is the share of draws in which no option within the limits reaches the target.
    """

    problem: Problem
    target: float | None
    by: str
    options: tuple[Option, ...]
    left_out: Mapping[int, str]  # by P, the reason why there is no option
    winner: Option | None
    no_answer: float
    gain: Estimate | None
    priced_by: str = ""  # cost model, device and precision, as text
    binary: bool = True  # show memory in GiB, not in GB
    trainer: str = "this device"
    server: str = "this device"
    price_notes: tuple[str, ...] = ()  # deviations of the price from the request
    by_law: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # `share` of each P by law of an average
    law_share: float | None = None  # of the variance of the winner's loss or cost, the part between laws

    _report: ClassVar[str] = "scalelab.reports.plans:plan_report"
    _figure: ClassVar[str] = "scalelab.plot.plan:plot"
    _json: ClassVar[str] = "scalelab.reports.plans:plan_json"

    @property
    def notes(self) -> tuple[Note, ...]:
        """Notes that affect the plan: of the fit on the gain of streams, and of the winner on extrapolation."""
        return (*gain_notes(self.problem.fit), *(self.winner.extrapolates if self.winner else ()))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per P, in bytes, seconds and FLOPs, unrounded."""
        import pandas as pd

        rows = []
        for option in self.options:
            row = {"P": option.P, "hidden_size": option.candidate.width, "within_limits": option.within}
            found = {"N": option.N, "loss": option.loss, **option.costs}
            for name, estimate in found.items():
                row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            rows.append(row | {"limit": option.binds, "probability_best": option.share})
        return pd.DataFrame(rows, columns=None if rows else ["P"]).set_index("P")

    def __repr__(self) -> str:
        best = "no option is within the limits"
        if self.winner is not None:
            best = f"best P = {self.winner.P}, N {format_count(self.winner.N.value)}, loss {self.winner.loss.value:.4f}"
        return f"<Plan {self.problem.fit.group}, {self.problem.fit.law.title}: {best}>"

    @property
    def measured_winner(self) -> Option | None:
        """The best option among the P that are at most the largest of the runs."""
        most = max(self.problem.fit.P_levels)
        return best_of([o for o in self.options if most >= o.P], self.target, self.by)


def gain_notes(fit: FitResult) -> list[Note]:
    """Return the fit's notes that affect a plan: serious ones, and those on the gain of streams."""
    parameters = [p for law in laws_of(fit) for p in law.parameters]
    gains = {f"{p.name}_{found}" for p in parameters if p.needs == "P" for found in ("unresolved", "against")}
    codes = {*_ABOUT_STREAMS, *gains}
    return [note for note in fit.notes if note.severity == "serious" or note.code in codes]


def make_plan(
    problem: Problem,
    streams: Sequence[int],
    device: Device,
    target: float | None = None,
    by: str = "latency",
    train_on: Device | None = None,
) -> Plan:
    """Return the plan with the lowest loss over N and `streams` within the limits, or the lowest `by` for `target`.

    Training time is that on `train_on`, by default the serving device. Probabilities combine the draws of the fit
    with the spread of published errors of costs (`scalelab.plan.doubt`).

    Raises:
        UsageError: `by` is not a cost, or is "training" without a known D.
        ScalelabError: the law rises with N.
    """
    if by not in METRICS:
        raise choice_error("by", by, METRICS)
    if by == "training" and problem.D is None:
        raise UsageError(f"`by={by!r}` needs the number of training tokens, which the fit does not have: give `D`")
    if "P" not in problem.fit.law.variables:
        streams = [P for P in streams if P == 1]
    sized = [lowest_loss(problem, P) if target is None else reaching(problem, P, target) for P in streams]
    curves = {s.P: CostCurve(problem, s.P, _known(s)) for s in sized if s.candidate} if target is not None else {}
    factors = Factors(problem, len(problem.fit.draws))
    allowed = {s.P: doubted_sizes(problem, s, factors) if target is None else None for s in sized}
    scores = {s.P: _scores(problem, s, curves.get(s.P), by, factors, allowed[s.P]) for s in sized}
    shares, no_answer = best_shares(scores)
    left_out = {s.P: _why_not(problem, s, target) for s in sized if s.candidate is None or math.isnan(s.loss)}
    options = tuple(
        _option(problem, s, curves.get(s.P), shares.get(s.P), train_on or device, factors, allowed[s.P])
        for s in sized
        if s.P not in left_out
    )
    winner = best_of(options, target, by)
    gain = _gain(options, winner, scores, target, by)
    masks = draws_of_laws(problem.fit)
    return Plan(
        problem,
        target,
        by,
        options,
        left_out,
        winner,
        no_answer,
        gain,
        by_law={law: best_shares({P: s[mask] for P, s in scores.items()})[0] for law, mask in masks.items()},
        law_share=None if winner is None else law_share(problem.fit, scores[winner.P]),
    )


def best_of(options: Sequence[Option], target: float | None, by: str) -> Option | None:
    """Return the best option within the limits, of equals that with the fewest streams; None if there is none."""
    within = [o for o in options if o.within]
    return min(within, key=lambda o: o.loss.value if target is None else o.costs[by].value, default=None)


def best_shares(scores: Mapping[int, Array]) -> tuple[dict[int, float], float]:
    """Return the share of draws in which each P has the lowest score [draws], and that in which no score is finite."""
    table = np.stack(list(scores.values())) if scores else np.empty((0, 0))
    if table.shape[1] == 0:
        return {}, 0.0
    table = np.where(np.isnan(table), np.inf, table)
    some = np.isfinite(table).any(axis=0)
    best = table.argmin(axis=0)  # the first of equal scores
    return {P: float(np.mean(some & (best == i))) for i, P in enumerate(scores)}, float(np.mean(~some))


def _known(sized: Sized) -> Array:
    assert sized.candidate is not None
    return np.append(sized.N_draws[np.isfinite(sized.N_draws)], sized.candidate.N)


def _scores(
    problem: Problem, sized: Sized, curve: CostCurve | None, by: str, factors: Factors, allowed: Array | None
) -> Array:
    """Return a score per draw, lower is better: the loss, or the cost; infinite beyond the limits."""
    if not len(sized.N_draws):
        return doubted_losses(problem, sized, allowed)
    if curve is None:
        # The law may reach the target in some draws, but not with the fitted parameters, so there is no option.
        return np.full(len(sized.N_draws), np.inf)
    costs = {name: curve.at(name, sized.N_draws) * factors.of(name, sized) for name in {by, *problem.bounds}}
    broken = np.any([costs[name] > bound for name, bound in problem.bounds.items()], axis=0)
    return np.where(broken, np.inf, costs[by])


def _option(
    problem: Problem,
    sized: Sized,
    curve: CostCurve | None,
    share: float | None,
    train_on: Device,
    factors: Factors,
    allowed: Array | None,
) -> Option:
    c = sized.candidate
    assert c is not None
    if curve is None:
        loss = Estimate.of(sized.loss, sized.losses)
        N = Estimate(c.N) if allowed is None else Estimate.of(c.N, allowed)
    else:
        loss, N = Estimate(sized.loss, None, None), Estimate.of(c.N, sized.N_draws)
    costs = {}
    for name in METRICS:
        value = c.metric(name)
        if value is not None:
            draws = np.ones(len(problem.fit.draws)) if curve is None else curve.at(name, sized.N_draws)
            draws = draws * factors.of(name, sized) * (value if curve is None else 1.0)
            sure = curve is None and not c.spread(name)
            costs[name] = Estimate.of(value, np.empty(0) if sure else draws)
    D = problem.D if "D" in problem.fit.law.variables else None
    notes = tuple(extrapolation_notes(problem.fit, c.N, c.P, D))
    versus = against_plain(problem, c, train_on) if c.P > 1 else None
    return Option(c, tuple(problem.broken(c)), sized.binds, loss, N, costs, share, notes, versus)


def _why_not(problem: Problem, sized: Sized, target: float | None) -> str:
    if target is None:
        if sized.candidate is None:
            broken = problem.broken(problem.at_width(MIN_WIDTH, sized.P))
            limits = f"limit{'s' if len(broken) > 1 else ''}"
            return f"even the narrowest decoder exceeds the {limits} on {' and '.join(broken)}"
        return "the law is undefined at this P with the fitted parameters"
    if np.isnan(problem.losses(np.array(problem.fit.params), np.array(1e9), sized.P)):
        return "the law is undefined at this P with the fitted parameters"
    return "no size reaches that loss"


def _gain(
    options: Sequence[Option], winner: Option | None, scores: Mapping[int, Array], target: float | None, by: str
) -> Estimate | None:
    plain = next((o for o in options if o.P == 1), None)
    if winner is None or plain is None or winner.P == 1:
        return None
    if target is None:
        with np.errstate(invalid="ignore"):  # there is no gain if neither is within the limits
            gains = scores[1] - scores[winner.P]
        return Estimate.of(plain.loss.value - winner.loss.value, gains)
    return Estimate(plain.costs[by].value / winner.costs[by].value, None, None)
