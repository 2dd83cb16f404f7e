"""The tasks of a sweep that wait, and what every executor does when one ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from scalelab.architecture import Architecture
from scalelab.sweep.tasks import Event, Task

_RETRY_S = 2.0  # before a run that another sweep is training is offered again


class TaskQueue:
    """Waiting tasks in the given order, and the events of those that failed.

    Not thread-safe: a single scheduler uses it.

    Args:
        tasks: Tasks, most urgent first.
        out: Folder of results.
        on_event: Receives the event that ends each task.
    """

    def __init__(self, tasks: Iterable[Task], out: Path, on_event: Callable[[Event], None]) -> None:
        self.failures: list[Event] = []
        self._out, self._on_event = out, on_event
        self._waiting = list(tasks)
        known = {task.key for task in self._waiting}
        self._unfinished = {task.needs for task in self._waiting if task.needs in known}
        self._not_before: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, shape: Architecture | None = None) -> Task | None:
        """Remove and return the next task that can start now, preferring those of `shape`; None if there is none."""
        now = time.monotonic()
        ready = [
            t for t in self._waiting if t.needs not in self._unfinished and self._not_before.get(t.key, 0.0) <= now
        ]
        task = next((t for t in ready if t.config.architecture == shape), ready[0] if ready else None)
        if task is not None:
            self._waiting.remove(task)
        return task

    def finish(self, event: Event, device: str) -> None:
        """Report `event`, which ended a task on `device`, and update the tasks that depend on it.

        After "done" they can start. After "failed" they are removed and fail too. After "busy" the task itself is
        offered again later, after all others.
        """
        self._on_event(event)
        if event.kind == "done":
            self._unfinished.discard(event.task.key)
        elif event.kind == "busy":
            self._not_before[event.task.key] = time.monotonic() + _RETRY_S
            self._waiting.append(event.task)
        elif event.kind == "failed":
            self.failures.append(event)
            for dependent in self._remove_dependents(event.task):
                message = f"the shared training that it starts from failed: {event.values['message']}"
                record_lost(dependent, self._out, event.values["status"], message, device)
                self.finish(Event("failed", dependent, event.values | {"message": message}), device)

    def wait_s(self) -> float | None:
        """Return the seconds until a postponed task is offered again; None if there is none."""
        times = [self._not_before[t.key] for t in self._waiting if t.key in self._not_before]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _remove_dependents(self, task: Task) -> list[Task]:
        """Remove and return all tasks that need `task`, directly or not."""
        direct = [t for t in self._waiting if t.needs == task.key]
        for dependent in direct:
            self._waiting.remove(dependent)
        return direct + [t for dependent in direct for t in self._remove_dependents(dependent)]


def record_lost(task: Task, out: Path, status: str, message: str, device: str) -> None:
    """Record the failure of `task`; see `scalelab.sweep.task_runner.record_lost`, which this imports when needed."""
    from scalelab.sweep import task_runner  # imports torch: the parent process needs it only after a failure

    task_runner.record_lost(task, out, status, message, device)
