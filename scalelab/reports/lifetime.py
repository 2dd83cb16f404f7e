"""Reports of lifetime plans: the table, sentences and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from math import isfinite
from typing import Any

from scalelab.fit.derived import Estimate
from scalelab.plan.lifetime import LifetimeOption, LifetimePlan
from scalelab.plan.lifetime_curve import Region
from scalelab.reports.blocks import Line, Report, Table, note_lines
from scalelab.reports.json_values import as_json_value
from scalelab.reports.plan_units import interval, percent
from scalelab.reports.plan_words import given_law
from scalelab.units import format_count, format_number, format_seconds, plain_number

_YEAR = 365 * 86_400.0
_MANY = 1e6
_SMALL = 5e-4  # share of the cost below which a saving is none
_UNITS = {"flops": "FLOPs", "seconds": "device time", "money": "US dollars"}
_SECOND_STAGE = (
    "Assumption: streams that run for the last {share:g} % of the tokens only lower the loss as much as the law says. "
    "The ParScale paper trains so (2 % of 1T tokens, arXiv 2505.10475), but publishes no law of it: this is known only "
    "if the runs of the fit were trained that way."
)


def lifetime_report(plan: LifetimePlan, verdict: bool = True) -> Report:
    """Return the cheapest model of each P, what it saves and how sure that is, and what was assumed.

    If nothing is within the limits and `verdict` is set, the last line explains why.
    """
    if not plan.options:
        return Report.of([Line(shortfall(plan), "serious")])
    blocks: list[Table | Line] = [_table(plan)]
    if legend := _legend(plan):
        blocks.append(Line(legend, "dim"))
    blocks += [Line(""), *(Line(text, "warning") for text in plan.belief.notes), *note_lines(plan.notes)]
    blocks += [Line(text) for text in (*_verdict(plan), *_certainty(plan), *_streams(plan))]
    blocks += [Line(text, "dim") for text in _counted(plan)]
    blocks += [Line(f"no P = {P}: {reason}", "dim") for P, reason in plan.left_out.items()]
    blocks += [Line(text, "info") for text in plan.price_notes]
    if plan.winner is None and verdict:
        blocks.append(Line(shortfall(plan), "serious"))
    return Report.of(blocks)


def amount(plan: LifetimePlan, value: float) -> str:
    """Return a cost with its unit: ``8e22 FLOPs``, ``9.4 device years`` or ``$375,000``."""
    if plan.by == "flops":
        return f"{format_number(value, 3)} FLOPs"
    if plan.by == "money":
        return f"${_dollars(value)}"
    return f"{_number(plan, value)} device years" if value >= _YEAR else f"{format_seconds(value)} of a device"


def shortfall(plan: LifetimePlan) -> str:
    """Return why nothing is within the limits, in one line."""
    (P, reason), *others = plan.left_out.items()
    more = f"; likewise with P = {', '.join(str(other) for other, _ in others)}" if others else ""
    advice = "a higher loss, `tensor_parallel` or narrower `weights` may help"
    return f"nothing reaches a loss of {plan.target:g} within the limits: with P = {P} {reason}{more}; {advice}"


def setting(plan: LifetimePlan) -> str:
    """Return the loss and the served tokens as text."""
    count = format_count(plan.served)
    return f"loss {plan.target:.5g}, {count} {'token' if count == '1' else 'tokens'} served"


def _table(plan: LifetimePlan) -> Table:
    unit = "device years" if plan.by == "seconds" else _UNITS[plan.by]
    title = f"lowest cost of training and serving, {unit}: {setting(plan)}\n{plan.belief.title}"
    if plan.priced_by:
        title += f"\n({plan.priced_by})"
    drawn = plan.belief.draws > 0
    limited = any(option.binds for option in plan.options)
    headings = ["", "P", "N", "D", "D/N", "training", "serving", "total", *(["best in draws"] if drawn else [])]
    table = Table(title, [*headings, *(["<limit"] if limited else [])], keys=2)
    for option in (*plan.options, *([plan.train_best] if plan.train_best else [])):
        last = option is plan.train_best
        mark = "C" if last else ">" if option is plan.winner else ""
        cells = [mark, f"{option.P}{'*' if option.notes else ''}"]
        cells += [option.N.text(format_count), option.D.text(format_count)]
        ratio = option.D.value / option.N.value
        cells += [plain_number(ratio) if ratio < _MANY else format_number(ratio, 3)]
        cells += [_number(plan, part.value) for part in (option.training, option.serving)]
        cells += [option.total.text(lambda value: _number(plan, value))]
        cells += (
            ["" if last or option.share is None else percent(option.share, len(plan.options) == 1)] if drawn else []
        )
        table.add(*cells, *(["" if last else option.binds or ""] if limited else []))
    return table


def _number(plan: LifetimePlan, value: float) -> str:
    if not isfinite(value):
        return "∞"
    if plan.by == "seconds":
        years = value / _YEAR
        return plain_number(years) if years >= 1e-3 else format_number(years, 3)
    return _dollars(value) if plan.by == "money" else format_number(value, 3)


def _dollars(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.2f}"


def _legend(plan: LifetimePlan) -> str:
    words = [*(["> best"] if plan.winner else [])]
    words += ["C the plain model with the lowest N·D, trained for this loss and then served"] if plan.train_best else []
    words += ["* outside the runs"] if any(o.notes for o in plan.options) else []
    return "; ".join(words)


def _verdict(plan: LifetimePlan) -> Iterator[str]:
    winner = plan.winner
    if winner is None:
        return
    yield (
        f"Best: {_model(winner)}, {amount(plan, winner.total.value)}, of which serving is "
        f"{percent(winner.serving.value / winner.total.value)}."
    )
    best, over = plan.train_best, plan.saving_over_train_best
    if best is not None and over is not None and over.value < _SMALL and winner.P == 1:
        yield "That is also the model with the lowest training cost: serving is too small a part to change it."
    elif best is not None and over is not None:
        yield (
            f"That is {_share(over)} less than the plain model with the lowest training cost, "
            f"{_model(best)} ({amount(plan, best.total.value)})."
        )
    if plan.saving is not None and plan.plain is not None:
        yield (
            f"It is {_share(plan.saving)} less than the best plain model, {_model(plan.plain)} "
            f"({amount(plan, plan.plain.total.value)})."
        )
    elif winner.P == 1 and len(plan.options) > 1:
        other = min((o for o in plan.options if o.P > 1), key=lambda o: o.total.value)
        more = other.total.value / winner.total.value - 1
        yield f"Streams do not pay off: the cheapest with streams, {_model(other)}, costs {100 * more:.3g} % more."


def _model(option: LifetimeOption) -> str:
    streams = f"P = {option.P} streams" if option.P > 1 else "P = 1"
    return f"N = {format_count(option.N.value)} with {streams} on D = {format_count(option.D.value)}"


def _share(saving: Estimate) -> str:
    ends = interval(saving, lambda value: f"{100 * value:.3g}")
    return f"{100 * saving.value:.3g} %{f' ({ends} %)' if ends else ''}"


def _certainty(plan: LifetimePlan) -> Iterator[str]:
    if not plan.belief.draws:
        what = "These constants have" if plan.belief.fit is None else "The fit has"
        yield f"{what} no bootstrap draws, so there are no intervals and no probabilities."
        return
    found = plan.overall
    if found:
        chosen = [f"N {_range(found['N'], format_count)}", f"D {_range(found['D'], format_count)}"]
        chosen += [f"P {_range(found['P'], lambda P: f'{P:.0f}')}"] if len(plan.options) > 1 else []
        yield f"Each bootstrap draw with its own best P gives {', '.join(chosen)} (95 %)."
    if plan.streams_win is not None:
        right = given_law(plan.belief.laws[0].law) if len(plan.belief.laws) == 1 else ""
        often = f"{percent(plan.streams_win, certain=True)} of the" if plan.streams_win else "none of the"
        yield f"P > 1 is cheaper than P = 1 in {often} draws{right}."
    if plan.no_answer:
        yield (
            f"In {percent(plan.no_answer)} of the draws no N and D reach a loss of {plan.target:g}: it is below the "
            "law's floor E there, or out of reach within the limits, so intervals may have an open end."
        )
    elif lost := [o for o in plan.options if o.lost]:
        words = ", ".join(f"P = {o.P} in {percent(o.lost or 0.0)}" for o in lost)
        yield f"Out of reach in some draws, where the loss is below the law's floor or beyond the limits: {words}."


def _range(estimate: Estimate, form: Any) -> str:
    low, high = estimate.low, estimate.high
    return form(low) if low is not None and form(low) == form(high) else interval(estimate, form)


def _streams(plan: LifetimePlan) -> Iterator[str]:
    if not plan.belief.has_streams:
        yield f"The law {plan.belief.laws[0].law.name!r} has no P, so this plan is for plain models only."
        return
    if plan.belief.fit is not None and plan.belief.fit.P_levels == (1,):
        yield "All runs have P = 1, so the fit cannot predict the gain of streams."
    if len(plan.options) < 2:
        return
    regions = plan.regions()
    if any(region.P > 1 for region in regions):
        words = ", ".join(f"P = {region.P} {_span(region, plan)}" for region in regions)
        yield f"By served tokens the cheapest is {words}."
    if plan.winner is not None and plan.winner.P == max(option.P for option in plan.options) > 1 and not plan.left_out:
        yield f"P = {plan.winner.P} is the largest considered; a larger `max_P` may be cheaper."
    if plan.costs.second_stage < 1:
        yield _SECOND_STAGE.format(share=100 * plan.costs.second_stage)


def _span(region: Region, plan: LifetimePlan) -> str:
    if region.low > 0 and isfinite(region.high):
        return f"from {format_count(region.low)} to {format_count(region.high)}"
    if isfinite(region.high):
        return f"up to {format_count(region.high)}"
    return f"from {format_count(region.low)} on" if region.low > 0 else "for any number"


def _counted(plan: LifetimePlan) -> Iterator[str]:
    """Yield how costs are counted."""
    costs, many = plan.costs, len(plan.options) > 1
    passes = ""
    if many and costs.second_stage < 1:
        passes = f", and as much for each further stream in the last {100 * costs.second_stage:g} % of the tokens"
    elif many:
        passes = ", times P"
    trained = f"Training is 6·N·D FLOPs{passes}"
    device = costs.train_on.gpu
    if plan.by != "flops":
        trained += f", at {100 * costs.utilisation:g} % of the 16-bit peak of {device}"
    if plan.by == "money":
        trained += f" for ${costs.hour(costs.train_on):g} an hour"
    yield f"{trained}; N: {plan.belief.counts}."
    if plan.by == "flops":
        attention = "with the attention of a request" if costs.attention else "without attention"
        yield (
            f"Serving is 2·N{'·P' if many else ''} FLOPs for every token of prompts and answers, {attention}"
            f"{'' if costs.attention else ' (give `tokens_in` and `tokens_out` to add it)'}."
        )
    elif costs.serving is not None:
        work, served = costs.serving.workload, costs.serving.device
        price = f" for ${costs.hour(served):g} an hour" if plan.by == "money" else ""
        yield (
            f"Serving is requests of {work.tokens_in} prompt and {work.tokens_out} generated tokens, {work.batch} at "
            f"once, on {served.gpu}{price}, always busy; served tokens are both."
        )
        if work.batch == 1:
            yield "One request at a time leaves most of the device idle; set the usual number with `batch`."


def lifetime_json(plan: LifetimePlan) -> dict[str, Any]:
    """Return everything, unrounded; infinities are "inf"."""
    costs = plan.costs
    return as_json_value(
        {
            "title": plan.belief.title,
            "laws": [each.law.name for each in plan.belief.laws],
            "draws": plan.belief.draws,
            "target_loss": plan.target,
            "serve_tokens": plan.served,
            "by": plan.by,
            "second_stage_fraction": costs.second_stage,
            "n_counts": plan.belief.counts,
            "train_gpu": None if plan.by == "flops" else costs.train_on.gpu,
            "train_utilisation": None if plan.by == "flops" else costs.utilisation,
            "workload": None if costs.serving is None else asdict(costs.serving.workload),
            "limits": {} if costs.serving is None else dict(costs.serving.limits),
            "winner": None if plan.winner is None else plan.winner.P,
            "saving_over_best_plain": plan.saving and asdict(plan.saving),
            "saving_over_lowest_training": plan.saving_over_train_best and asdict(plan.saving_over_train_best),
            "probability_streams_win": plan.streams_win,
            "draws_without_answer": plan.no_answer,
            "over_draws": {name: asdict(estimate) for name, estimate in plan.overall.items()},
            "options": [_option(option) for option in plan.options],
            "lowest_training": None if plan.train_best is None else _option(plan.train_best),
            "best_P_by_served_tokens": [asdict(region) for region in plan.regions()],
            "left_out": {str(P): reason for P, reason in plan.left_out.items()},
            "warnings": list(plan.belief.notes),
            "notes": [asdict(note) for note in plan.notes],
        }
    )


def _option(option: LifetimeOption) -> dict[str, Any]:
    names = ("N", "D", "training", "serving", "total")
    return {
        "P": option.P,
        **{name: asdict(getattr(option, name)) for name in names},
        "limit": option.binds,
        "probability_best": option.share,
        "probability_out_of_reach": option.lost,
        "extrapolation": [note.message for note in option.notes],
    }
