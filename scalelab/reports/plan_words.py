"""Sentences of plans: the choice, its gain, its probability and its costs."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, isnan
from typing import TYPE_CHECKING

from scalelab.cost.request import interval_of
from scalelab.fit.mixture import MixtureLaw, share_text
from scalelab.plan.answer import Option, Plan
from scalelab.plan.problem import Candidate
from scalelab.plan.search import lowest_loss
from scalelab.plan.shapes import MIN_WIDTH
from scalelab.reports.plan_units import interval, limits, metric, percent
from scalelab.units import format_count, format_number, plural

if TYPE_CHECKING:
    from scalelab.laws import Law
    from scalelab.plan.payback import Versus

_DAY = 86_400.0
_YEAR = 365.0  # days
_MINUTE = 60.0
_SLOW_TOKEN = 0.25  # seconds: 180 words a minute, as people read
_FULL = 0.99
_OPEN = 0.5  # share of the draws below which no P is clearly the best
_FAR = 10.0  # factor in N outside the runs above which a plan is a guess


def caution(plan: Plan) -> str:
    """Return a warning if the winner is far smaller or larger than all runs, else an empty string."""
    if plan.winner is None:
        return ""
    N, seen = plan.winner.candidate.N, plan.problem.fit.data.N
    least, most = float(seen.min()), float(seen.max())
    if least / _FAR <= N <= most * _FAR:
        return ""
    factor, far = (least / N, f"smaller than the smallest run, {format_count(least)}")
    if most < N:
        factor, far = (N / most, f"larger than the largest run, {format_count(most)}")
    return (
        f"Far outside the runs: N = {format_count(N)} (hidden {plan.winner.candidate.width:.0f}) is {factor:,.0f} "
        f"times {far}, so its loss is a guess. Change the limits, or train models of about that size."
    )


def sentences(plan: Plan) -> Iterator[str]:
    """Yield the choice, its gain and probability, a size to build, and training costs; nothing without a winner."""
    winner = plan.winner
    if winner is None:
        return
    yield _verdict(plan, winner)
    yield from _allowed(plan, winner)
    yield from _gain(plan, winner)
    yield from _probability(plan, winner)
    yield from _beyond(plan, winner)
    yield from _buildable(plan, winner)
    yield from _impractical(plan, winner)
    if plan.problem.fit.P_levels == (1,):
        yield "All runs have P = 1, so the fit cannot predict the gain of streams."
    elif "P" not in plan.problem.fit.law.variables:
        yield f"The law {plan.problem.fit.law.name!r} has no P, so this plan is for plain models only."
    if winner.versus is not None:
        yield from _training(plan, winner, winner.versus)


def _model(option: Option) -> str:
    streams = f"P = {option.P} streams" if option.P > 1 else "no streams (P = 1)"
    return f"N = {format_count(option.N.value)} (hidden {option.candidate.width:.0f}) with {streams}"


def _verdict(plan: Plan, winner: Option) -> str:
    if plan.target is not None:
        cost = metric(plan, plan.by, winner.costs[plan.by].value)
        range_ = interval(winner.costs[plan.by], lambda v: metric(plan, plan.by, v))
        sure = f" ({range_})" if range_ else ""
        least = f", the narrowest decoder considered, with loss {winner.loss.value:.4f}"
        lower = least if winner.loss.value < plan.target else ""
        return f"Best for a loss of {plan.target:g}: {_model(winner)}{lower}; {plan.by} {cost}{sure}."
    spread = interval(winner.loss, lambda v: f"{v:.4f}")
    used = f"; limited by {_named(plan, winner.binds)}" if winner.binds else "; no limit is reached"
    return f"Best: {_model(winner)}, loss {winner.loss.value:.4f}{f' ({spread})' if spread else ''}{used}."


def _allowed(plan: Plan, winner: Option) -> Iterator[str]:
    """Yield the range of N that the limits allow, given the errors of the cost model."""
    low, high = winner.N.low, winner.N.high
    if plan.target is None and low is not None and high is not None:
        yield (
            f"With the error of the cost model, the limits allow N from {format_count(low)} to {format_count(high)} "
            f"with P = {winner.P} (95 %)."
        )


def _named(plan: Plan, limit: str) -> str:
    if limit == "training":
        return "training FLOPs"
    return "the device's memory" if limit == "memory" and plan.problem.device_binds else limit


def _gain(plan: Plan, winner: Option) -> Iterator[str]:
    plain = next((o for o in plan.options if o.P == 1), None)
    if winner.P == 1 and len(plan.options) > 1:
        yield "Streams do not pay off within these limits: the plain model is best."
    if plan.gain is None or plain is None:
        return
    if plan.target is None:
        spread = interval(plan.gain, lambda v: f"{v:.4f}")
        streams, without = winner.candidate.training, plain.candidate.training
        times = f", but takes {streams / without:.3g} times its training FLOPs" if streams and without else ""
        yield (
            f"That is {plan.gain.value:.4f}{f' ({spread})' if spread else ''} nats per token below the best plain "
            f"model within the limits (N = {format_count(plain.N.value)}, loss {plain.loss.value:.4f}){times}."
        )
    else:
        beyond = "" if plain.within else " and exceeds the limits"
        yield (
            f"The plain model of that loss, N = {format_count(plain.N.value)}, takes {plan.gain.value:.3g} times the "
            f"{plan.by}{beyond}."
        )


def _probability(plan: Plan, winner: Option) -> Iterator[str]:
    if winner.share is None:
        yield "The fit has no bootstrap draws, so there are no probabilities."
        return
    others = sorted((o for o in plan.options if o.P != winner.P and o.share), key=lambda o: -(o.share or 0.0))
    rest = "".join(f", P = {o.P} in {percent(o.share or 0.0)}" for o in others[:3])
    none = f", nothing is within the limits in {percent(plan.no_answer)}" if plan.no_answer else ""
    head = "The best P is uncertain: " if winner.share < _OPEN and len(plan.options) > 1 else ""
    if len(plan.options) > 1 or plan.no_answer:
        yield (
            f"{head}P = {winner.P} is best in {percent(winner.share)} of the fit's bootstrap draws"
            f"{_latency_error(winner)}{rest}{none}{given_law(plan.problem.fit.law)}."
        )
        yield from _by_law(plan, winner)


def given_law(law: Law) -> str:
    """Return what probabilities are conditional on: an average over laws, or one law."""
    return f", averaged over {law.words}" if isinstance(law, MixtureLaw) else f", if the {law.name} law is right"


def _by_law(plan: Plan, winner: Option) -> Iterator[str]:
    """Yield the probability of the winner by each law of an average, and the share of the variance between laws."""
    if not plan.by_law:
        return
    each = [f"by {law} alone in {percent(shares.get(winner.P, 0.0), True)}" for law, shares in plan.by_law.items()]
    what = "loss" if plan.target is None else plan.by
    share = (
        ""
        if plan.law_share is None
        else f"; {share_text(plan.law_share)} of the variance of its {what} is between the laws"
    )
    yield f"P = {winner.P} is best {', '.join(each)}{share}."


def _latency_error(winner: Option) -> str:
    ends = interval_of(1.0, winner.candidate.spread("latency"))
    return f" (which include latency errors of ×{ends[0]:.2f}–{ends[1]:.2f}, 95 %)" if ends else ""


def _beyond(plan: Plan, winner: Option) -> Iterator[str]:
    levels = plan.problem.fit.P_levels
    measured = plan.measured_winner
    if winner.P > max(levels) > 1:
        best = f" The best with measured P: {_model_and_figure(measured, plan)}." if measured else ""
        yield f"No run has more than P = {max(levels)}, so P = {winner.P} is extrapolated by the law.{best}"
    if winner.P > 1 and max(o.P for o in plan.options) == winner.P and not plan.left_out:
        yield f"P = {winner.P} is the largest considered; a larger `max_P` may be even better."


def _model_and_figure(option: Option, plan: Plan) -> str:
    figure = (
        f"loss {option.loss.value:.4f}"
        if plan.target is None
        else f"{plan.by} {metric(plan, plan.by, option.costs[plan.by].value)}"
    )
    return f"{_model(option)}, {figure}"


def _buildable(plan: Plan, winner: Option) -> Iterator[str]:
    """Yield the next decoder with whole layers and heads: smaller within limits, larger to reach a loss."""
    problem, width = plan.problem, winner.candidate.width
    D = problem.D if "D" in problem.fit.law.variables else None
    for model in problem.shapes.buildable(width, winner.P, wider=plan.target is not None):
        found = problem.candidate(model)
        loss = float(problem.fit.losses(found.N, winner.P, D))
        within = max(problem.used(found).values()) <= 1
        if loss <= plan.target if plan.target is not None else within:
            yield (
                f"To build: hidden {model.hidden_size} with {plural(model.num_layers, 'layer')} has "
                f"N = {format_count(found.N)}, loss {loss:.4f}, "
                f"{metric(plan, 'memory', found.memory)} and {metric(plan, 'latency', found.latency)}"
                f"{'' if within else ', which exceeds the limits'}."
            )
            return


def _impractical(plan: Plan, winner: Option) -> Iterator[str]:
    """Yield warnings of plans that are too slow, fill the device, or had a limit above the device's memory."""
    problem, candidate = plan.problem, winner.candidate
    if problem.cut_to_device:
        asked = metric(plan, "memory", problem.limits.memory_bytes or 0.0)
        held = metric(plan, "memory", problem.bounds["memory"])
        yield f"`memory` of {asked} is more than the device has; the plan uses {held}."
    if candidate.latency > _MINUTE:
        yield (
            f"A request takes {metric(plan, 'latency', candidate.latency)}, longer than most users wait; limit it with "
            "`latency`, or `ttft` and `tpot`."
        )
    elif candidate.tpot > _SLOW_TOKEN:
        yield f"A token takes {metric(plan, 'tpot', candidate.tpot)}, slower than people read; limit it with `tpot`."
    if problem.device_binds and candidate.memory > _FULL * problem.bounds["memory"]:
        yield "The plan fills the device's memory; to leave room, such as for longer prompts, limit it with `memory`."


