"""Run a sweep: resolve the spec, train what is missing, return the records."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from rich.console import Console

from scalelab.errors import ScalelabError, UsageError
from scalelab.records import load
from scalelab.records.files import CHECKPOINTS
from scalelab.records.schema import describe_statuses
from scalelab.records.store import record_path
from scalelab.status import RunStatus
from scalelab.sweep.progress import Progress, Several, announce, make_progress
from scalelab.sweep.resolve import ResolvedSweep, has_model, missing, resolve, statuses
from scalelab.sweep.spec import SweepSpec
from scalelab.sweep.state import StateFile, read_states
from scalelab.sweep.stopping import interrupted, terminable
from scalelab.sweep.tasks import Event, Job, Task, make_tasks
from scalelab.sweep.workers import run_all, start_importing
from scalelab.train.checkpoint import keep_latest
from scalelab.train.cost import resident_bytes
from scalelab.train.device import measured_peak_flops
from scalelab.train.numerics import Numerics
from scalelab.train.places import default_places, fitting, gpu_at, resolve_dtype
from scalelab.train.recipe import RunConfig
from scalelab.train.source import source_digest
from scalelab.units import plural

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Execution:
    """Where and how runs are trained, whatever their losses.

    `device` is auto, cpu or cuda; `workers` runs train at once, by default one a core or `per_gpu` a GPU
    (0: as many as fit). With `save_models` each trained model stays in ``out/models/KEY``; runs longer than
    `save_every_s` seconds keep a checkpoint to resume from. `retry` trains diverged runs again. With `micro_batch` so
    many sequences are computed at once, else as many as fit; `numerics` says how exactly. Up to `together` runs that
    differ in seed or learning rate alone are trained as one, without checkpoints. The executor ``ray`` trains on the
    cluster at `address`, or on a new one on this machine.
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
        if self.executor not in EXECUTORS:
            raise UsageError(f"choose one of {', '.join(EXECUTORS)}", argument="executor", value=self.executor)
        if self.address is not None and self.executor != "ray":
            raise UsageError("`address`: belongs to `executor='ray'`")
        if self.tensorboard and find_spec("tensorboard") is None:
            raise UsageError("`tensorboard` needs the package tensorboard: pip install 'scalelab[tensorboard]'")


