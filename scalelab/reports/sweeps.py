"""Reports of sweeps: their planned cost and their losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.evaluations import accuracy_headings
from scalelab.units import all_of, format_count, format_number, format_seconds, plural

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.api.sweeps import SweepPlan, SweepResult
    from scalelab.sweep.dry_run import PlannedRun, SweepEstimate

_MIB, _GIB = 2**20, 2**30


def sweep_plan_report(found: SweepPlan) -> Report:
    """Return size and cost of each run, the totals of runs to train, and warnings."""
    plan = found.plan
    lines = [Line(line) for line in summary(plan)]
    return Report.of([_plan_table(plan), *lines, *(Line(text, "warning") for text in found.warnings)])


def _plan_table(plan: SweepEstimate) -> Table:
    experts = any(run.config.architecture.num_experts for run in plan.runs)
    varied = plan.varied
    sizes = ["N", "backbone", "with embeddings", *(["active"] if experts else [])]
    others = [name.replace("_", " ") for name in varied]
    headings = [*sizes, "P", "D", "seed", *others, "FLOPs", "memory", "time here", "<record"]
    table = Table("planned runs", headings, keys=1)
    for i, run in enumerate(plan.runs):
        shape, config = run.config.architecture, run.config
        counts = [shape.n_params, shape.backbone_params, shape.total_params]
        table.add(
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
    return table


def summary(plan: SweepEstimate) -> list[str]:
    """Return sentences on the total cost of the runs to train."""
    left, total = len(plan.left), len(plan.runs)
    if not left:
        return [f"nothing to do: {all_of(total, 'run is', 'runs are')} already recorded"]
    at_once = f"{plural(plan.workers, 'worker')} on {plan.device.split(':')[0]}"
    lines = [
        f"{left} of {plural(total, 'run')} to train: {format_number(plan.train_flops, 3)} FLOPs, "
        f"{format_seconds(plan.compute_s)} of compute, about {format_seconds(plan.wall_s)} with {at_once}; "
        f"largest run {format_memory(plan.memory_bytes)}"
    ]
    if plan.shared_s >= 0.5:
        lines.append(f"phases that several runs share are trained once, which saves {format_seconds(plan.shared_s)}")
    if any(not run.timed for run in plan.runs):
        lines.append("~ extrapolated by FLOPs from the largest steps timed here")
    return lines


def format_memory(n_bytes: int) -> str:
    """Return bytes as text in MiB, from 1 GiB on in GiB."""
    return f"{n_bytes / _MIB:.0f} MiB" if n_bytes < _GIB else f"{n_bytes / _GIB:.3g} GiB"


def _record(run: PlannedRun) -> str:
    if run.status is None:
        return "to do"
    return f"{run.status}, to do" if run.to_do else run.status


def _text(value: object) -> str:
    if isinstance(value, int):
        return format_count(value) if value >= 10_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def sweep_plan_json(found: SweepPlan) -> dict[str, Any]:
    """Return every run and the totals of runs to train, unrounded."""
    plan = found.plan
    runs = []
    for run in plan.runs:
        config, shape = run.config, run.config.architecture
        sizes = {"n_params": shape.n_params, "n_params_backbone": shape.backbone_params, "P": shape.P}
        about = {"key": config.key, **sizes, "n_tokens": config.n_tokens, "seed": config.seed, "status": run.status}
        cost = {"train_flops": run.train_flops, "memory_bytes": run.memory_bytes, "train_s": run.train_s}
        runs.append(about | cost | {"validation_s": run.validation_s, "timed": run.timed, "to_do": run.to_do})
    sums = {name: getattr(plan, name) for name in ("device", "workers", "train_flops", "compute_s", "wall_s")}
    return {**sums, "memory_bytes": plan.memory_bytes, "warnings": list(found.warnings), "runs": runs}


def sweep_report(found: SweepResult) -> Report:
    """Return mean losses by size and streams, a table for each D or budget, and a note on their uncertainty."""
    records = found.records
    blocks: list[Table | Line] = [Line(f"{plural(len(records), 'run')} recorded in {found.out}")]
    for same, of in _alike(found):
        blocks.append(_means(same, "loss", f"validation loss, nats per token, {of}"))
        headings = accuracy_headings(same)
        blocks += [
            _means(same, name, f"accuracy, {task}, {of}") for name, task in headings.items() if same[name].notna().any()
        ]
    blocks += _base_losses(records)
    blocks += _stream_warnings(records)
    several = records["seed"].nunique() > 1
    advice = "compare the seeds." if several else "add seeds to measure it, such as `seeds=0 1 2`."
    blocks.append(
        Line(
            f"Standard error over validation files: {records['loss_stderr'].mean():.3f}, common to all runs.\n"
            "Differences between runs also include the noise of the seed: " + advice
        )
    )
    return Report.of([*blocks, *_models(found)])


def _alike(found: SweepResult) -> Iterator[tuple[pd.DataFrame, str]]:
    """Yield the records of one D, or of one training budget, and its name."""
    import numpy as np

    from scalelab.analysis.runs import used_params

    records = found.records
    if not found.budgets:
        for D, same in records.groupby("n_tokens"):
            yield same, f"D {format_count(float(str(D)))}"
        return
    flops = 6.0 * used_params(records, records["n_params_backbone"].to_numpy(dtype=float))
    flops *= records["n_tokens"].to_numpy(dtype=float) * records["n_streams"].to_numpy(dtype=float)
    budgets = np.array(found.budgets)
    nearest = np.abs(np.log(flops[:, None] / budgets)).argmin(1)
    for i, budget in enumerate(budgets):
        if (nearest == i).any():
            yield records[nearest == i], f"{format_number(budget, 3)} FLOPs"


def _base_losses(records: pd.DataFrame) -> list[Line]:
    """Return the loss of a frozen backbone alone."""
    if not records["base_loss"].notna().any():
        return []
    return [Line(f"Loss of the frozen backbone alone: {records['base_loss'].mean():.4f} nats per token.")]


def _means(same: pd.DataFrame, column: str, name: str) -> Table:
    """Return the means of a column over seeds, by size and streams."""
    import numpy as np

    seeds = same["seed"].nunique()
    title = name
    title += f", mean of {plural(seeds, 'seed')}" if seeds > 1 else ""
    table = Table(title, ["N of backbone", *(f"P = {P}" for P in sorted(same["n_streams"].unique()))])
    means = same.pivot_table(column, "n_params_backbone", "n_streams", aggfunc="mean")
    for size, values in zip(means.index.tolist(), means.to_numpy(), strict=True):
        table.add(format_count(size), *("" if np.isnan(v) else f"{v:.4f}" for v in values))
    return table


def _stream_warnings(records: pd.DataFrame) -> Iterator[Line]:
    """Yield the number of runs with each warning about their streams."""
    named = records["stream_warnings"].dropna().explode().dropna()
    for name, count in named.value_counts().items():
        many = plural(int((records["n_streams"] > 1).sum()), "run")
        text = f"{count} of {many} with streams: {name} (see stream_correlation and mixture_weights in the records"
        yield Line(f"{text}, or diagnose a saved model)", "warning")


def _models(found: SweepResult) -> Iterator[Line]:
    for key, folder in found.models.items():
        run = found.records[found.records["key"] == key].iloc[0]
        sizes = f"N {format_count(run['n_params_backbone'])}  P {run['n_streams']}  D {format_count(run['n_tokens'])}"
        yield Line(f"{sizes}  seed {run['seed']}: {folder}")


def sweep_json(found: SweepResult) -> list[dict[str, Any]]:
    """Return a mapping for each run, unrounded."""
    import json

    return json.loads(found.runs().to_json())
