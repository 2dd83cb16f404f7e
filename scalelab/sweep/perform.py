"""One task in the process that carries it out, on whatever machine: train, record, say how it ended."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scalelab.errors import ScalelabError, TrainingError
from scalelab.records.files import CHECKPOINTS, read_record
from scalelab.records.store import record_path, record_status
from scalelab.status import RunStatus
from scalelab.sweep.resolve import has_model
from scalelab.sweep.tasks import Job, Task
from scalelab.train.legs import Options, train_legs
from scalelab.train.memory import free_memory, is_out_of_memory
from scalelab.train.run import record_failure, record_result, run_and_record

LOCKS = ".locks"  # below a folder of results: who has which run
_ENDING_S = 1.0  # a killed process keeps its lock until its memory is given back

Tell = Callable[[str, dict[str, Any]], None]  # kind and values of an `Event`


def perform(task: Task, job: Job, place: str, tell: Tell) -> tuple[str, dict[str, Any]]:
    """Carry out `task` at `place` (cpu, cuda:0, …), telling progress.

    Returns the kind and values of the last event: done with the record; failed with status and message, which are
    recorded; or busy. A record that is there already is not made again, and two processes never train one run
    at once: a lock that ends with its process sees to that.
    """

    def progress(step: int, loss: float, tokens_per_s: float) -> None:
        tell("progress", {"step": step, "loss": loss, "tokens_per_s": tokens_per_s})

    try:
        with _claimed(task, job.out):
            if not task.shared and (record := ended(task, job)) is not None:
                return ("done" if record["status"] in (RunStatus.OK, None) else "failed"), record
            with _observer(task, job) as observer:
                options = Options(
                    place,
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
                except Exception as error:  # the boundary of the process: tell, and keep the details
                    status, message = _describe(error, task, job.out)
                    if not task.shared and status == RunStatus.FAILED:  # the others are recorded where they are raised
                        try:
                            record_failure(task.config, job.out, status, message, place, job.code)
                        except Exception as second:  # then the event alone says it
                            message += f"; no record could be written: {type(second).__name__}: {second}"
                    return "failed", {"status": status, "message": message}
    except Timeout:
        return "busy", {}
    except (ScalelabError, OSError) as error:  # a record that cannot be read, or not be written
        record_lost(task, job.out, RunStatus.FAILED, str(error), place)
        return "failed", {"status": RunStatus.FAILED, "message": str(error)}


def ended(task: Task, job: Job) -> dict[str, Any] | None:
    """The record of a run that need not be trained: another sweep has, perhaps, just now. Raises `DataError`."""
    path = record_path(job.out, task.config.key)
    status = record_status(path)
    if status == RunStatus.DIVERGED and not job.retry:
        return read_record(path)
    if status != RunStatus.OK:
        return None
    if job.save_models and not has_model(job.out, task.config.key):
        return None
    return read_record(path)


def record_lost(task: Task, out: Path, status: str, message: str, place: str) -> None:
    """Record that `task` ended without a last word of its own, unless another process has taken it up."""
    if task.shared:
        return
    # Whatever a record cannot hold, or a disk cannot take, must not end the other runs.
    with contextlib.suppress(Exception), _claimed(task, out, _ENDING_S):
        record_failure(task.config, out, status, message, place)


def _train(task: Task, job: Job, options: Options) -> dict[str, Any]:
    if task.members:
        _train_together(task, job, options)
        return {}
    if task.shared:
        train_legs(task.config, job.data, options)
        return {}
    return run_and_record(task.config, job.data, job.out, options, job.save_models, job.peak_flops, job.code)


def _train_together(task: Task, job: Job, options: Options) -> None:
    """Train the members of `task` that have no record yet, and record them.

    What does not come to a record here, for want of memory say, is left to the members' own tasks.
    """
    from scalelab.train.ensemble import train_ensemble

    members = [c for c in task.members if ended(replace(task, config=c, members=(), shared=False), job) is None]
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
            record_result(config, job.data, job.out, result, options, job.save_models, job.peak_flops, job.code)


def _describe(error: Exception, task: Task, out: Path) -> tuple[str, str]:
    """Status and message for `error`; the details of one that was not foreseen go into a file."""
    if isinstance(error, TrainingError):
        return error.status, str(error)
    if isinstance(error, ScalelabError):
        return RunStatus.FAILED, str(error)
    log = out / "logs" / f"{task.key}.txt"
    with contextlib.suppress(OSError):  # a full disk may be what failed
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)))
    first = (str(error).splitlines() or [""])[0]
    return RunStatus.FAILED, f"{type(error).__name__}: {first} (details: {log})"


@contextmanager
def _claimed(task: Task, out: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Nobody else has `task` meanwhile. Raises Timeout if somebody has, and still has it after `wait_s` seconds."""
    folder = out / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{task.key}.lock", timeout=wait_s):
        yield


@contextmanager
def _observer(task: Task, job: Job) -> Iterator[Any]:
    if not job.tensorboard:
        yield None
        return
    from scalelab.train.tensorboard import writing

    with writing(job.out / "tensorboard" / task.key, task.config) as observer:
        yield observer
