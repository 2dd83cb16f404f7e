"""Local executor: worker processes that train runs, one per slot.

A slot is room for one run on a device of this machine; see `scalelab.train.devices`.
"""

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
from scalelab.import_logs import quiet_imports
from scalelab.status import RunStatus
from scalelab.sweep.stopping import defer_signals, signal_name
from scalelab.sweep.task_queue import TaskQueue, record_lost
from scalelab.sweep.tasks import Event, Job, Task
from scalelab.train.devices import probed_gpu, select_device

# Two-thread matrix products collapse when the other core is busy, so each run has one thread.
_ONE_THREAD: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# For the GNU C library: the process keeps the memory that a step frees. Returning it to the system and asking for it
# again may cost 5 % of the time in page faults (docs/LOG.md).
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # bytes

# For torch: GPU memory that grows in place leaves fewer holes; one compiling process per worker, not one per core.
_FOR_CUDA = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

_ALL_KILLED_S = 0.2  # until a signal that killed a worker has also reached its parent, if it was sent to all


@dataclass
class _Worker:
    """A process and the parent's end of its pipe: tasks go in, events come out."""

    process: Any
    pipe: Connection
    slot: str
    task: Task | None = None  # the current one
    shape: Architecture | None = None  # of its last task

    @property
    def is_reusable(self) -> bool:
        """True on a GPU, where a context and its kernels take seconds to create."""
        return self.slot != "cpu"


def run_all(tasks: list[Task], job: Job, slots: list[str], on_event: Callable[[Event], None]) -> list[Event]:
    """Run every task and return the events of those that failed.

    On a CPU each run has its own process; on a GPU one process per slot trains one run after the other, those of the
    same shape together. A failed or killed run stops no others, except those that start from its result. On
    KeyboardInterrupt, which SIGTERM can raise too (`scalelab.sweep.stopping`), all workers are stopped and their runs
    recorded as interrupted; finished runs keep their records.
    """
    queue, free = TaskQueue(tasks, job.out, on_event), list(slots)
    running: dict[Connection, _Worker] = {}
    idle: list[_Worker] = []
    with environment(_worker_environment()):
        context = start_importing()
        try:
            while queue or running:
                while (idle or free) and (task := queue.take(idle[0].shape if idle else None)) is not None:
                    worker = _reuse_worker(idle, task, free) or _start_worker(context, free.pop(0), job, task)
                    running[worker.pipe] = worker
                    on_event(Event("started", task))
                # Postponed tasks matter only if a slot is free.
                timeout = queue.wait_s() if free or idle else None
                for reader in wait(list(running), timeout) if running else _sleep(queue):
                    worker = running[reader]  # type: ignore[index]
                    event = _receive(worker)
                    if event.kind == "progress":
                        on_event(event)
                        continue
                    died = event.kind == "failed" and "status" not in event.values  # before it could record that
                    if died:
                        time.sleep(_ALL_KILLED_S)  # a signal to all processes must find this run among the running
                        event.values["status"] = RunStatus.FAILED
                        record_lost(event.task, job.out, RunStatus.FAILED, event.values["message"], worker.slot)
                    del running[worker.pipe]
                    if worker.is_reusable and not died:
                        worker.task = None
                        idle.append(worker)
                    else:
                        _dismiss(worker)
                        free.append(worker.slot)
                    queue.finish(event, worker.slot)
        except KeyboardInterrupt as stop:
            _terminate([*running.values(), *idle])
            message = f"stopped by {signal_name(stop)}; run the same command again to resume"
            for worker in running.values():
                if worker.task is not None:
                    record_lost(worker.task, job.out, RunStatus.INTERRUPTED, message, worker.slot)
            raise
        finally:
            _terminate([*running.values(), *idle])
    return queue.failures


def _start_worker(context: Any, slot: str, job: Job, task: Task) -> _Worker:
    """Start a process that runs `task`."""
    ours, theirs = context.Pipe()
    gpu = probed_gpu(slot)
    process = context.Process(target=_worker_main, args=(theirs, job, slot, gpu and gpu.visible), daemon=True)
    with defer_signals():  # an interrupt between these lines would leave a worker that nobody stops
        process.start()
        worker = _Worker(process, ours, slot, task, task.config.architecture)
    theirs.close()
    with suppress(OSError):  # it has died already, which is noticed when its answer is read
        ours.send(task)
    return worker


def _reuse_worker(idle: list[_Worker], task: Task, free: list[str]) -> _Worker | None:
    """Give `task` to an idle process; return None if there is none. Slots of dead processes are added to `free`."""
    while idle:
        worker = idle.pop(0)
        try:
            worker.pipe.send(task)
        except OSError:
            _dismiss(worker)
            free.append(worker.slot)
            continue
        worker.task, worker.shape = task, task.config.architecture
        return worker
    return None


def _dismiss(worker: _Worker) -> None:
    """Close the pipe of a process that has nothing more to do, and wait for its end."""
    worker.pipe.close()
    worker.process.join()


def _terminate(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join()


def _sleep(queue: TaskQueue) -> list[Connection]:
    """Wait until a task that another sweep is training is offered again; no worker of this one has anything to say."""
    time.sleep(queue.wait_s() or 0.0)
    return []


def start_importing() -> Any:
    """Start to import what workers need, in a separate process, while this one goes on to `run_all`.

    It may be called again. If `run_all` is never called, the process ends with this one.

    Returns:
        The context of processes that start with all imports done and ignore Ctrl-C, which their parent handles.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows: workers start more slowly
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once, not once per run; and a sweep of hours keeps the code that it started with, even if files are
    # edited or upgraded meanwhile.
    context.set_forkserver_preload(["__main__", __name__, "scalelab.sweep.preload"])
    if threading.current_thread() is threading.main_thread():
        # The server inherits the ignored signal and passes it on, so that it is ignored at every moment.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with environment(_worker_environment()):
                forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, before)
    return context


def _worker_environment() -> dict[str, str]:
    """Return the environment variables of workers; the user may set all except the number of threads."""
    return {name: os.environ.get(name, value) for name, value in (_KEEP_MEMORY | _FOR_CUDA).items()} | _ONE_THREAD


def _receive(worker: _Worker) -> Event:
    assert worker.task is not None
    try:
        kind, values = worker.pipe.recv()
    except (EOFError, OSError):  # it ended without sending its last event, or while sending it
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        how += " (out of memory?)" if how.endswith("SIGKILL") else ""
        return Event("failed", worker.task, {"message": f"the worker {how}"})
    return Event(kind, worker.task, values)


def _worker_main(pipe: Connection, job: Job, slot: str, visible: str | None) -> None:
    """Run the tasks that arrive until the pipe is closed; the main function of a worker's process."""
    device = select_device(slot, visible)
    quiet_imports()
    import torch
    from transformers.utils import logging

    from scalelab.sweep.task_runner import run_task

    logging.disable_progress_bar()  # the sweep shows its own progress
    torch.set_num_threads(1)

    def emit(kind: str, values: dict[str, Any]) -> None:
        try:
            pipe.send((kind, values))
        except OSError:  # the parent has ended: nobody waits for this run
            raise SystemExit(1) from None

    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        emit(*run_task(task, job, device, emit))


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started in the block."""
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
