"""Progress of a sweep, from the events of its tasks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from scalelab.analysis.final_loss import RunFacts
from scalelab.records.schema import describe_statuses
from scalelab.sweep.facts import Points, facts_of_config
from scalelab.sweep.tasks import Event, Task
from scalelab.units import format_count, format_seconds, plural


@dataclass(frozen=True)
class RunningTask:
    """A running task with its latest progress.

    Attributes:
        n_params: Parameters, as the paper counts them.
        n_streams: Streams.
        n_tokens: Training tokens.
        seed: Seed.
        shared: The task is training that several runs share.
        step: Steps done.
        steps: Step at which the task ends.
        loss: Latest training loss, nats per token; None at first.
        tokens_per_s: Speed; None at first.
        facts: Settings by which the run is compared with others; None for shared training.
        curve: The last part of the curve, see `recent_points`.
    """

    n_params: int
    n_streams: int
    n_tokens: int
    seed: int
    shared: bool
    step: int
    steps: int
    loss: float | None = None
    tokens_per_s: float | None = None
    facts: RunFacts | None = None
    curve: Points = ()

    @classmethod
    def started(cls, task: Task) -> RunningTask:
        """Return the state of `task` before its first step."""
        config, shape = task.config, task.config.architecture
        facts = None if task.shared else facts_of_config(config)
        sizes = (shape.n_params, shape.P, config.n_tokens, config.seed)
        return cls(*sizes, task.shared, task.first, config.steps, facts=facts)

    @property
    def title(self) -> str:
        """Short description of the task, with N as the paper counts it."""
        return describe_run(self.n_params, self.n_streams, self.n_tokens, self.seed) + "  (shared)" * self.shared

    @property
    def left_s(self) -> float | None:
        """Seconds left at the current speed; None before the first progress."""
        if not self.tokens_per_s:
            return None
        return (self.steps - self.step) * self.n_tokens / self.steps / self.tokens_per_s


def describe_run(n_params: float | None, n_streams: float | None, n_tokens: float | None, seed: float | None) -> str:
    """Return a short description of a run, with question marks for unknown values."""
    values = ("?" if value is None else format_count(value) for value in (n_params, n_streams, n_tokens))
    return "N {}  P {}  D {}  seed {}".format(*values, "?" if seed is None else f"{seed:.0f}")


@dataclass(frozen=True)
class Snapshot:
    """Progress of a sweep at one moment.

    Attributes:
        runs: All runs of the sweep.
        done: Runs that ended with status ok.
        fraction: Share of the work that is done.
        elapsed_s: Seconds since the start.
        left_s: Seconds that the rest takes at the recent speed; None at first, and while nothing moves.
        ended: Number of runs with another status, by status.
        running: Tasks in progress.
    """

    runs: int
    done: int
    fraction: float
    elapsed_s: float
    left_s: float | None
    ended: Mapping[str, int] = field(default_factory=dict)
    running: tuple[RunningTask, ...] = ()

    @property
    def done_of(self) -> str:
        """Number of finished runs, in words."""
        ended = f", {described}" if (described := describe_statuses(self.ended)) else ""
        return f"{self.done} of {plural(self.runs, 'run')} done{ended}"

    @property
    def summary(self) -> str:
        """Progress in one line."""
        left = "…" if self.left_s is None else format_seconds(self.left_s)
        return f"{self.done_of}, {self.fraction:.0%}, {format_seconds(self.elapsed_s)} gone, about {left} left"


class RecentSpeed:
    """Speed of a sweep over the last minute or the last quarter of its time, whichever is longer.

    The speed since the start would hide that runs became slower, or stand still.
    """

    _LEAST_S = 60.0
    _SHARE = 0.25
    _EVERY_S = 1.0  # between two marks
    _FIRST_S = 5.0  # of work before there is a speed

    def __init__(self, now: float) -> None:
        self._started = now
        self._marks: deque[tuple[float, float]] = deque([(now, 0.0)])  # times, and the share done by then

    def left_s(self, now: float, fraction: float) -> float | None:
        """Return the seconds that the rest takes; None at first, and while nothing moves."""
        if now - self._marks[-1][0] >= self._EVERY_S:
            self._marks.append((now, fraction))
        window = max(self._LEAST_S, self._SHARE * (now - self._started))
        while len(self._marks) > 1 and self._marks[1][0] <= now - window:
            self._marks.popleft()
        then, before = self._marks[0]
        if fraction <= before or now - self._started < self._FIRST_S:
            return None
        return (now - then) * (1 - fraction) / (fraction - before)


class Tracker:
    """Collector of a sweep's events; other threads may ask for a snapshot."""

    def __init__(self, tasks: list[Task]) -> None:
        self._runs = sum(not task.shared for task in tasks)
        self._cost = sum(task.cost for task in tasks)
        self._done, self._cost_done = 0, 0.0
        self._ended: dict[str, int] = {}
        self._running: dict[str, tuple[Task, RunningTask]] = {}
        self._started = time.monotonic()
        self._speed = RecentSpeed(self._started)
        self._lock = Lock()

    def update(self, event: Event) -> None:
        """Take one event into account."""
        task = event.task
        with self._lock:
            if event.kind == "started":
                self._running[task.key] = (task, RunningTask.started(task))
            elif event.kind == "progress":
                self._running[task.key] = (task, replace(RunningTask.started(task), **event.values))
            else:
                self._running.pop(task.key, None)
                if event.kind in ("done", "failed"):  # busy and lost tasks are still to be done
                    self._end(event)

    def _end(self, event: Event) -> None:
        self._cost_done += event.task.cost
        if event.task.shared:
            return
        if event.kind == "done":
            self._done += 1
        else:
            status = event.values["status"]
            self._ended[status] = self._ended.get(status, 0) + 1

    def snapshot(self) -> Snapshot:
        """Return the current progress."""
        with self._lock:
            # If the shared training that a task starts from was lost, it trains that first, at no progress of its own.
            parts = (
                t.cost * max(0.0, (r.step - t.first) / (t.config.steps - t.first)) for t, r in self._running.values()
            )
            fraction = (self._cost_done + sum(parts)) / self._cost
            now = time.monotonic()
            left = self._speed.left_s(now, fraction)
            running = tuple(r for _, r in self._running.values())
            return Snapshot(self._runs, self._done, fraction, now - self._started, left, dict(self._ended), running)
