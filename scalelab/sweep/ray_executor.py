"""Executor that trains runs on a Ray cluster, an existing one or a new one on this machine."""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import scalelab
from scalelab.errors import ScalelabError, first_line
from scalelab.records.files import CHECKPOINTS
from scalelab.records.store import write_record
from scalelab.status import RunStatus
from scalelab.sweep.ray_cluster import cluster_resource, cluster_slots, connected, import_ray
from scalelab.sweep.ray_mailbox import Mailbox
from scalelab.sweep.ray_node import Outcome, TaskRequest, run_request, write_files
from scalelab.sweep.stopping import signal_name
from scalelab.sweep.task_queue import TaskQueue, record_lost
from scalelab.sweep.task_runner import LOCKS
from scalelab.sweep.tasks import Event, Job, Task

_POLL_S = 0.25
_MAX_LOSSES = 5  # a run that loses its node or process more often may be the cause
_EMPTY_S = 120.0  # to wait for a slot while the cluster has none
_CANCEL_S = 20.0


def run_all(
    tasks: list[Task],
    job: Job,
    on_event: Callable[[Event], None],
    address: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    per_gpu: int = 1,
) -> list[Event]:
    """Run every task on the cluster at `address`; return the events of those that failed.

    It behaves like `scalelab.sweep.workers.run_all`. Runs that lose their node or process start again elsewhere, from
    their checkpoint if the nodes share the folder of results.

    Args:
        tasks: Tasks, most urgent first.
        job: Settings of the sweep.
        on_event: Receives every event.
        address: See `connected`.
        device: auto (GPUs if the cluster has any), cpu or cuda.
        workers: Most runs at once.
        per_gpu: Runs per GPU; on a CPU each run takes one core.

    Raises:
        ScalelabError: no cluster answers, it has no slot for `device`, or it was lost.
        UsageError: see `connected`, `cluster_slots`.
    """
    with connected(address, workers):
        slot = cluster_slots(address, device, workers, per_gpu)[0]
        data = replace(job.data, folder=job.data.folder.absolute())
        job = replace(job, out=job.out.absolute(), data=data)
        scheduler = _Scheduler(tasks, job, on_event, slot, workers, per_gpu)
        try:
            return scheduler.run()
        except import_ray().exceptions.RayError as error:  # from the cluster's own processes, not from a task
            reason = first_line(error)
            raise ScalelabError(
                f"`executor='ray'`: the cluster was lost ({reason}); run the same command again to resume"
            ) from None


