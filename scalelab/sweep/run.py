"""Run a sweep: resolve the spec, train what is missing, return the records."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from scalelab.errors import ScalelabError, UsageError
from scalelab.records import load
from scalelab.records.files import CHECKPOINTS
from scalelab.records.schema import describe_statuses
from scalelab.records.store import record_path
from scalelab.status import RunStatus
from scalelab.sweep.executors import check_executor
from scalelab.sweep.limits import check_memory, limit_warnings
from scalelab.sweep.progress import EventFanOut, Progress, announce, make_progress
from scalelab.sweep.resolve import ResolvedSweep, has_model, recorded_statuses, resolve, runs_to_train
from scalelab.sweep.spec import SweepSpec
from scalelab.sweep.state import StateFile, read_states
from scalelab.sweep.stopping import interruption_error, sigterm_as_interrupt
from scalelab.sweep.tasks import Event, Job, Task, make_tasks
from scalelab.sweep.workers import run_all, start_importing
from scalelab.train.checkpoint import keep_latest
from scalelab.train.cost import resident_bytes
from scalelab.train.device import measured_peak_flops
from scalelab.train.devices import default_slots, fitting_runs, probed_gpu, resolve_dtype
from scalelab.train.numerics import Numerics
from scalelab.train.recipe import RunConfig
from scalelab.train.source import source_digest
from scalelab.units import plural


@dataclass(frozen=True)
class Execution:
    """Settings of where and how runs are trained; none of them changes losses.

    Attributes:
        device: auto, cpu or cuda.
        workers: Runs at once; by default one per core or `per_gpu` per GPU.
        per_gpu: Runs per GPU; 0: as many as fit.
        compile_model: Compile the decoder layers.
        save_models: Keep each trained model in ``out/models/KEY``.
        save_every_s: Seconds of training between checkpoints.
        tensorboard: Write logs for TensorBoard.
        retry: Train diverged runs again.
        executor: "local", or "ray" to train on a Ray cluster.
        address: Address of an existing Ray cluster; by default a new one is started on this machine.
        numerics: Determinism and precision.
        micro_batch: Sequences per forward pass; 0: as many as fit.
        together: Up to this many runs that differ only in seed or learning rate are trained as one, without
            checkpoints.
    """

    device: str = "auto"
    workers: int | None = None
    per_gpu: int = 1
    compile_model: bool = False
    save_models: bool = False
    save_every_s: float = 300.0
    tensorboard: bool = False
    retry: bool = False
    executor: str = "local"
    address: str | None = None
    numerics: Numerics = field(default_factory=Numerics)
    micro_batch: int = 0
    together: int = 1

    def __post_init__(self) -> None:
        check_executor(self.executor, self.address, self.tensorboard)


def run_sweep(
    spec: SweepSpec, out: Path, execution: Execution = Execution(), console: Console | None = None
) -> pd.DataFrame:
    """Train the runs of `spec` that have no record below `out`; return the records of all runs with status ok.

    Workers are processes: in a script, call it below ``if __name__ == "__main__":``.

    Args:
        spec: The grid of runs.
        out: Folder of results.
        execution: Where and how to train.
        console: Where to print progress; by default nowhere.

    Raises:
        ScalelabError: runs failed. A diverged run is a result, not a failure.
        InterruptedSweepError: Ctrl-C or SIGTERM arrived. Records of finished runs stay, as after a failure.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UsageError("a sweep starts its own workers; run it without accelerate launch or torchrun")
    if spec.backbone and execution.executor == "ray":
        raise UsageError("ray does not copy a backbone to other machines; use `executor='local'`", argument="executor")
    if execution.executor == "local":
        return _run_sweep(spec, out, execution, console or Console(quiet=True))
    from scalelab.sweep import ray_cluster

    # Before reading the text, so that a wrong address fails at once.
    with ray_cluster.connected(execution.address, execution.workers):
        slots = ray_cluster.cluster_slots(execution.address, execution.device, execution.workers, execution.per_gpu)
        return _run_sweep(spec, out, execution, console or Console(quiet=True), slots)


def _run_sweep(
    spec: SweepSpec, out: Path, execution: Execution, console: Console, slots: list[str] | None = None
) -> pd.DataFrame:
    out.mkdir(parents=True, exist_ok=True)
    check = out / ".writable"  # fails now, not after the first run
    check.touch()
    check.unlink(missing_ok=True)
    resolved, to_train, slots, _ = prepare(spec, out, execution, console, slots)
    if to_train and execution.executor == "local":
        start_importing()
    if execution.executor == "local":  # the memory of a cluster's nodes is unknown here
        check_memory(to_train, slots[0])
    announce(console, resolved, to_train, slots, out)
    if execution.executor == "local":
        for warning in limit_warnings(to_train, slots[0], len(slots), resolved.data.train_tokens):
            console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    failures: list[Event] = []
    if to_train:
        tasks = make_tasks(to_train, execution.together)
        job = Job(
            data=resolved.data,
            out=out,
            compile_model=execution.compile_model,
            save_models=execution.save_models,
            save_every_s=execution.save_every_s,
            tensorboard=execution.tensorboard,
            # Nodes of a cluster measure their own.
            peak_flops=_peak_flops(slots[0], to_train[0].recipe.dtype) if execution.executor == "local" else None,
            code=source_digest(),
            retry=execution.retry,
            numerics=execution.numerics,
            micro_batch=execution.micro_batch,
            evaluation=resolved.evaluation,
        )
        with sigterm_as_interrupt():
            try:
                state = StateFile(out, tasks, spec.name, slots[0].split(":")[0], execution.executor)
                with EventFanOut(make_progress(tasks, console, out), state) as progress:
                    failures = _train(tasks, job, slots, execution, progress)
            except KeyboardInterrupt as stop:
                kept = sum(status == RunStatus.OK for status in recorded_statuses(resolved.runs, out).values())
                recorded = f"{kept} of {plural(len(resolved.runs), 'run')} recorded below {out}"
                raise interruption_error(stop, f": {recorded}; run the same command again to resume") from None
    has_more = execution.save_models or resolved.evaluation is not None
    records = _load_records(resolved, out, failures, has_more)
    if diverged := len(resolved.runs) - len(records):
        console.print(
            f"warning: {diverged} of {plural(len(resolved.runs), 'run')} diverged and have no loss "
            f"(scalelab results {out}); try a lower lr",
            style="yellow",
            soft_wrap=True,
        )
    if not any(state.is_running for state in read_states(out)[0]):  # others may start from these checkpoints
        _prune_checkpoints(out / CHECKPOINTS, set(records["key"]))
    return records


