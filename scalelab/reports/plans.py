"""Reports of plans: tables and JSON. Their sentences are in `plan_words`."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

from scalelab.fit.derived import Estimate
from scalelab.plan.answer import Option, Plan, gain_notes
from scalelab.reports.averages import laws_json
from scalelab.reports.blocks import Line, Report, Table, note_lines
from scalelab.reports.costs import served_cells, served_headings
from scalelab.reports.json_values import as_json_value
from scalelab.reports.plan_units import cost_cells, cost_headings, interval, limits, percent, setting
from scalelab.reports.plan_words import caution, sentences, shortfall
from scalelab.units import format_count, format_number

_DIGITS = 4


def plan_report(plan: Plan, verdict: bool = True) -> Report:
    """Return the best model of each P, its comparison with the plain model of equal loss, sentences and notes.

    If nothing is within the limits and `verdict` is set, the last line explains why.
    """
    if not plan.options:
        return Report.of([Line(shortfall(plan), "serious")])
    blocks: list[Table | Line] = [_best_table(plan)]
    if legend := _legend(plan):
        blocks.append(Line(legend, "dim"))
    blocks += [Line(""), _served_table(plan)]
    if any(o.versus for o in plan.options):
        blocks += [Line(""), _versus_table(plan)]
    far = caution(plan)
    extrapolates = plan.winner.extrapolates if plan.winner else ()
    notes = (*gain_notes(plan.problem.fit), *(n for n in extrapolates if not (far and "N_factor" in n.figures)))
    blocks += [Line(""), *([Line(far, "strong")] if far else []), *note_lines(notes)]
    blocks += [Line(line) for line in sentences(plan)]
    blocks += [Line(f"no P = {P}: {reason}", "dim") for P, reason in plan.left_out.items()]
    blocks += [Line(text, "info") for text in plan.price_notes]
    if plan.winner is None and verdict:
        blocks.append(Line(shortfall(plan), "serious"))
    return Report.of(blocks)


def _best_table(plan: Plan) -> Table:
    wanted = "lowest loss" if plan.target is None else f"lowest {plan.by} for a loss of {plan.target:g}"
    title = f"{wanted} within {limits(plan)}\n{setting(plan)}"
    sized, trains = plan.target is not None, plan.problem.D is not None
    headings = ["", "P", "hidden", "N", "loss", *cost_headings(plan), *(["training FLOPs"] if trains else [])]
    table = Table(title, [*headings, "<limit", "best in draws"], keys=2)
    for option in plan.options:
        winner = plan.winner is not None and option.P == plan.winner.P
        cells = [">" if winner else "", f"{option.P}{'*' if option.extrapolates else ''}"]
        cells += [f"{option.candidate.width:.0f}"]
        cells += [option.N.text(format_count) if sized else format_count(option.N.value, 4)]
        cells += [option.loss.text(lambda v: f"{v:.{_DIGITS}f}")]
        cells += cost_cells(plan, option.candidate)
        cells += [format_number(option.candidate.training, 3)] if option.candidate.training is not None else []
        limit = f"!{', '.join(option.broken)}" if option.broken else option.binds or ""
        table.add(*cells, limit, "" if option.share is None else percent(option.share, len(plan.options) == 1))
    return table


def _served_table(plan: Plan) -> Table:
    """Return the serving speed of each option, energy, money and the largest batch."""
    costs = [option.candidate.cost for option in plan.options]
    table = Table("serving", ["P", *served_headings(costs), "largest batch", "<limited by"])
    for option, cost in zip(plan.options, costs, strict=True):
        most, stops = plan.problem.most_requests(option.candidate)
        table.add(str(option.P), *served_cells(cost, costs), f"{most:,}", stops or "")
    return table


def _legend(plan: Plan) -> str:
    """Explain the marks in the table."""
    used = [*(["the one reached"] if any(o.within and o.binds for o in plan.options) else [])]
    used += ["! the ones exceeded, worst first"] if any(o.broken for o in plan.options) else []
    words = [*(["> best"] if plan.winner else []), *([f"limit: {', '.join(used)}"] if used else [])]
    words += ["* outside the runs"] if any(o.extrapolates for o in plan.options) else []
    return "; ".join(words)


def _versus_table(plan: Plan) -> Table:
    trains = plan.problem.D is not None
    headings = ["P", "plain N (95 % interval)", *(f"plain {name}" for name in cost_headings(plan))]
    headings += ["plain training FLOPs", "<streams break even after"] if trains else []
    table = Table("plain model of equal loss", headings)
    for option in plan.options:
        versus = option.versus
        if versus is None:
            continue
        if versus.plain is None:
            table.add(str(option.P), versus.N.text(format_count), "", "", *(["", ""] if trains else []))
            continue
        plain = versus.plain
        cells = [str(option.P), f"{format_count(plain.N, 4)}{_in_brackets(versus.N)}"]
        cells += cost_cells(plan, plain)
        if plain.training is not None and versus.tokens is not None:
            count = f"{format_count(versus.tokens)} tokens" if isfinite(versus.tokens) else ""
            words = {
                "at once": "0 tokens, always ahead",
                "never": "never",
                "after": f"{count}, then ahead",
                "until": f"{count}, then behind",
            }
            cells += [format_number(plain.training, 3), words[versus.verdict or "never"]]
        table.add(*cells)
    return table


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return everything, unrounded; infinities are "inf"."""
    problem = plan.problem
    return as_json_value(
        {
            "fit": problem.fit.group,
            "law": problem.fit.law.name,
            **({} if (laws := laws_json(problem.fit)) is None else {"laws": laws, "law_share": plan.law_share}),
            **({"probability_best_by_law": plan.by_law} if plan.by_law else {}),
            "workload": asdict(problem.workload),
            "D": problem.D,
            "second_stage_fraction": problem.second_stage,
            "limits": dict(problem.bounds),
            "target_loss": plan.target,
            "by": None if plan.target is None else plan.by,
            "winner": None if plan.winner is None else plan.winner.P,
            "best_of_measured_P": None if plan.measured_winner is None else plan.measured_winner.P,
            "gain_over_plain": None if plan.gain is None else asdict(plan.gain),
            "draws_without_answer": plan.no_answer,
            "options": [_option(option) for option in plan.options],
            "left_out": {str(P): reason for P, reason in plan.left_out.items()},
            "fit_notes": [asdict(note) for note in gain_notes(problem.fit)],
        }
    )


