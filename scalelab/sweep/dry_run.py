"""What a sweep would do and cost, before it starts."""

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
    """One run as it would be by itself, and what is known of it already."""

    config: RunConfig
    status: str | None  # of its record; None without one
    to_do: bool  # this sweep would train it
    train_flops: float
    memory_bytes: int  # of its process, or of the GPU
    train_s: float
    validation_s: float
    timed: bool  # its steps were timed here, not extrapolated


@dataclass(frozen=True)
class Plan:
    """A sweep's runs and, of those to do, the whole. What several begin with counts once in the sums."""

    runs: tuple[PlannedRun, ...]
    device: str
    workers: int
    train_flops: float
    compute_s: float  # of all workers together
    wall_s: float  # until the last has ended
    shared_s: float  # of training spared, since several runs begin with it
    memory_bytes: int  # of the largest run

    @property
    def left(self) -> tuple[PlannedRun, ...]:
        return tuple(run for run in self.runs if run.to_do)

    @property
    def varied(self) -> dict[str, list[object]]:
        """Options, apart from N, P, D and seed, that are not the same for all runs: {name: value of each run}."""
        rows = [asdict(run.config.recipe) | _others(run.config) for run in self.runs]
        columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
        return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _others(config: RunConfig) -> dict[str, object]:
    shape = config.architecture
    return {
        "plain_tokens": config.plain_tokens,
        "prefix_tokens": shape.prefix_tokens,
        "aggregation": shape.aggregation,
    }


def plan_sweep(
    runs: Sequence[RunConfig],
    left: Sequence[RunConfig],
    statuses: Mapping[str, str],
    device: str = "cpu",
    workers: int = 1,
    budget_s: float = 20.0,
) -> Plan:
    """The plan of training `left` of `runs` with `workers` at once on `device`.

    `statuses` are those of the records there are, by key; precisions are resolved. Takes about
    `budget_s` seconds, of real training steps.
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
    return Plan(
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
    """When the last task ends if each free worker takes the first of `tasks` whose need has ended."""
    waiting = list(zip(tasks, seconds, strict=True))
    ended: dict[str, float] = {}
    free = [0.0] * workers
    while waiting:
        now = heapq.heappop(free)
        ready = (i for i, (task, _) in enumerate(waiting) if _ready_at(task, ended) <= now)
        i = next(ready, None)
        if i is None:  # wait for the next end that something needs
            heapq.heappush(free, min(end for end in ended.values() if end > now))
            continue
        task, duration = waiting.pop(i)
        ended[task.key] = now + duration
        heapq.heappush(free, now + duration)
    return max(ended.values(), default=0.0)


def _ready_at(task: Task, ended: Mapping[str, float]) -> float:
    return 0.0 if task.needs is None else ended.get(task.needs, float("inf"))
