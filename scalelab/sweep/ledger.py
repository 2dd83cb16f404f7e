"""What every executor does with the events of its tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scalelab.sweep.queue import Queue
from scalelab.sweep.tasks import Event, Task


class Ledger:
    """The tasks that wait, and the events of those that failed, in the order of failing."""

    def __init__(self, tasks: list[Task], out: Path, on_event: Callable[[Event], None]) -> None:
        self.queue = Queue(tasks)
        self.failures: list[Event] = []
        self._out, self._on_event = out, on_event

    def settle(self, event: Event, place: str) -> None:
        """`event` ended a task at `place`: tell it, and give free or take out what waited for its end."""
        self._on_event(event)
        if event.kind == "done":
            self.queue.done(event.task)
        elif event.kind == "busy":
            self.queue.later(event.task)
        elif event.kind == "failed":
            self.failures.append(event)
            for lost in self.queue.failed(event.task):
                message = f"what it begins with failed: {event.values['message']}"
                record_lost(lost, self._out, event.values["status"], message, place)
                self.settle(Event("failed", lost, event.values | {"message": message}), place)


def record_lost(task: Task, out: Path, status: str, message: str, place: str) -> None:
    """See `scalelab.sweep.perform.record_lost`."""
    from scalelab.sweep import perform  # and torch with it: the parent needs neither until something fails

    perform.record_lost(task, out, status, message, place)
