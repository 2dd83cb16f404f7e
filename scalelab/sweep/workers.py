"""Local workers: one process a run, as many at once as there are places to run."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from scalelab.errors import ScalelabError
from scalelab.train.recipe import RunConfig
from scalelab.train.tokens import TokenData

# Two-thread matrix products collapse when the other core is busy, so each run has one thread.
_ONE_THREAD: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Event:
    """What a worker tells: `kind` is started, progress, done or failed."""

    kind: str
    config: RunConfig
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is the same for every run of a sweep."""

    data: TokenData
    out: Path
    compile_model: bool = False
    save_models: bool = False


def default_places(device: str) -> list[str]:
    """Where runs can go: every GPU once, or the CPU once a core.

    `device` is auto, cpu or cuda. Raises `ScalelabError` if cuda is asked for and not there.
    """
    import torch

    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if device == "cuda" and gpus == 0:
        raise ScalelabError("--device cuda: no CUDA device is visible to torch; use --device cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [f"cuda:{i}" for i in range(gpus)] or ["cpu"] * cores


def run_all(configs: list[RunConfig], job: Job, places: list[str], on_event: Callable[[Event], None]) -> list[Event]:
    """Run every config, one process each, and return the events of those that failed.

    A failed or killed run does not stop the others. On KeyboardInterrupt all workers are
    ended; runs that had finished keep their records.
    """
    waiting, free = list(configs), list(places)
    running: dict[Connection, tuple[Any, RunConfig, str]] = {}
    failures: list[Event] = []
    with _environment(_ONE_THREAD):
        context = _worker_context()
        try:
            while waiting or running:
                while waiting and free:
                    config, place = waiting.pop(0), free.pop(0)
                    reader, writer = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(config, job, place, writer), daemon=True)
                    with _interrupted_later():  # or a worker could live on that nobody knows of
                        process.start()
                        running[reader] = (process, config, place)
                    writer.close()
                    on_event(Event("started", config))
                for reader in wait(list(running)):
                    process, config, place = running[reader]  # type: ignore[index]
                    event = _receive(reader, process, config)  # type: ignore[arg-type]
                    on_event(event)
                    if event.kind in ("done", "failed"):
                        process.join()
                        free.append(place)
                        del running[reader]  # type: ignore[arg-type]
                    if event.kind == "failed":
                        failures.append(event)
        finally:
            for process, _, _ in running.values():
                process.terminate()
            for process, _, _ in running.values():
                process.join()
    return failures


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Ctrl-C in here takes effect at the end."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


def _worker_context() -> multiprocessing.context.ForkServerContext:
    """Processes that begin with everything imported, and deaf to Ctrl-C, which is the parent's."""
    context = multiprocessing.get_context("forkserver")
    # Imported once rather than once a run; and a sweep of hours keeps the code it began with,
    # whatever is edited or upgraded meanwhile.
    context.set_forkserver_preload(["__main__", __name__, "scalelab.train.run"])
    if threading.current_thread() is threading.main_thread():
        # The server inherits the ignored signal and hands it on: no moment is left uncovered.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, before)
    return context


def _receive(reader: Connection, process: Any, config: RunConfig) -> Event:
    try:
        kind, values = reader.recv()
    except EOFError:  # it ended without a last word
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name} (out of memory?)" if code < 0 else f"ended with code {code}"
        return Event("failed", config, {"message": f"the worker {how}"})
    return Event(kind, config, values)


def _work(config: RunConfig, job: Job, place: str, writer: Connection) -> None:
    """In the worker's process: train, write the record, tell the parent."""
    import torch
    from transformers.utils import logging

    from scalelab.train.run import run_and_record

    logging.disable_progress_bar()  # of saved models: the sweep has one of its own

    torch.set_num_threads(1)

    def tell(kind: str, values: dict[str, Any]) -> None:
        try:
            writer.send((kind, values))
        except OSError:  # the parent is gone or going: nobody waits for this run
            raise SystemExit(1) from None

    def progress(step: int, loss: float, tokens_per_s: float) -> None:
        tell("progress", {"step": step, "loss": loss, "tokens_per_s": tokens_per_s})

    try:
        record = run_and_record(config, job.data, job.out, place, job.compile_model, job.save_models, progress)
        tell("done", record)
    except ScalelabError as error:
        tell("failed", {"message": str(error)})
    except Exception as error:  # the boundary of the process: tell, and keep the details
        log = job.out / "logs" / f"{config.key}.txt"
        with contextlib.suppress(OSError):  # a full disk may be what failed
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(traceback.format_exc())
        first = (str(error).splitlines() or [""])[0]
        tell("failed", {"message": f"{type(error).__name__}: {first} (details: {log})"})
    finally:
        writer.close()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
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
