"""The section on plans and costs: the frontier with the chosen model, and streams against a larger N."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from scalelab.cost.compare import Average, price_runs
from scalelab.cost.equal_loss import measured_runs
from scalelab.errors import ScalelabError
from scalelab.page.contents import Study, rounded
from scalelab.page.document import Section
from scalelab.page.fits import group_part
from scalelab.plan import Plan
from scalelab.plan.comparison import CostComparison
from scalelab.plan.frontier import frontier
from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.comparison import comparison_report
from scalelab.reports.plan_units import limits, setting
from scalelab.reports.plans import plan_report
from scalelab.visible import visible

_MOST_PRICED = 120  # runs of the cost figure


def plan_section(studies: Sequence[Study]) -> Section:
    """Return the section: a part for each group, of which the page shows one."""
    return Section("plan", "Plan and compare", "".join(_part(i, study) for i, study in enumerate(studies)))


def plan_data(plan: Plan) -> dict[str, Any]:
    """Return curves, options and limits of the frontier's charts. Memory is in bytes, latency in seconds."""
    winner = plan.winner
    bounds = {name: plan.problem.bounds.get(name) for name in ("memory", "latency")}
    return {
        "curves": [
            {
                "P": curve.P,
                "memory": rounded(curve.memory),
                "latency": rounded(curve.latency),
                "loss": rounded(curve.loss),
                "low": rounded(curve.low),
                "high": rounded(curve.high),
                "within": [bool(w) for w in curve.within],
            }
            for curve in frontier(plan)
        ],
        "options": [
            {
                "P": option.P,
                "N": option.N.value,
                "memory": option.costs["memory"].value,
                "latency": option.costs["latency"].value,
                "loss": option.loss.value,
                "best": winner is not None and option.P == winner.P,
            }
            for option in plan.options
        ],
        "limits": bounds,
        "binary": plan.binary,
        "measuredP": max(plan.problem.fit.P_levels),
    }


def cost_data(costs: CostComparison) -> dict[str, Any]:
    """Return, for each batch size, the costs of the measured runs and the steps from the plain model."""
    question = costs.question
    found: dict[str, Any] = {"batches": list(question.batches), "runs": {}, "steps": {}}
    group = next(iter(costs.groups.values()), None)
    runs = [] if group is None else measured_runs(_of_one_D(group.records, question.D), question.vocab)
    if len(runs) <= _MOST_PRICED:
        priced = price_runs(question.price, runs, question.batches, question.lengths)
        found["runs"] = {
            str(batch): [{"P": run.P, "N": run.n_params, "loss": run.loss, **_costs(cost)} for run, cost in rows]
            for batch, rows in priced.items()
        }
    for batch in question.batches:
        found["steps"][str(batch)] = [
            {
                "P": answer.streams.P,
                "hidden": float(answer.streams.hidden_size),
                "from": answer.base_loss,
                "loss": answer.loss,
                "base": _costs(row.base),
                "streams": _costs(row.streams),
                "plain": None if row.plain is None else _costs(row.plain),
            }
            for answer in costs
            for row in answer.rows
            if row.batch == batch and answer.base_loss is not None
        ]
    return found


def _of_one_D(records: pd.DataFrame, D: float | None) -> pd.DataFrame:
    """Return the runs of the most tokens, or of D: losses of several D are not one curve."""
    tokens = records["n_tokens"].to_numpy(float)
    if np.isnan(tokens).any() or len(np.unique(tokens)) < 2:
        return records
    return records[tokens == (tokens.max() if D is None else D)]


def _costs(average: Average) -> dict[str, float]:
    return {"memory": average.memory_bytes, "latency": average.latency_s}


def _part(number: int, study: Study) -> str:
    title = f"<h3>{escape(visible(study.title))}</h3>"
    return group_part(number, f"{title}{_plan(study.plan, study.limits)}{_compare(study.costs)}")


def _plan(plan: Plan | ScalelabError | None, origin: str) -> str:
    if plan is None:
        return '<p class="muted">No plan was made.</p>'
    if isinstance(plan, ScalelabError):
        return f'<p class="notice">No plan: {escape(visible(str(plan)))}</p>'
    if not plan.options:
        return f'<div class="panel">{plan_report(plan).html()}</div>'
    blocks = plan_report(plan).blocks
    tables = [block for block in blocks if isinstance(block, Table)]
    lines = [block for block in blocks if isinstance(block, Line) and block.kind in ("text", "strong")]
    notes = [block for block in blocks if isinstance(block, Line) and block.is_aside]
    legend = [block for block in blocks if isinstance(block, Line) and block.kind == "dim"]
    best = Table("The best model for each P", tables[0].headings, rows=tables[0].rows)
    heading = escape(visible(f"{setting(plan)}, within {limits(plan)}. {origin}")).replace("\n", " ")
    note = (
        "Curves are strong within all limits and faint beyond one. The star is the best model, a dot the best of each "
        "P; the band is the 95 % interval of the best."
    )
    more = Report(tuple(tables[1:])).html()
    return (
        f'<figure class="panel"><h3>Loss over memory and latency</h3><p class="muted small">{heading}</p>'
        '<div class="legend" data-legend="plan"></div>'
        '<div class="pair"><div class="chart small-chart" data-chart="plan-memory"></div>'
        f'<div class="chart small-chart" data-chart="plan-latency"></div></div><figcaption>{note}</figcaption></figure>'
        f'<div class="panel">{Report((*lines,)).html()}{Report((best, *legend, *notes)).html()}'
        f"<details><summary>Serving, and the plain model of equal loss</summary>{more}</details></div>"
    )


def _compare(costs: CostComparison | ScalelabError | None) -> str:
    if costs is None:
        return ""
    if isinstance(costs, ScalelabError):
        return f'<p class="notice">Streams were not compared with a larger N: {escape(visible(str(costs)))}</p>'
    report = comparison_report(costs)
    tables = Report(tuple(block for block in report.blocks if isinstance(block, Table) or block.kind == "dim"))
    sentences = Report(tuple(b for b in report.blocks if isinstance(b, Line) and b.kind != "dim"))
    return (
        '<figure class="panel"><h3>Streams against a larger N</h3>'
        '<div class="controls" data-controls="cost"></div><div class="legend" data-legend="cost"></div>'
        '<div class="pair"><div class="chart small-chart" data-chart="cost-memory"></div>'
        '<div class="chart small-chart" data-chart="cost-latency"></div></div>'
        "<figcaption>Lines join the measured runs of one P. Arrows begin at a plain model: one adds streams to it, the "
        "grey one grows N to the same loss. The arrow that goes less far to the right is the cheaper way.</figcaption>"
        "</figure>"
        f'<div class="panel">{sentences.html()}<details><summary>Increases and ratios for each batch size</summary>'
        f"{tables.html()}</details></div>"
    )
