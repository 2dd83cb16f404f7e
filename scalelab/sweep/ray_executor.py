"""Runs as tasks of a Ray cluster: one of this machine alone, or one that is there already.

Ray is an extra: nothing but this module and `ray_node` imports it, and only when a sweep asks for it.
"""

from __future__ import annotations

import math
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import scalelab
from scalelab.errors import ScalelabError, UsageError
from scalelab.records.files import CHECKPOINTS
from scalelab.records.store import write_record
from scalelab.status import RunStatus
from scalelab.sweep.ledger import Ledger, record_lost
from scalelab.sweep.perform import LOCKS
from scalelab.sweep.ray_desk import Desk
from scalelab.sweep.ray_node import Errand, Outcome, carry_out, write_files
from scalelab.sweep.stopping import describe, interrupted, signal_of, sigterm_kept, terminable
from scalelab.sweep.tasks import Event, Job, Task
from scalelab.sweep.workers import environment
from scalelab.train.places import usable_cores

_POLL_S = 0.25
_ATTEMPTS = 5  # a run whose node or process is lost so often may be what kills them
_ANSWER_S = 5.0
_EMPTY_S = 120.0  # without a single node that can take runs
_CANCEL_S = 20.0

# A cluster of our own: reachable from this machine alone, and with a key of its own; tells nobody about itself.
_OWN = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what binds Ray to 127.0.0.1, on Linux too
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns that it will become so
}

# Where something answers that is no cluster Ray would try for a quarter of an hour; now for less than a minute.
_ONE_TRY = {"RAY_gcs_server_port_wait_time_s": "1"}


def run_all(
    tasks: list[Task],
    job: Job,
    on_event: Callable[[Event], None],
    address: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    per_gpu: int = 1,
) -> list[Event]:
    """Carry out every task on the cluster at `address`; return the events of those that failed.

    The meaning is that of `scalelab.sweep.workers.run_all`. `device` is auto (GPUs if the cluster has
    any), cpu or cuda; a run takes one CPU or 1/`per_gpu` of a GPU; at most `workers` train at once. Runs of a node or
    process that is lost begin again elsewhere, from their checkpoint if nodes share the folder of results. Raises
    `ScalelabError` and `UsageError`: see `connected`, `cluster_places`.
    """
    with connected(address, workers):
        place = cluster_places(address, device, workers, per_gpu)[0]
        data = replace(job.data, folder=job.data.folder.absolute())
        head = _Head(tasks, replace(job, out=job.out.absolute(), data=data), on_event, place, workers, per_gpu)
        try:
            return head.run()
        except _import_ray().exceptions.RayError as error:  # not of a task: of the cluster's own processes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ScalelabError(
                f"`executor='ray'`: the cluster was lost ({reason}); the same command goes on"
            ) from None