def _option(option: Option) -> dict[str, Any]:
    versus = option.versus
    row = {
        "P": option.P,
        "hidden_size": option.candidate.width,
        "num_layers": option.candidate.cost.architecture.num_layers,
        "N": asdict(option.N),
        "loss": asdict(option.loss),
        "memory_bytes": asdict(option.costs["memory"]),
        "latency_s": asdict(option.costs["latency"]),
        "ttft_s": asdict(option.costs["ttft"]),
        "tpot_s": asdict(option.costs["tpot"]),
        "tokens_per_s": option.candidate.cost.tokens_per_s,
        "kwh_per_mtoken": option.candidate.cost.kwh_per_mtoken,
        "usd_per_mtoken": option.candidate.cost.price_per_mtoken,
        "train_flops": asdict(option.costs["training"]) if "training" in option.costs else None,
        "within_limits": option.within,
        "limit": option.binds,
        "limits_broken": list(option.broken),
        "probability_best": option.share,
        "extrapolation": [note.message for note in option.extrapolates],
        "plain_of_equal_loss": None,
    }
    if versus is not None:
        plain = versus.plain
        row["plain_of_equal_loss"] = {
            "N": asdict(versus.N),
            "memory_bytes": plain and plain.memory,
            "latency_s": plain and plain.latency,
            "train_flops": plain and plain.training,
            "extra_train_s": versus.train_s,
            "extra_s_per_token": versus.token_s,
            "verdict": versus.verdict,
            "break_even_tokens": versus.tokens,
        }
    return row


def _in_brackets(estimate: Estimate) -> str:
    ends = interval(estimate, format_count)
    return f" ({ends})" if ends else ""
