"""Costs, intervals and shares of a plan as text."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf
from typing import Any

from scalelab.fit.derived import Estimate
from scalelab.plan.answer import Plan
from scalelab.plan.problem import Candidate
from scalelab.units import format_bytes, format_count, format_duration, format_number, plain_number


@dataclass(frozen=True)
class Wording:
    """What the costs are priced by, and whether memory is read in GiB or in GB."""

    priced_by: str
    binary: bool
    trainer: str = "this device"
    server: str = "this device"

    @property
    def columns(self) -> tuple[str, str]:
        """Headings of memory and latency."""
        return ("memory, GiB" if self.binary else "memory, GB"), "latency, ms"

    def cells(self, candidate: Candidate) -> list[str]:
        """Memory and latency in the units of `columns`."""
        return [
            plain_number(candidate.memory / (2.0**30 if self.binary else 1e9)),
            plain_number(candidate.latency * 1e3),
        ]

    def metric(self, name: str, value: float) -> str:
        """A cost with its unit."""
        if isinf(value):
            return "∞"
        if name == "memory":
            return format_bytes(value, self.binary)
        return f"{format_number(value, 3)} FLOPs" if name == "training" else format_duration(value)

    def limits(self, plan: Plan) -> str:
        """The limits, as ``4 GB and 500 ms``."""
        words = [self.metric(name, bound) for name, bound in plan.problem.bounds.items() if name != "memory"]
        memory = self.metric("memory", plan.problem.bounds["memory"])
        words.insert(0, f"the device's {memory}" if plan.problem.device_binds else memory)
        return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)

    def setting(self, plan: Plan) -> str:
        """What is served, and by which law and prices."""
        fit, work, D = plan.problem.fit, plan.problem.workload, plan.problem.D
        at = f" at D {format_count(D)}" if D is not None and "D" in fit.law.variables else ""
        return (
            f"{fit.group}, {fit.law.name} law{at}; {work.tokens_in} tokens in and {work.tokens_out} out at batch "
            f"{work.batch}\n({self.priced_by})"
        )


def interval(estimate: Estimate, form: Any) -> str:
    """The interval, open where it is infinite; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if isinf(estimate.high):
        return "open" if isinf(estimate.low) else f"above {form(estimate.low)}"
    return f"{form(estimate.low)}{' to ' if estimate.low < 0 else '–'}{form(estimate.high)}"


def percent(share: float, certain: bool = False) -> str:
    """A share of draws that is never rounded to all or nothing; all is said of what is `certain` only."""
    rounded = f"{100 * share:.0f} %"
    if rounded == "0 %" and share > 0:
        return "<1 %"
    return ">99 %" if rounded == "100 %" and not certain else rounded
