"""Run one task in this process: train, write the record, return how it ended."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scalelab.errors import ScalelabError, TrainingError, first_line
from scalelab.records.files import CHECKPOINTS, read_record
from scalelab.records.store import record_path, record_status
from scalelab.status import RunStatus
from scalelab.sweep.facts import recent_points
from scalelab.sweep.resolve import has_model
from scalelab.sweep.tasks import Job, Task
from scalelab.train.checkpoint import TrainState
from scalelab.train.memory import free_memory, is_out_of_memory
from scalelab.train.recipe import RunConfig
from scalelab.train.run import Score, record_failure, record_result, run_and_record, run_tokenizer
from scalelab.train.trainer import Options, train_phases

LOCKS = ".locks"  # below a folder of results: one lock file per task
_KILLED_S = 1.0  # a killed process keeps its lock until its memory is freed

Emit = Callable[[str, dict[str, Any]], None]  # kind and values of an `Event`


def run_task(task: Task, job: Job, device: str, emit: Emit) -> tuple[str, dict[str, Any]]:
    """Run `task` on `device` (cpu, cuda:0, …) and report progress through `emit`.

    A run that has a record already is not trained again. A lock, which ends with its process, keeps two processes from
    training the same run.

    Returns:
        Kind and values of the last event: "done" with the record, "failed" with status and message, which are
        recorded too, or "busy" if another process is training this run.
    """
    curve: list[tuple[int, int, float]] = []

    def progress(step: int, loss: float, tokens_per_s: float) -> None:
        recent = () if task.shared else recent_points(curve, task.config.steps)
        emit("progress", {"step": step, "loss": loss, "tokens_per_s": tokens_per_s, "curve": recent})

    try:
        with _locked(task, job.out):
            if not task.shared and (record := finished_record(task, job)) is not None:
                return ("done" if record["status"] in (RunStatus.OK, None) else "failed"), record
            with _observer(task, job) as log:

                def observer(state: TrainState) -> None:
                    nonlocal curve
                    curve = state.curve  # of the whole run, also after a resume
                    if log is not None:
                        log(state)

                options = Options(
                    device,
                    job.compile_model,
                    job.out / CHECKPOINTS,
                    job.save_every_s,
                    progress,
                    observer,
                    job.numerics,
                    job.micro_batch,
                )
                try:
                    return "done", _train(task, job, options)
                except Exception as error:  # every error becomes an event
                    status, message = _describe(error, task, job.out)
                    if not task.shared and status == RunStatus.FAILED:  # others are recorded already
                        try:
                            record_failure(task.config, job.out, status, message, device, job.code)
                        except Exception as second:  # reported by the event only
                            message += f"; writing the record failed too: {type(second).__name__}: {second}"
                    return "failed", {"status": status, "message": message}
    except Timeout:
        return "busy", {}
    except (ScalelabError, OSError) as error:  # a record cannot be read or written
        record_lost(task, job.out, RunStatus.FAILED, str(error), device)
        return "failed", {"status": RunStatus.FAILED, "message": str(error)}


def finished_record(task: Task, job: Job) -> dict[str, Any] | None:
    """Return the record of a run that needs no training, perhaps written by another sweep. Raises `DataError`."""
    path = record_path(job.out, task.config.key)
    status = record_status(path)
    if status == RunStatus.DIVERGED and not job.retry:
        return read_record(path)
    if status != RunStatus.OK:
        return None
    if job.save_models and not has_model(job.out, task.config.key):
        return None
    record = read_record(path)
    return None if job.evaluation is not None and job.evaluation.lacking(record) else record


def record_lost(task: Task, out: Path, status: str, message: str, device: str) -> None:
    """Record the end of a `task` whose process could not, unless another process is training it now."""
    if task.shared:
        return
    # A value that no record can hold or a full disk must not end the other runs.
    with contextlib.suppress(Exception), _locked(task, out, _KILLED_S):
        record_failure(task.config, out, status, message, device)


def _train(task: Task, job: Job, options: Options) -> dict[str, Any]:
    if task.members:
        _train_members(task, job, options)
        return {}
    if task.shared:
        train_phases(task.config, job.data, options)
        return {}
    if job.evaluation is not None and _is_saved(task, job):
        from scalelab.sweep.evaluations import evaluate_saved

        return evaluate_saved(task.config, job.data, job.out, job.evaluation, options.device)
    more = (job.save_models, job.peak_flops, job.code, _scorer(task.config, job))
    return run_and_record(task.config, job.data, job.out, options, *more)


def _is_saved(task: Task, job: Job) -> bool:
    """Return true for a finished run whose model is saved, so that only an evaluation is left to do."""
    return record_status(record_path(job.out, task.config.key)) == RunStatus.OK and has_model(job.out, task.config.key)


def _scorer(config: RunConfig, job: Job) -> Score | None:
    """Return the function that evaluates the trained model of a run, if its sweep has tasks."""
    evaluation = job.evaluation
    if evaluation is None:
        return None
    return lambda model: evaluation.columns(model, run_tokenizer(job.data), config.recipe.dtype == "bf16")


def _train_members(task: Task, job: Job, options: Options) -> None:
    """Train the members of `task` that have no record yet, and record them.

    Members without a record afterwards, for example if memory ran out, are trained by their own tasks.
    """
    from scalelab.train.ensemble import train_ensemble

    members = [
        c for c in task.members if finished_record(replace(task, config=c, members=(), shared=False), job) is None
    ]
    if len(members) < 2:
        return
    try:
        results = train_ensemble(members, job.data, options)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        free_memory()
        return
    for config, result in zip(members, results, strict=True):
        if isinstance(result, TrainingError):
            record_failure(
                config, job.out, result.status, str(result), options.device, job.code, result.state, job.peak_flops
            )
        else:
            more = (job.save_models, job.peak_flops, job.code, _scorer(config, job))
            record_result(config, job.data, job.out, result, options, *more)


def _describe(error: Exception, task: Task, out: Path) -> tuple[str, str]:
    """Return status and message of `error`; the traceback of an unexpected one goes to a log file."""
    if isinstance(error, TrainingError):
        return error.status, str(error)
    if isinstance(error, ScalelabError):
        return RunStatus.FAILED, str(error)
    log = out / "logs" / f"{task.key}.txt"
    with contextlib.suppress(OSError):  # a full disk may be what failed
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)))
    first = first_line(error)
    return RunStatus.FAILED, f"{type(error).__name__}: {first} (details: {log})"


@contextmanager
def _locked(task: Task, out: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of `task`. Raises `Timeout` if another process holds it for more than `wait_s` seconds."""
    folder = out / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{task.key}.lock", timeout=wait_s):
        yield


@contextmanager
def _observer(task: Task, job: Job) -> Iterator[Any]:
    if not job.tensorboard:
        yield None
        return
    from scalelab.train.tensorboard import log_curve

    with log_curve(job.out / "tensorboard" / task.key, task.config) as observer:
        yield observer