def prepare(
    spec: SweepSpec, out: Path, execution: Execution, console: Console, slots: list[str] | None = None
) -> tuple[ResolvedSweep, list[RunConfig], list[str], dict[str, str]]:
    """Resolve the sweep and find out what there is to train.

    Returns:
        The resolved sweep, the runs to train, one slot for each run that trains at once (`slots`, or by default those
        of this machine), and the status of each recorded run by key.
    """
    available = default_slots(execution.device, console.print) if slots is None else slots
    console.print(f"reading {spec.corpus} …")
    resolved = resolve(_with_dtype(spec, available[0]))
    if execution.save_models and max(spec.loops) > 1:
        reason = "transformers has no class for models with loops, so they cannot be saved; leave it out"
        raise UsageError(reason, argument="save_models")
    known = recorded_statuses(resolved.runs, out)
    to_train = runs_to_train(resolved.runs, known, execution.retry)
    if execution.save_models:
        kept = {c.key for c in resolved.runs if has_model(out, c.key)}
        to_train += [
            c for c in resolved.runs if c not in to_train and c.key not in kept and known[c.key] == RunStatus.OK
        ]
    if resolved.evaluation is not None:
        from scalelab.sweep.evaluations import needs_evaluation

        finished = [c for c in resolved.runs if c not in to_train and known.get(c.key) == RunStatus.OK]
        to_train += [c for c in finished if needs_evaluation(out, c.key, resolved.evaluation)]
    if slots is None and execution.workers is not None:
        available = (available * execution.workers)[: execution.workers]
    elif slots is None and available[0] != "cpu":
        run_bytes = [resident_bytes(config, available[0]) for config in to_train]
        available *= execution.per_gpu or fitting_runs(available, run_bytes)
    return resolved, to_train, available, known


def _peak_flops(device: str, dtype: str) -> float | None:
    """Return the peak speed of `device`; for a GPU that of the probe, since this process must not use CUDA."""
    gpu = probed_gpu(device)
    return measured_peak_flops(device, dtype) if gpu is None else gpu.peak_flops.get(dtype)


def _train(tasks: list[Task], job: Job, slots: list[str], execution: Execution, progress: Progress) -> list[Event]:
    if execution.executor == "local":
        return run_all(tasks, job, slots, progress)
    from scalelab.sweep import ray_executor

    return ray_executor.run_all(
        tasks, job, progress, execution.address, execution.device, execution.workers, execution.per_gpu
    )


def _prune_checkpoints(checkpoints: Path, finished: set[str]) -> None:
    """Keep only the latest checkpoint of each shared phase, and none of the `finished` runs.

    A run with a longer D can start from the latest one. A run with a shorter D in another, unfinished grid trains that
    phase again, which costs only time. Finished runs remove their own checkpoints, unless they are killed right after
    writing the record.
    """
    for folder in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if folder.name in finished:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            keep_latest(folder)


def _load_records(resolved: ResolvedSweep, out: Path, failures: list[Event], has_more: bool) -> pd.DataFrame:
    """Return the records of the runs with status ok.

    A run that failed here but succeeded in another sweep is not a failure, unless its model was to be saved or
    evaluated (`has_more`).

    Raises:
        ScalelabError: a run failed here, or none is ok.
    """
    found = recorded_statuses(resolved.runs, out)
    not_ok = Counter(status for status in found.values() if status != RunStatus.OK)
    failed = [event for event in failures if event.values["status"] != RunStatus.DIVERGED and not event.task.shared]
    unresolved = [event for event in failed if has_more or found.get(event.task.config.key) != RunStatus.OK]
    if unresolved or (len(not_ok) and RunStatus.OK not in found.values()):
        first = (unresolved or failures)[0].values["message"] if failures else f"see scalelab results {out}"
        unrecorded = sum(event.task.config.key not in found for event in unresolved)
        kinds = [describe_statuses(not_ok), f"{unrecorded} not recorded" if unrecorded else ""]
        raise ScalelabError(
            f"{len(unresolved) or not_ok.total()} of {plural(len(resolved.runs), 'run')} ended without a loss "
            f"({', '.join(filter(None, kinds))}), the first: {first}"
        )
    files = [record_path(out, config.key) for config in resolved.runs if found.get(config.key) == RunStatus.OK]
    return pd.concat([load(file) for file in files], ignore_index=True)


def _with_dtype(spec: SweepSpec, device: str) -> SweepSpec:
    """Return `spec` with its precision resolved for `device`."""
    return replace(spec, recipe=replace(spec.recipe, dtype=resolve_dtype(spec.recipe.dtype, device)))