@contextmanager
def connected(address: str | None = None, workers: int | None = None) -> Iterator[None]:
    """In here Ray is connected to the cluster at `address`: HOST:PORT, or auto for the one of this machine.

    Without an address a cluster is started here, for `workers` runs or one a core, and ended with the context.
    An existing connection is used and kept. Raises `ScalelabError` if Ray is not installed or nobody answers,
    `UsageError` if `address` is none.
    """
    if address is not None and address != "auto":
        _check_answers(address)
    with environment(_ONE_TRY if address else _OWN | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        ray = _import_ray()
        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            options |= {"num_cpus": workers or usable_cores(), "include_dashboard": False}
        with sigterm_kept():  # from Ray's handler, which stays when it is shut down
            try:
                ray.init(address or "local", **options)  # nothing would mean RAY_ADDRESS, or what runs here
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                what = "`executor='ray'`" if address is None else f"`address={address}`"
                hint = "" if address is None else "; this machine must be a node of that cluster (ray start joins it)"
                raise ScalelabError(f"{what}: no connection to a Ray cluster ({reason}){hint}") from None
            with terminable(over=True):  # of Ray's handler, which prints a stack, aborts and leaves its processes
                try:
                    yield
                except KeyboardInterrupt as stop:  # where no run had begun, or outside of `run_sweep`
                    if signal_of(stop) == signal.SIGINT:
                        raise
                    raise interrupted(stop, "; the same command goes on") from None
                finally:
                    ray.shutdown()


def cluster_places(
    address: str | None = None, device: str = "auto", workers: int | None = None, per_gpu: int = 1
) -> list[str]:
    """Where runs can go on the cluster that is connected: cpu or cuda:0, once for each run that fits at once.

    Raises `ScalelabError` if there is no such place.
    """
    if per_gpu < 1:
        raise UsageError("`per_gpu`: with `executor='ray'` give the number of runs a GPU takes at once")
    gpus = _amount("GPU") if device in ("auto", "cuda") else 0.0
    kind, places = ("cuda:0", math.floor(gpus) * per_gpu) if gpus >= 1 else ("cpu", math.floor(_amount("CPU")))
    where = "" if address is None else f" at {address}"
    if device == "cuda" and kind == "cpu":
        raise ScalelabError(f"`device='cuda'`: the Ray cluster{where} has no GPU; use `device='cpu'`")
    if not places:
        raise ScalelabError(f"`executor='ray'`: the Ray cluster{where} has neither a CPU nor a GPU for runs")
    return [kind] * min(places, workers or places)


class _Head:
    """The scheduler of one sweep, on the machine whose folder of results counts."""

    def __init__(
        self,
        tasks: list[Task],
        job: Job,
        on_event: Callable[[Event], None],
        place: str,
        workers: int | None,
        per_gpu: int,
    ) -> None:
        self.ray, self.job, self.on_event = _import_ray(), job, on_event
        self.place, self.workers, self.per_gpu = place, workers, per_gpu
        self.ledger = Ledger(tasks, job.out, on_event)
        self.again: list[Task] = []  # lost with their node: first in turn
        self.losses: Counter[str] = Counter()
        self.running: dict[Any, Task] = {}
        self.nodes: dict[str, str] = {}  # where a running task has begun, by its key
        self.probe = job.out / LOCKS / f"seen-{secrets.token_hex(8)}"
        here = self.ray.get_runtime_context().get_node_id()
        beside = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        # The actor has another working directory: a real path is the same in all.
        folders = (job.data.folder.resolve(), (job.out / CHECKPOINTS).resolve())
        desk = self.ray.remote(num_cpus=0, max_concurrency=4, scheduling_strategy=beside)(Desk)
        self.desk = desk.remote(*folders)
        # A process for each run, as with local workers: its peak memory is its own. What is lost is sent again
        # from here, not by Ray: it must be counted and shown.
        resources = {"num_cpus": 1.0} if place == "cpu" else {"num_cpus": 0.0, "num_gpus": 1 / per_gpu}
        self.remote = self.ray.remote(max_calls=1, max_retries=0, **resources)(carry_out)

    def run(self) -> list[Event]:
        self.probe.parent.mkdir(parents=True, exist_ok=True)
        self.probe.touch()
        empty_since: float | None = None
        try:
            while self.ledger.queue or self.again or self.running:
                slots = self._slots()
                empty_since = None if slots else empty_since or time.monotonic()
                if empty_since is not None and time.monotonic() - empty_since > _EMPTY_S:
                    raise ScalelabError(f"no node of the Ray cluster can take a run any more (for {_EMPTY_S:.0f} s)")
                # One more than fits, so that none idles meanwhile and a cluster that grows by demand sees it.
                limit = self.workers or slots + 1
                while len(self.running) < limit and (task := self._take()) is not None:
                    errand = Errand(task, self.job, self.place, self.probe, scalelab.__version__)
                    self.running[self.remote.remote(errand, self.desk)] = task
                self._listen()
        except KeyboardInterrupt as stop:
            begun = [task for task in self.running.values() if task.key in self.nodes]
            self._end()
            message = f"stopped by {describe(stop)}; the same command goes on"
            for task in begun:
                record_lost(task, self.job.out, RunStatus.INTERRUPTED, message, self.place)
            raise
        finally:
            self._end()
            self.probe.unlink(missing_ok=True)
        return self.ledger.failures

    def _take(self) -> Task | None:
        return self.again.pop(0) if self.again else self.ledger.queue.take()

    def _slots(self) -> int:
        return math.floor(_amount("CPU")) if self.place == "cpu" else math.floor(_amount("GPU")) * self.per_gpu

    def _listen(self) -> None:
        """Wait a moment for what running tasks tell, and for their ends."""
        if not self.running:
            time.sleep(min(_POLL_S, self.ledger.queue.wait_s() or 0.0))
            return
        ready, _ = self.ray.wait(list(self.running), timeout=_POLL_S)
        known = {task.key: task for task in self.running.values()}
        for key, kind, values in self.ray.get(self.desk.drain.remote()):
            if kind == "started" and key in known:
                self.nodes[key] = values["node"]
            if key in self.nodes:  # or it is late, from an attempt that was lost
                self.on_event(Event(kind, known[key], values))
        for ref in ready:
            task = self.running.pop(ref)
            self._settle(task, self._outcome(ref, task))

    def _settle(self, task: Task, outcome: Outcome) -> None:
        if self.nodes.pop(task.key, None) is None:  # over before it was heard of
            self.on_event(Event("started", task))
        if outcome.kind == "lost":
            self.on_event(Event("lost", task, outcome.values))
            self.again.append(task)
            return
        values = outcome.values
        try:
            write_files(outcome.files, self.job.out)
            if outcome.record is not None:
                write_record(self.job.out, outcome.record, outcome.curve)
        except (ScalelabError, OSError) as error:
            outcome, values = Outcome("failed", {}), {"status": RunStatus.FAILED, "message": str(error)}
        self.ledger.settle(Event(outcome.kind, task, values), self.place)

    def _outcome(self, ref: Any, task: Task) -> Outcome:
        """What the task returned, or what became of it."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except (errors.NodeDiedError, errors.ObjectLostError, errors.LocalRayletDiedError):
            message = f"its node {self.nodes.get(task.key, 'of unknown address')} was lost"
        except errors.WorkerCrashedError:
            message = "its process was killed"
        except errors.RayError as error:
            out_of_memory = isinstance(error, errors.OutOfMemoryError)
            status = RunStatus.OUT_OF_MEMORY if out_of_memory else RunStatus.FAILED
            cause = getattr(error, "cause", None) or error
            reason = (str(cause).splitlines() or [""])[0]
            message = "its node had no memory left" if out_of_memory else f"{type(cause).__name__}: {reason}"
            return self._failed(task, status, message)
        self.losses[task.key] += 1
        if self.losses[task.key] < _ATTEMPTS:
            return Outcome("lost", {"message": message})
        return self._failed(task, RunStatus.FAILED, f"{message}, {_ATTEMPTS} times (out of memory?)")

    def _failed(self, task: Task, status: str, message: str) -> Outcome:
        """A failure that the run could not record itself."""
        record_lost(task, self.job.out, status, message, self.place)
        return Outcome("failed", {"status": status, "message": message})

    def _end(self) -> None:
        """Stop what still runs."""
        refs, self.running = list(self.running), {}
        for ref in refs:
            self.ray.cancel(ref, force=True)
        if refs:
            self.ray.wait(refs, num_returns=len(refs), timeout=_CANCEL_S)


def _amount(resource: str) -> float:
    """How much of it the cluster has, taken or free."""
    return _import_ray().cluster_resources().get(resource, 0.0)


def _import_ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ScalelabError(f"`executor='ray'` needs Ray ({error}): pip install 'scalelab[ray]'") from None
    return ray


def _check_answers(address: str) -> None:
    """Raises before Ray, which would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UsageError(
            f"`address={address}`: give HOST:PORT or auto, and start the sweep on a machine of that cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ScalelabError(
            f"`address={address}`: no Ray cluster answers there ({reason}); ray start starts one"
        ) from None
