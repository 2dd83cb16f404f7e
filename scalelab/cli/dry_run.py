"""The table of ``scalelab sweep --dry-run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalelab.cli.console import make_table, print_table
from scalelab.units import format_count, format_number, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

    from scalelab.sweep.dry_run import Plan, PlannedRun

_MIB, _GIB = 2**20, 2**30


def print_plan(console: Console, plan: Plan) -> None:
    """Each run of a sweep with its size and cost, and below what is left to do in all."""
    experts = any(run.config.architecture.num_experts for run in plan.runs)
    varied = plan.varied
    sizes = ["N", "backbone", "with embeddings", *(["active"] if experts else [])]
    table = make_table(
        *sizes,
        "P",
        "D",
        "seed",
        *(name.replace("_", " ") for name in varied),
        "FLOPs",
        "memory",
        "time here",
        "<record",
    )
    for i, run in enumerate(plan.runs):
        shape, config = run.config.architecture, run.config
        counts = [shape.n_params, shape.backbone_params, shape.total_params]
        table.add_row(
            *(format_count(n) for n in (*counts, *([shape.active_params] if experts else []))),
            str(shape.P),
            format_count(config.n_tokens),
            str(config.seed),
            *(_text(values[i]) for values in varied.values()),
            format_number(run.train_flops, 3),
            format_memory(run.memory_bytes),
            ("" if run.timed else "~") + format_seconds(run.train_s + run.validation_s),
            _record(run),
        )
    print_table(console, "runs of this sweep, none started", table)
    for line in summary(plan):
        console.print(line, soft_wrap=True)


def summary(plan: Plan) -> list[str]:
    """The sums over what is left, in sentences."""
    left, total = len(plan.left), len(plan.runs)
    if not left:
        return [f"nothing to do: all {total} runs are recorded already"]
    at_once = f"{plan.workers} at once on {plan.device.split(':')[0]}"
    lines = [
        f"{left} of {total} runs to train: {format_number(plan.train_flops, 3)} FLOPs, "
        f"{format_seconds(plan.compute_s)} of computing, about {format_seconds(plan.wall_s)} with {at_once}, "
        f"the largest run in {format_memory(plan.memory_bytes)}"
    ]
    if plan.shared_s >= 0.5:
        lines.append(f"what several runs begin with is trained once, which spares {format_seconds(plan.shared_s)}")
    if any(not run.timed for run in plan.runs):
        lines.append("~ extrapolated by FLOPs from the largest steps that were timed here")
    return lines


def format_memory(n_bytes: int) -> str:
    """Bytes as MiB, from 1 GiB on as GiB."""
    return f"{n_bytes / _MIB:.0f} MiB" if n_bytes < _GIB else f"{n_bytes / _GIB:.3g} GiB"


def _record(run: PlannedRun) -> str:
    if run.status is None:
        return "to do"
    return f"{run.status}, to do" if run.to_do else run.status


def _text(value: object) -> str:
    if isinstance(value, int):
        return format_count(value) if value >= 10_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
