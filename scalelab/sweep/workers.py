"""Local workers: processes that train runs, as many at once as there are places to run."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any

from scalelab.architecture import Architecture
from scalelab.status import RunStatus
from scalelab.sweep.ledger import Ledger, record_lost
from scalelab.sweep.queue import Queue
from scalelab.sweep.stopping import describe, stopped_later
from scalelab.sweep.tasks import Event, Job, Task
from scalelab.train.places import enter, gpu_at

# Two-thread matrix products collapse when the other core is busy, so each run has one thread.
_ONE_THREAD: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# Of the GNU C library: what a step frees stays with the process. Given back and asked for again, step by step, it may
# cost 5 % of the time in page faults (docs/LOG.md).
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # bytes

# Of torch: memory of a GPU that grows in place leaves fewer holes; one compiling process a worker, not one a core.
_FOR_CUDA = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

_ALL_KILLED_S = 0.2  # until what killed a worker has reached its parent too, if it was meant for all


@dataclass
class _Worker:
    """A process with its end of a pipe: tasks go in, events come out."""

    process: Any
    pipe: Connection
    place: str
    task: Task | None = None  # at work on it
    shape: Architecture | None = None  # of its last task

    @property
    def stays(self) -> bool:
        """Return true if it takes another task: a context on a GPU and its kernels take seconds to make."""
        return self.place != "cpu"


def run_all(tasks: list[Task], job: Job, places: list[str], on_event: Callable[[Event], None]) -> list[Event]:
    """Carry out every task and return the events of those that failed.

    Each run has a process of its own on a CPU; on a GPU one process at each place takes one run after the other,
    those of one shape together. A failed or killed run does not stop the others, but for those that begin where it
    would have ended. On KeyboardInterrupt, of which SIGTERM may make one (`scalelab.sweep.stopping`), all workers are
    ended and their runs recorded as interrupted; runs that had finished keep their records.
    """
    ledger, free = Ledger(tasks, job.out, on_event), list(places)
    queue = ledger.queue
    running: dict[Connection, _Worker] = {}
    idle: list[_Worker] = []
    with environment(_of_workers()):
        context = start_importing()
        try:
            while queue or running:
                while (idle or free) and (task := queue.take(idle[0].shape if idle else None)) is not None:
                    worker = _given(idle, task, free) or _started(context, free.pop(0), job, task)
                    running[worker.pipe] = worker
                    on_event(Event("started", task))
                # Without a free place there is nothing to look at again.
                looks = queue.wait_s() if free or idle else None
                for reader in wait(list(running), looks) if running else _pause(queue):
                    worker = running[reader]  # type: ignore[index]
                    event = _receive(worker)
                    if event.kind == "progress":
                        on_event(event)
                        continue
                    lost = event.kind == "failed" and "status" not in event.values  # it could not record that itself
                    if lost:
                        time.sleep(_ALL_KILLED_S)  # a signal to every process of a sweep must find this run among them
                        event.values["status"] = RunStatus.FAILED
                        record_lost(event.task, job.out, RunStatus.FAILED, event.values["message"], worker.place)
                    del running[worker.pipe]
                    if worker.stays and not lost:
                        worker.task = None
                        idle.append(worker)
                    else:
                        _dismissed(worker)
                        free.append(worker.place)
                    ledger.settle(event, worker.place)
        except KeyboardInterrupt as stop:
            _end([*running.values(), *idle])
            message = f"stopped by {describe(stop)}; the same command goes on"
            for worker in running.values():
                if worker.task is not None:
                    record_lost(worker.task, job.out, RunStatus.INTERRUPTED, message, worker.place)
            raise
        finally:
            _end([*running.values(), *idle])
    return ledger.failures


def _started(context: Any, place: str, job: Job, task: Task) -> _Worker:
    """A new process at work on `task`."""
    ours, theirs = context.Pipe()
    gpu = gpu_at(place)
    process = context.Process(target=_work, args=(theirs, job, place, gpu and gpu.visible), daemon=True)
    with stopped_later():  # or a worker could live on that nobody knows of
        process.start()
        worker = _Worker(process, ours, place, task, task.config.architecture)
    theirs.close()
    with suppress(OSError):  # it is gone already, which is told where its answer is read
        ours.send(task)
    return worker


def _given(idle: list[_Worker], task: Task, free: list[str]) -> _Worker | None:
    """An idle process that is now at work on `task`; None if there is none. The places of dead ones become `free`."""
    while idle:
        worker = idle.pop(0)
        try:
            worker.pipe.send(task)
        except OSError:
            _dismissed(worker)
            free.append(worker.place)
            continue
        worker.task, worker.shape = task, task.config.architecture
        return worker
    return None


def _dismissed(worker: _Worker) -> None:
    """Let a process end that has nothing more to do."""
    worker.pipe.close()
    worker.process.join()


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join()


def _pause(queue: Queue) -> list[Connection]:
    """Wait for what another sweep has; nobody here has anything to tell."""
    time.sleep(queue.wait_s() or 0.0)
    return []


def start_importing() -> Any:
    """Begin to import what workers need, in a process of its own, beside what this one does until `run_all`.

    Returns the context of processes that begin with all of that, and deaf to Ctrl-C, which is the parent's. May be
    called again; where nothing comes of it the process ends with this one.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows: slower to start, else the same
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once rather than once a run; and a sweep of hours keeps the code it began with,
    # whatever is edited or upgraded meanwhile.
    context.set_forkserver_preload(["__main__", __name__, "scalelab.sweep.preload"])
    if threading.current_thread() is threading.main_thread():
        # The server inherits the ignored signal and hands it on: no moment is left uncovered.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with environment(_of_workers()):
                forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, before)
    return context


def _of_workers() -> dict[str, str]:
    """Environment variables of workers; all but the number of threads may be said otherwise."""
    return {name: os.environ.get(name, value) for name, value in (_KEEP_MEMORY | _FOR_CUDA).items()} | _ONE_THREAD


def _receive(worker: _Worker) -> Event:
    assert worker.task is not None
    try:
        kind, values = worker.pipe.recv()
    except (EOFError, OSError):  # it ended without a last word, or in the midst of one
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        how += " (out of memory?)" if how.endswith("SIGKILL") else ""
        return Event("failed", worker.task, {"message": f"the worker {how}"})
    return Event(kind, worker.task, values)


def _work(pipe: Connection, job: Job, place: str, visible: str | None) -> None:
    """In the worker's process: carry out the tasks that come, until there are no more."""
    device = enter(place, visible)
    import torch
    from transformers.utils import logging

    from scalelab.sweep.perform import perform

    logging.disable_progress_bar()  # of saved models: the sweep has one of its own
    torch.set_num_threads(1)

    def tell(kind: str, values: dict[str, Any]) -> None:
        try:
            pipe.send((kind, values))
        except OSError:  # the parent is gone or going: nobody waits for this run
            raise SystemExit(1) from None

    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        tell(*perform(task, job, device, tell))


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