def _training(plan: Plan, winner: Option, versus: Versus) -> Iterator[str]:
    plain, cost = versus.plain, winner.candidate.training
    if plain is None:
        yield "No plain model of this family reaches that loss."
        return
    if cost is None or plain.training is None or versus.train_s is None or versus.token_s is None:
        yield "The cost of training is unknown: give the number of training tokens, `D`."
        return
    share = plan.problem.second_stage
    recipe = f"with streams for {100 * share:g} % of the tokens" if share < 1 else "with streams throughout"
    yield (
        f"Training {recipe} takes {format_number(cost, 3)} FLOPs, {cost / plain.training:.3g} times those of the plain "
        f"model of equal loss (N = {format_count(plain.N)}): {_time(versus.train_s)} of {plan.trainer}."
    )
    saved = f"{1e3 * abs(versus.token_s):.3g} ms {'less' if versus.token_s < 0 else 'more'}"
    serving = f"In serving, the model with streams takes {saved} per generated token"
    if share < 1:
        yield (
            "Assumption: two-stage training reaches the loss of the law; "
            "this is known only if the fitted runs were trained that way."
        )
    same = versus.in_money or plan.server == plan.trainer
    counted = "" if same else f", if an hour of {plan.server} is worth one of {plan.trainer}"
    even = "break even in money" if versus.in_money else "break even"
    tokens = versus.tokens if versus.tokens is not None and isfinite(versus.tokens) else 0.0
    took = f" ({_served(tokens, winner)} of continuous serving on {plan.server})"
    yield {
        "at once": f"{serving}: streams pay off from the first token.",
        "never": f"{serving}: streams never pay off in time, only in memory if at all.",
        "after": f"{serving}: streams {even} after {format_count(tokens)} tokens{took}{counted}.",
        "until": f"{serving}: streams are ahead up to {format_count(tokens)} tokens{took}, then behind{counted}.",
    }[versus.verdict or "never"]


