"""Estimate of a sweep: what it would train and cost."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from scalelab.sweep.tasks import Task, make_tasks
from scalelab.train.cost import resident_bytes, train_flops
from scalelab.train.estimate import TimeEstimates, estimate_times
from scalelab.train.recipe import RunConfig


@dataclass(frozen=True)
class PlannedRun:
    """One run by itself: its cost, and the status of its record if there is one."""

    config: RunConfig
    status: str | None  # of its record, if any
    to_do: bool  # the sweep would train it
    train_flops: float
    memory_bytes: int  # of its process, or of the GPU
    train_s: float
    validation_s: float
    timed: bool  # its steps were timed, not extrapolated


@dataclass(frozen=True)
class SweepEstimate:
    """Runs of a sweep and the total cost of those to do; training that several runs share is counted once."""

    runs: tuple[PlannedRun, ...]
    device: str
    workers: int
    train_flops: float
    compute_s: float  # of all workers together
    wall_s: float  # until the last run ends
    shared_s: float  # saved, since runs share training
    memory_bytes: int  # of the largest run

    @property
    def left(self) -> tuple[PlannedRun, ...]:
        """Runs that the sweep would train."""
        return tuple(run for run in self.runs if run.to_do)

    @property
    def varied(self) -> dict[str, list[object]]:
        """Options, apart from N, P, D and seed, that differ between runs: {name: value of each run}."""
        rows = [asdict(run.config.recipe) | _other_options(run.config) for run in self.runs]
        columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
        return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _other_options(config: RunConfig) -> dict[str, object]:
    shape = config.architecture
    return {
        "plain_tokens": config.plain_tokens,
        "prefix_tokens": shape.prefix_tokens,
        "aggregation": shape.aggregation,
        "loops": shape.loops,
        "single_prefix": shape.single_prefix and not config.frozen,
        "lora_rank": config.lora_rank,
    }


def plan_sweep(
    runs: Sequence[RunConfig],
    left: Sequence[RunConfig],
    statuses: Mapping[str, str],
    device: str = "cpu",
    workers: int = 1,
    budget_s: float = 20.0,
) -> SweepEstimate:
    """Plan the training of `left`, a part of `runs`.

    Args:
        runs: All runs of the sweep, with resolved precision.
        left: Runs to train.
        statuses: Status of each recorded run, by key.
        device: Device to train on.
        workers: Runs at once.
        budget_s: Seconds to spend on timing real training steps.
    """
    times = estimate_times(runs, device, budget_s)
    wanted = {config.key for config in left}
    planned = tuple(
        PlannedRun(
            config,
            statuses.get(config.key),
            config.key in wanted,
            train_flops(config),
            resident_bytes(config, device),
            times.train_s(config),
            times.validation_s(config),
            times.timed(config),
        )
        for config in runs
    )
    tasks = make_tasks(left)
    seconds = [_task_s(task, times) for task in tasks]
    alone_s = sum(run.train_s + run.validation_s for run in planned if run.to_do)
    return SweepEstimate(
        runs=planned,
        device=device,
        workers=workers,
        train_flops=sum(train_flops(task.config, task.first) for task in tasks),
        compute_s=sum(seconds),
        wall_s=wall_seconds(tasks, seconds, workers),
        shared_s=max(0.0, alone_s - sum(seconds)),
        memory_bytes=max((run.memory_bytes for run in planned if run.to_do), default=0),
    )


def _task_s(task: Task, times: TimeEstimates) -> float:
    validation_s = 0.0 if task.shared else times.validation_s(task.config)
    return times.train_s(task.config, task.first) + validation_s


def wall_seconds(tasks: Sequence[Task], seconds: Sequence[float], workers: int) -> float:
    """Return when the last task ends if each free worker takes the first of `tasks` that can start."""
    waiting = list(zip(tasks, seconds, strict=True))
    ended: dict[str, float] = {}
    free = [0.0] * workers
    while waiting:
        now = heapq.heappop(free)
        ready = (i for i, (task, _) in enumerate(waiting) if _ready_at(task, ended) <= now)
        i = next(ready, None)
        if i is None:  # wait for the next end of a task
            heapq.heappush(free, min(end for end in ended.values() if end > now))
            continue
        task, duration = waiting.pop(i)
        ended[task.key] = now + duration
        heapq.heappush(free, now + duration)
    return max(ended.values(), default=0.0)


def _ready_at(task: Task, ended: Mapping[str, float]) -> float:
    return 0.0 if task.needs is None else ended.get(task.needs, float("inf"))
