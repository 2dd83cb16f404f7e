"""Which task is next: the most urgent whose beginning is there."""

from __future__ import annotations

import time
from collections.abc import Iterable

from scalelab.architecture import Architecture
from scalelab.sweep.tasks import Task

_AGAIN_S = 2.0  # until a run that another sweep has is looked at again


class Queue:
    """Tasks that wait, in the order given. Not thread-safe: one scheduler asks it."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._waiting = list(tasks)
        known = {task.key for task in self._waiting}
        self._open = {task.needs for task in self._waiting if task.needs in known}
        self._not_before: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, shape: Architecture | None = None) -> Task | None:
        """Return the next task that can begin now, one of `shape` rather than another; None if there is none."""
        now = time.monotonic()
        ready = [t for t in self._waiting if t.needs not in self._open and self._not_before.get(t.key, 0.0) <= now]
        task = next((t for t in ready if t.config.architecture == shape), ready[0] if ready else None)
        if task is not None:
            self._waiting.remove(task)
        return task

    def done(self, task: Task) -> None:
        """`task` has ended well: what needs it can begin."""
        self._open.discard(task.key)

    def failed(self, task: Task) -> list[Task]:
        """`task` has not ended well: the tasks that can never begin, now taken out."""
        lost = [t for t in self._waiting if t.needs == task.key]
        for other in lost:
            self._waiting.remove(other)
        return lost + [t for other in lost for t in self.failed(other)]

    def later(self, task: Task) -> None:
        """Another sweep has `task`: look again in a while, after all others."""
        self._not_before[task.key] = time.monotonic() + _AGAIN_S
        self._waiting.append(task)

    def wait_s(self) -> float | None:
        """Seconds until a task that was put off can be looked at again; None if none was."""
        times = [self._not_before[t.key] for t in self._waiting if t.key in self._not_before]
        return max(0.0, min(times) - time.monotonic()) if times else None