def _served(tokens: float, option: Option) -> str:
    """Return how long the device takes for so many tokens, in days or years."""
    days = tokens / option.candidate.cost.tokens_per_s / _DAY
    return f"{format_number(days / _YEAR, 2)} years" if days > _YEAR else f"{format_count(days)} days"


def _time(seconds: float) -> str:
    days = abs(seconds) / _DAY
    return f"{format_count(days)} {'day' if format_count(days) == '1' else 'days'} {'more' if seconds >= 0 else 'less'}"


def shortfall(plan: Plan) -> str:
    """Return why nothing is within the limits, and what would be needed, in one line."""
    allowed = limits(plan)
    if plan.target is None:
        least = [plan.problem.at_width(MIN_WIDTH, P) for P in plan.left_out]
        nearest = min(least, key=lambda c: max(plan.problem.used(c).values()))
        if max(plan.problem.used(nearest).values()) <= 1:
            return f"the law {plan.problem.fit.law.name!r} predicts nothing for these P"
        smallest = f"even hidden {nearest.width:g} with P = {nearest.P}"
        return f"no decoder is within {allowed}: {smallest} {_needs(plan, nearest)}"
    head = f"nothing reaches a loss of {plan.target:g} within {allowed}"
    if plan.options:
        nearest = min((o.candidate for o in plan.options), key=lambda c: max(plan.problem.used(c).values()))
        head += f"; the nearest, N = {format_count(nearest.N)} with P = {nearest.P}, {_needs(plan, nearest)}"
        best = {n: min(plan.options, key=lambda o: o.costs[n].value) for n in plan.problem.bounds}
        broken = {n: o for n, o in best.items() if o.costs[n].value > plan.problem.bounds[n]}
        if broken:
            least_of = (f"{n} {metric(plan, n, o.costs[n].value)} (P = {o.P})" for n, o in broken.items())
            head += f"; the lowest for any P: {', '.join(least_of)}"
        some = sum(o.share or 0.0 for o in plan.options)
        if some:
            head += f"; in {percent(some)} of the fit's bootstrap draws, something does"
    else:
        head += "; no size of any P reaches it"
    lowest = [s for s in (lowest_loss(plan.problem, P) for P in _all(plan)) if not isnan(s.loss)]
    if lowest:
        least = min(lowest, key=lambda s: s.loss)
        head += f"; the lowest loss within the limits is {least.loss:.4f} (P = {least.P})"
    return head


def _needs(plan: Plan, candidate: Candidate) -> str:
    """Return the limits that `candidate` exceeds, the worst first."""
    broken, bounds = plan.problem.broken(candidate), plan.problem.bounds
    words = [
        f"{n} {metric(plan, n, candidate.metric(n) or 0.0)} instead of {metric(plan, n, bounds[n])}" for n in broken
    ]
    return f"needs {' and '.join(words)}"


def _all(plan: Plan) -> list[int]:
    return sorted({*(o.P for o in plan.options), *plan.left_out})
