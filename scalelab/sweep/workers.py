"""Local workers: one process a run, as many at once as there are places to run."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any

from scalelab.errors import ScalelabError
from scalelab.sweep.ledger import Ledger, record_lost
from scalelab.sweep.queue import Queue
from scalelab.sweep.stopping import describe, stopped_later
from scalelab.sweep.tasks import Event, Job, Task

# Two-thread matrix products collapse when the other core is busy, so each run has one thread.
_ONE_THREAD: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# Of the GNU C library: what a step frees stays with the process. Given back and asked for again, step by step, it may
# cost 5 % of the time in page faults (docs/LOG.md).
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # bytes

_ALL_KILLED_S = 0.2  # until what killed a worker has reached its parent too, if it was meant for all


def default_places(device: str) -> list[str]:
    """Where runs can go: every GPU once, or the CPU once a core.

    `device` is auto, cpu or cuda. Raises `ScalelabError` if cuda is asked for and not there.
    """
    import torch

    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if device == "cuda" and gpus == 0:
        raise ScalelabError("`device='cuda'`: no CUDA device is visible to torch; use `device='cpu'`")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [f"cuda:{i}" for i in range(gpus)] or ["cpu"] * cores


def run_all(tasks: list[Task], job: Job, places: list[str], on_event: Callable[[Event], None]) -> list[Event]:
    """Carry out every task, one process each, and return the events of those that failed.

    A failed or killed run does not stop the others, but for those that begin where it would have ended. On
    KeyboardInterrupt, of which SIGTERM may make one (`scalelab.sweep.stopping`), all workers are ended and their runs
    recorded as interrupted; runs that had finished keep their records.
    """
    ledger, free = Ledger(tasks, job.out, on_event), list(places)
    queue = ledger.queue
    running: dict[Connection, tuple[Any, Task, str]] = {}
    with environment(_of_workers()):
        context = start_importing()
        try:
            while queue or running:
                while free and (task := queue.take()) is not None:
                    place = free.pop(0)
                    reader, writer = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(task, job, place, writer), daemon=True)
                    with stopped_later():  # or a worker could live on that nobody knows of
                        process.start()
                        running[reader] = (process, task, place)
                    writer.close()
                    on_event(Event("started", task))
                # Without a free place there is nothing to look at again.
                for reader in wait(list(running), queue.wait_s() if free else None) if running else _pause(queue):
                    process, task, place = running[reader]  # type: ignore[index]
                    event = _receive(reader, process, task)  # type: ignore[arg-type]
                    if event.kind == "progress":
                        on_event(event)
                        continue
                    process.join()
                    if event.kind == "failed" and "status" not in event.values:  # it could not record that itself
                        time.sleep(_ALL_KILLED_S)  # a signal to every process of a sweep must find this run among them
                        event.values["status"] = "failed"
                        record_lost(task, job.out, "failed", event.values["message"], place)
                    free.append(place)
                    del running[reader]  # type: ignore[arg-type]
                    ledger.settle(event, place)
        except KeyboardInterrupt as stop:
            _end(running)
            message = f"stopped by {describe(stop)}; the same command goes on"
            for _, task, place in running.values():
                record_lost(task, job.out, "interrupted", message, place)
            raise
        finally:
            _end(running)
    return ledger.failures


def _end(running: dict[Connection, tuple[Any, Task, str]]) -> None:
    for process, _, _ in running.values():
        process.terminate()
    for process, _, _ in running.values():
        process.join()


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
    """Environment variables of workers; how memory is kept may be said otherwise."""
    return {name: os.environ.get(name, value) for name, value in _KEEP_MEMORY.items()} | _ONE_THREAD


def _receive(reader: Connection, process: Any, task: Task) -> Event:
    try:
        kind, values = reader.recv()
    except (EOFError, OSError):  # it ended without a last word, or in the midst of one
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        how += " (out of memory?)" if how.endswith("SIGKILL") else ""
        return Event("failed", task, {"message": f"the worker {how}"})
    return Event(kind, task, values)


def _work(task: Task, job: Job, place: str, writer: Connection) -> None:
    """In the worker's process."""
    import torch
    from transformers.utils import logging

    from scalelab.sweep.perform import perform

    logging.disable_progress_bar()  # of saved models: the sweep has one of its own
    torch.set_num_threads(1)

    def tell(kind: str, values: dict[str, Any]) -> None:
        try:
            writer.send((kind, values))
        except OSError:  # the parent is gone or going: nobody waits for this run
            raise SystemExit(1) from None

    tell(*perform(task, job, place, tell))
    writer.close()


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