def run_sweep(
    spec: SweepSpec, out: Path, execution: Execution = Execution(), console: Console | None = None
) -> pd.DataFrame:
    """Train the runs of `spec` that have no record below `out`; return the records of all that are ok.

    Progress goes to `console` (default: nowhere). Raises `ScalelabError` if runs failed, and
    `InterruptedSweepError` on Ctrl-C and SIGTERM; the records of finished runs stay either way. A diverged run is a
    result, and no failure.

    Workers are processes: in a script, call it below ``if __name__ == "__main__":``.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UsageError("a sweep has workers of its own: start it without accelerate launch or torchrun")
    if execution.executor == "local":
        return _run_sweep(spec, out, execution, console or Console(quiet=True))
    from scalelab.sweep import ray_executor

    # Before the text is read: an address where nobody answers is told at once.
    with ray_executor.connected(execution.address, execution.workers):
        places = ray_executor.cluster_places(execution.address, execution.device, execution.workers, execution.per_gpu)
        return _run_sweep(spec, out, execution, console or Console(quiet=True), places)


def _run_sweep(
    spec: SweepSpec, out: Path, execution: Execution, console: Console, places: list[str] | None = None
) -> pd.DataFrame:
    out.mkdir(parents=True, exist_ok=True)
    probe = out / ".writable"  # better now than after the first training
    probe.touch()
    probe.unlink(missing_ok=True)
    resolved, left, places, _ = prepare(spec, out, execution, console, places)
    if left and execution.executor == "local":
        start_importing()
    announce(console, resolved, left, places, out)
    failures: list[Event] = []
    if left:
        tasks = make_tasks(left, execution.together)
        job = Job(
            data=resolved.data,
            out=out,
            compile_model=execution.compile_model,
            save_models=execution.save_models,
            save_every_s=execution.save_every_s,
            tensorboard=execution.tensorboard,
            # A node of a cluster measures its own.
            peak_flops=_peak_flops(places[0], left[0].recipe.dtype) if execution.executor == "local" else None,
            code=source_digest(),
            retry=execution.retry,
            numerics=execution.numerics,
            micro_batch=execution.micro_batch,
        )
        with terminable():
            try:
                state = StateFile(out, tasks, spec.name, places[0].split(":")[0], execution.executor)
                with Several(make_progress(tasks, console), state) as progress:
                    failures = _train(tasks, job, places, execution, progress)
            except KeyboardInterrupt as stop:
                kept = sum(status == RunStatus.OK for status in statuses(resolved.runs, out).values())
                recorded = f"{kept} of {plural(len(resolved.runs), 'run')} recorded below {out}"
                raise interrupted(stop, f": {recorded}; the same command goes on from there") from None
    records = _records(resolved, out, failures, execution.save_models)
    if diverged := len(resolved.runs) - len(records):
        console.print(
            f"warning: {diverged} of {plural(len(resolved.runs), 'run')} diverged, without a loss "
            f"(scalelab results {out}); a lower lr may keep them",
            style="yellow",
            soft_wrap=True,
        )
    if not any(state.is_running for state in read_states(out)[0]):  # others may wait for what would go
        _tidy(out / CHECKPOINTS, set(records["key"]))
    return records


def prepare(
    spec: SweepSpec, out: Path, execution: Execution, console: Console, places: list[str] | None = None
) -> tuple[ResolvedSweep, list[RunConfig], list[str], dict[str, str]]:
    """The resolved sweep, its runs that are to be trained, a place for each that trains at once, and all `statuses`.

    Without `places` these are of this machine.
    """
    here = default_places(execution.device, console.print) if places is None else places
    console.print(f"reading {spec.corpus} …")
    resolved = resolve(_with_dtype(spec, here[0]))
    known = statuses(resolved.runs, out)
    left = missing(resolved.runs, known, execution.retry)
    if execution.save_models:  # a record alone is not all that was asked for
        kept = {c.key for c in resolved.runs if has_model(out, c.key)}
        left += [c for c in resolved.runs if c not in left and c.key not in kept and known[c.key] == RunStatus.OK]
    if places is None and execution.workers is not None:
        here = (here * execution.workers)[: execution.workers]
    elif places is None and here[0] != "cpu":
        here *= execution.per_gpu or fitting(here, [resident_bytes(config, here[0]) for config in left])
    return resolved, left, here, known


def _peak_flops(place: str, dtype: str) -> float | None:
    """Return the peak of a place; for a GPU the probe's, since this process leaves its workers' devices alone."""
    gpu = gpu_at(place)
    return measured_peak_flops(place, dtype) if gpu is None else gpu.peak_flops.get(dtype)


def _train(tasks: list[Task], job: Job, places: list[str], execution: Execution, progress: Progress) -> list[Event]:
    if execution.executor == "local":
        return run_all(tasks, job, places, progress)
    from scalelab.sweep import ray_executor

    return ray_executor.run_all(
        tasks, job, progress, execution.address, execution.device, execution.workers, execution.per_gpu
    )


def _tidy(checkpoints: Path, finished: set[str]) -> None:
    """Of each shared trajectory keep the latest state, from which a longer D can go on, and of `finished` runs none.

    Their own process removes theirs, unless it is killed right after it wrote the record. A shorter D that another,
    unfinished grid wants trains its beginning again: that costs time alone, and is rarer than what kills leave here.
    """
    for folder in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if folder.name in finished:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            keep_latest(folder)


def _records(resolved: ResolvedSweep, out: Path, failures: list[Event], models: bool) -> pd.DataFrame:
    """The records of the runs that are ok. Raises `ScalelabError` if any failed here, or none is ok.

    A run that failed here and ended well in another sweep is no failure, unless its model was to be kept.
    """
    found = statuses(resolved.runs, out)
    others = Counter(status for status in found.values() if status != RunStatus.OK)
    failed = [event for event in failures if event.values["status"] != RunStatus.DIVERGED and not event.task.shared]
    lost = [event for event in failed if models or found.get(event.task.config.key) != RunStatus.OK]
    if lost or (len(others) and RunStatus.OK not in found.values()):
        first = (lost or failures)[0].values["message"] if failures else "see scalelab results"
        unrecorded = sum(event.task.config.key not in found for event in lost)
        kinds = [describe_statuses(others), f"{unrecorded} not recorded" if unrecorded else ""]
        raise ScalelabError(
            f"{len(lost) or others.total()} of {plural(len(resolved.runs), 'run')} ended without a loss "
            f"({', '.join(filter(None, kinds))}), the first: {first}"
        )
    files = [record_path(out, config.key) for config in resolved.runs if found.get(config.key) == RunStatus.OK]
    return pd.concat([load(file) for file in files], ignore_index=True)


def _with_dtype(spec: SweepSpec, place: str) -> SweepSpec:
    """`spec` with the precision that ``auto`` means at `place`."""
    return replace(spec, recipe=replace(spec.recipe, dtype=resolve_dtype(spec.recipe.dtype, place)))
