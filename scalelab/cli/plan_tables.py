"""A plan as tables and as JSON; what it means in words is in `plan_words`."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import inf, isfinite, isinf
from typing import TYPE_CHECKING, Any

from scalelab.cli.console import make_table, print_table, print_text
from scalelab.cli.plan_units import Wording, interval, percent
from scalelab.cli.plan_words import caution, fit_notes, sentences, shortfall
from scalelab.errors import ScalelabError
from scalelab.plan.answer import Option, Plan
from scalelab.units import format_count, format_number, plain_number

if TYPE_CHECKING:
    from rich.console import Console

_DIGITS = 4


def show(console: Console, plan: Plan, how: Wording) -> None:
    """The best of each P, the same beside plain models of equal loss, sentences and notes."""
    from scalelab.cli.fit_tables import show_note

    wanted = "lowest loss" if plan.target is None else f"least {plan.by} for a loss of {plan.target:g}"
    title = f"{wanted} within {how.limits(plan)}\n{how.setting(plan)}"
    print_table(console, title, _best_table(plan, how))
    legend = _legend(plan)
    if legend:
        print_text(console, legend, "dim")
    console.print()
    print_table(console, "as served", _served_table(plan))
    if any(o.versus for o in plan.options):
        console.print()
        print_table(console, "streams beside the plain model of equal loss", _versus_table(plan, how))
    console.print()
    far = caution(plan)
    if far:
        print_text(console, far, "bold red")
    extrapolates = plan.winner.extrapolates if plan.winner else ()
    for note in (*fit_notes(plan.problem.fit), *(n for n in extrapolates if not (far and "N_factor" in n.figures))):
        show_note(console, note.severity, note.message, note.code)
    for line in sentences(plan, how):
        print_text(console, line)
    for P, reason in plan.left_out.items():
        print_text(console, f"no P = {P}: {reason}", style="dim")
    console.print()


def _best_table(plan: Plan, how: Wording) -> Any:
    sized, trains = plan.target is not None, plan.problem.D is not None
    headings = ["", "P", "hidden", "N", *(["<95 % interval"] if sized else []), "loss"]
    headings += [*([] if sized else ["<95 % interval"]), *how.columns, *(["training FLOPs"] if trains else [])]
    table = make_table(*headings, "<limit", "best in draws")
    for option in plan.options:
        winner = plan.winner is not None and option.P == plan.winner.P
        cells = [">" if winner else "", f"{option.P}{'*' if option.extrapolates else ''}"]
        cells += [f"{option.candidate.width:.0f}", format_count(option.N.value, 4)]
        cells += [interval(option.N, format_count)] if sized else []
        cells += [f"{option.loss.value:.{_DIGITS}f}"]
        cells += [] if sized else [interval(option.loss, lambda v: f"{v:.{_DIGITS}f}")]
        cells += how.cells(option.candidate)
        cells += [format_number(option.candidate.training, 3)] if option.candidate.training is not None else []
        limit = f"!{', '.join(option.broken)}" if option.broken else option.binds or ""
        table.add_row(*cells, limit, "" if option.share is None else percent(option.share, len(plan.options) == 1))
    return table


def _served_table(plan: Plan) -> Any:
    """What each option gives to people: times of a request, tokens of all, energy and money of a million tokens."""
    costs = [o.candidate.cost for o in plan.options]
    energy = any(c.kwh_per_mtoken is not None for c in costs)
    money = any(c.price_per_mtoken is not None for c in costs)
    head = ["P", "TTFT, ms", "ms a token", "tokens/s a request", "tokens/s in all"]
    head += [*(["kWh/M tokens"] if energy else []), *(["$/M tokens"] if money else [])]
    table = make_table(*head, "most at once", "<then short of")
    for option, cost in zip(plan.options, costs, strict=True):
        most, stops = plan.problem.most_requests(option.candidate)
        cells = [str(option.P), plain_number(cost.ttft_s * 1e3), plain_number(cost.tpot_s * 1e3)]
        cells += [plain_number(v) if isfinite(v) else "" for v in (cost.request_tokens_per_s, cost.tokens_per_s)]
        cells += [plain_number(cost.kwh_per_mtoken or 0.0)] if energy else []
        cells += [plain_number(cost.price_per_mtoken or 0.0)] if money else []
        table.add_row(*cells, f"{most:,}", stops or "")
    return table


def _legend(plan: Plan) -> str:
    """What stands for what in the table, of what is there."""
    used = [*(["the one used up"] if any(o.within and o.binds for o in plan.options) else [])]
    used += ["with ! those broken, the worst first"] if any(o.broken for o in plan.options) else []
    words = [*(["> the best"] if plan.winner else []), *([f"limit: {', '.join(used)}"] if used else [])]
    words += ["* outside the runs"] if any(o.extrapolates for o in plan.options) else []
    return "; ".join(words)


def _versus_table(plan: Plan, how: Wording) -> Any:
    trains = plan.problem.D is not None
    headings = ["P", "plain N", "<95 % interval", *(f"its {name}" for name in how.columns)]
    table = make_table(*headings, *(["its training FLOPs", "<even after generating"] if trains else []))
    for option in plan.options:
        versus = option.versus
        if versus is None:
            continue
        if versus.plain is None:
            far = "beyond any" if isinf(versus.N.value) else format_count(versus.N.value)
            table.add_row(str(option.P), far, interval(versus.N, format_count), "", "", *(["", ""] if trains else []))
            continue
        plain = versus.plain
        cells = [str(option.P), format_count(plain.N, 4), interval(versus.N, format_count)]
        cells += how.cells(plain)
        if plain.training is not None and versus.tokens is not None:
            count = f"{format_count(versus.tokens)} tokens" if isfinite(versus.tokens) else ""
            words = {
                "at once": "from the start ahead",
                "never": "never",
                "after": f"{count}, then ahead",
                "until": f"{count}, then behind",
            }
            cells += [format_number(plain.training, 3), words[versus.verdict or "never"]]
        table.add_row(*cells)
    return table


def complain_if_infeasible(plan: Plan, how: Wording) -> None:
    """Raises `ScalelabError` with the limits that bind and what would be needed, where nothing is within them."""
    if plan.winner is not None:
        return
    raise ScalelabError(shortfall(plan, how))


def print_json(console: Console, plan: Plan) -> None:
    """Everything, with all digits; infinite values, for which JSON has no number, as "inf"."""
    problem = plan.problem
    out = {
        "fit": problem.fit.group,
        "law": problem.fit.law.name,
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
        "fit_notes": [asdict(note) for note in fit_notes(problem.fit)],
    }
    console.print(json.dumps(_plain(out), indent=1), soft_wrap=True)


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


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not -inf < value < inf else value
