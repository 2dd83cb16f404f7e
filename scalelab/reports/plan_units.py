"""Formatting of costs, intervals and probabilities of plans."""

from __future__ import annotations

from collections.abc import Callable
from math import isinf

from scalelab.fit.derived import Estimate
from scalelab.plan.answer import Plan
from scalelab.plan.problem import Candidate
from scalelab.units import (
    format_bytes,
    format_count,
    format_duration,
    format_interval,
    format_number,
    plain_number,
)


def cost_headings(plan: Plan) -> tuple[str, str]:
    """Return the headings of memory and latency."""
    return ("memory, GiB" if plan.binary else "memory, GB"), "latency, ms"


def cost_cells(plan: Plan, candidate: Candidate) -> list[str]:
    """Return memory and latency in the units of `cost_headings`."""
    memory = candidate.memory / (2.0**30 if plan.binary else 1e9)
    return [plain_number(memory), plain_number(candidate.latency * 1e3)]


def metric(plan: Plan, name: str, value: float) -> str:
    """Return a cost with its unit."""
    if isinf(value):
        return "∞"
    if name == "memory":
        return format_bytes(value, plan.binary)
    return f"{format_number(value, 3)} FLOPs" if name == "training" else format_duration(value)


def limits(plan: Plan) -> str:
    """Return the limits as text: ``4 GB and 500 ms``."""
    words = [metric(plan, name, bound) for name, bound in plan.problem.bounds.items() if name != "memory"]
    memory = metric(plan, "memory", plan.problem.bounds["memory"])
    words.insert(0, f"the device's {memory}" if plan.problem.device_binds else memory)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def setting(plan: Plan) -> str:
    """Return the law, the request and the cost model as text."""
    fit, work, D = plan.problem.fit, plan.problem.workload, plan.problem.D
    at = f" at D {format_count(D)}" if D is not None and "D" in fit.law.variables else ""
    prices = f"\n({plan.priced_by})" if plan.priced_by else ""
    return f"{fit.title}{at}; {work.tokens_in} tokens in and {work.tokens_out} out at batch {work.batch}{prices}"


def interval(estimate: Estimate, form: Callable[[float], str]) -> str:
    """Return the interval as text, empty if there is none."""
    return "" if estimate.low is None or estimate.high is None else format_interval(estimate.low, estimate.high, form)


def percent(share: float, certain: bool = False) -> str:
    """Return a share as a percentage, never rounded to 0 % or, unless `certain`, to 100 %."""
    rounded = f"{100 * share:.0f} %"
    if rounded == "0 %" and share > 0:
        return "<1 %"
    return ">99 %" if rounded == "100 %" and not certain else rounded