class _Scheduler:
    """Scheduler of one sweep, on the machine that holds the folder of results."""

    def __init__(
        self,
        tasks: list[Task],
        job: Job,
        on_event: Callable[[Event], None],
        device: str,
        workers: int | None,
        per_gpu: int,
    ) -> None:
        self.ray, self.job, self.on_event = import_ray(), job, on_event
        self.device, self.workers, self.per_gpu = device, workers, per_gpu
        self.queue = TaskQueue(tasks, job.out, on_event)
        self.retries: list[Task] = []  # lost with their node; they run before all others
        self.losses: Counter[str] = Counter()  # by task key
        self.running: dict[Any, Task] = {}  # by Ray's reference
        self.nodes: dict[str, str] = {}  # address of the node of each started task, by task key
        self.marker = job.out / LOCKS / f"seen-{secrets.token_hex(8)}"
        here = self.ray.get_runtime_context().get_node_id()
        on_this_node = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        # The actor has another working directory, so its paths must be absolute.
        folders = (job.data.folder.resolve(), (job.out / CHECKPOINTS).resolve())
        actor = self.ray.remote(num_cpus=0, max_concurrency=4, scheduling_strategy=on_this_node)(Mailbox)
        self.mailbox = actor.remote(*folders)
        # One process per run, as with local workers, so that its peak memory is its own. Lost runs are retried by this
        # scheduler, not by Ray, so that they are counted and shown.
        resources = {"num_cpus": 1.0} if device == "cpu" else {"num_cpus": 0.0, "num_gpus": 1 / per_gpu}
        self.remote = self.ray.remote(max_calls=1, max_retries=0, **resources)(run_request)

    def run(self) -> list[Event]:
        self.marker.parent.mkdir(parents=True, exist_ok=True)
        self.marker.touch()
        empty_since: float | None = None
        try:
            while self.queue or self.retries or self.running:
                slots = self._slots()
                empty_since = None if slots else empty_since or time.monotonic()
                if empty_since is not None and time.monotonic() - empty_since > _EMPTY_S:
                    raise ScalelabError(
                        f"`executor='ray'`: the cluster has had no slot for runs for {_EMPTY_S:.0f} s; "
                        "add nodes, then run the same command again to resume"
                    )
                # One more than fits: no slot is idle meanwhile, and a cluster that grows on demand sees the demand.
                limit = self.workers or slots + 1
                while len(self.running) < limit and (task := self._next_task()) is not None:
                    request = TaskRequest(task, self.job, self.device, self.marker, scalelab.__version__)
                    self.running[self.remote.remote(request, self.mailbox)] = task
                self._poll()
        except KeyboardInterrupt as stop:
            started = [task for task in self.running.values() if task.key in self.nodes]
            self._cancel_running()
            message = f"stopped by {signal_name(stop)}; run the same command again to resume"
            for task in started:
                record_lost(task, self.job.out, RunStatus.INTERRUPTED, message, self.device)
            raise
        finally:
            self._cancel_running()
            self.marker.unlink(missing_ok=True)
        return self.queue.failures

    def _next_task(self) -> Task | None:
        return self.retries.pop(0) if self.retries else self.queue.take()

    def _slots(self) -> int:
        if self.device == "cpu":
            return math.floor(cluster_resource("CPU"))
        return math.floor(cluster_resource("GPU")) * self.per_gpu

    def _poll(self) -> None:
        """Wait a moment for events and ends of running tasks, and handle them."""
        if not self.running:
            time.sleep(min(_POLL_S, self.queue.wait_s() or 0.0))
            return
        ready, _ = self.ray.wait(list(self.running), timeout=_POLL_S)
        known = {task.key: task for task in self.running.values()}
        for key, kind, values in self.ray.get(self.mailbox.drain.remote()):
            if kind == "started" and key in known:
                self.nodes[key] = values["node"]
            if key in self.nodes:  # otherwise it is a late event of a lost attempt
                self.on_event(Event(kind, known[key], values))
        for ref in ready:
            task = self.running.pop(ref)
            self._handle_outcome(task, self._outcome(ref, task))

    def _handle_outcome(self, task: Task, outcome: Outcome) -> None:
        """Write what the node sent and update the queue; a lost task is retried."""
        if self.nodes.pop(task.key, None) is None:  # it ended before its first event arrived
            self.on_event(Event("started", task))
        if outcome.kind == "lost":
            self.on_event(Event("lost", task, outcome.values))
            self.retries.append(task)
            return
        values = outcome.values
        try:
            write_files(outcome.files, self.job.out)
            if outcome.record is not None:
                write_record(self.job.out, outcome.record, outcome.curve)
        except (ScalelabError, OSError) as error:
            outcome, values = Outcome("failed", {}), {"status": RunStatus.FAILED, "message": str(error)}
        self.queue.finish(Event(outcome.kind, task, values), self.device)

    def _outcome(self, ref: Any, task: Task) -> Outcome:
        """Return the task's own outcome, or one that describes the error of Ray."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except (errors.NodeDiedError, errors.ObjectLostError, errors.LocalRayletDiedError):
            message = f"its node {self.nodes.get(task.key, '(unknown address)')} was lost"
        except errors.WorkerCrashedError:
            message = "its process was killed"
        except errors.RayError as error:
            out_of_memory = isinstance(error, errors.OutOfMemoryError)
            status = RunStatus.OUT_OF_MEMORY if out_of_memory else RunStatus.FAILED
            cause = getattr(error, "cause", None) or error
            reason = first_line(cause)
            message = "its node ran out of memory" if out_of_memory else f"{type(cause).__name__}: {reason}"
            return self._record_failure(task, status, message)
        self.losses[task.key] += 1
        if self.losses[task.key] < _MAX_LOSSES:
            return Outcome("lost", {"message": message})
        return self._record_failure(task, RunStatus.FAILED, f"{message}, {_MAX_LOSSES} times (out of memory?)")

    def _record_failure(self, task: Task, status: str, message: str) -> Outcome:
        """Record a failure that the run could not record itself."""
        record_lost(task, self.job.out, status, message, self.device)
        return Outcome("failed", {"status": status, "message": message})

    def _cancel_running(self) -> None:
        refs, self.running = list(self.running), {}
        for ref in refs:
            self.ray.cancel(ref, force=True)
        if refs:
            self.ray.wait(refs, num_returns=len(refs), timeout=_CANCEL_S)
