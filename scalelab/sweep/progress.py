"""What a person sees of a running sweep: a live table in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from scalelab.records.schema import describe_statuses
from scalelab.sweep.resolve import ResolvedSweep
from scalelab.sweep.tasks import Event, Task
from scalelab.train.recipe import RunConfig
from scalelab.units import format_count, format_seconds


class Progress(Protocol):
    """Receives the events of a sweep; a context manager around the whole of it."""

    def __call__(self, event: Event) -> None: ...
    def __enter__(self) -> Progress: ...
    def __exit__(self, *exc: object) -> None: ...


def make_progress(tasks: list[Task], console: Console) -> Progress:
    """A live table if the console is a terminal, else a line an event."""
    return (_LiveTable if console.is_terminal else _Lines)(tasks, console)


@dataclass
class RunState:
    """The last that a running task told."""

    step: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None


class Tracker:
    """Which runs are where, and how long the rest will take."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks = tasks
        self.total = sum(not task.shared for task in tasks)
        self.finished = 0
        self.ended: dict[str, int] = {}  # otherwise than well, by status
        self.running: dict[str, tuple[Task, RunState]] = {}
        self.cost = sum(task.cost for task in tasks)
        self.cost_done = 0.0
        self.started = time.monotonic()

    def update(self, event: Event) -> None:
        task = event.task
        if event.kind == "started":
            self.running[task.key] = (task, RunState(task.first))
        elif event.kind == "progress":
            self.running[task.key] = (task, RunState(**event.values))
        else:
            self.running.pop(task.key, None)
            if event.kind == "busy":
                return
            self.cost_done += task.cost
            if task.shared:
                return
            self.finished += event.kind == "done"
            if event.kind == "failed":
                status = event.values["status"]
                self.ended[status] = self.ended.get(status, 0) + 1

    @property
    def fraction(self) -> float:
        """Share of the work that is done."""
        parts = sum(t.cost * (s.step - t.first) / (t.config.steps - t.first) for t, s in self.running.values())
        return (self.cost_done + parts) / self.cost

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def left_s(self) -> float | None:
        """Seconds left by the rate so far; None until there is something to go by."""
        done = self.fraction
        return None if done < 0.01 else self.elapsed_s * (1 - done) / done

    def summary(self) -> str:
        left = "…" if self.left_s is None else format_seconds(self.left_s)
        ended = f", {described}" if (described := describe_statuses(self.ended)) else ""
        return (
            f"{self.finished} of {self.total} runs done{ended}, {self.fraction:.0%}, "
            f"{format_seconds(self.elapsed_s)} gone, about {left} left"
        )


def announce(console: Console, resolved: ResolvedSweep, left: list[RunConfig], places: list[str], out: Path) -> None:
    """What there is to read and to do, before it is done."""
    data, total = resolved.data, len(resolved.runs)
    console.print(
        f"{data.text.corpus}: {format_count(data.train_tokens)} training and "
        f"{format_count(data.validation_tokens)} validation tokens of {data.text.tokenizer}, "
        f"{data.bytes_per_token:.2f} bytes each",
        soft_wrap=True,
    )
    longest = max(c.n_tokens for c in resolved.runs)
    if longest > data.train_tokens:
        console.print(
            f"note: D {format_count(longest)} is {longest / data.train_tokens:.1f} passes over this text; "
            "a law over D means tokens that are new",
            style="yellow",
            soft_wrap=True,
        )
    if not left:
        console.print(f"nothing to do: all {total} runs are recorded below {out} already", soft_wrap=True)
        return
    done = total - len(left)
    already = f"; {done} of {total} runs are recorded already" if done else ""
    sizes = sorted({c.architecture.backbone_params for c in resolved.runs})
    streams = sorted({c.architecture.P for c in resolved.runs})
    console.print(
        f"{len(left)} runs to train, {len(places)} at once on {places[0].split(':')[0]}: "
        f"N {', '.join(map(format_count, sizes))} × P {', '.join(map(str, streams))}{already}",
        soft_wrap=True,
    )


def describe(task: Task) -> str:
    """A task in a few words, N as the paper counts it."""
    config = task.config
    return (
        f"N {format_count(config.architecture.n_params)}  P {config.architecture.P}  "
        f"D {format_count(config.n_tokens)}  seed {config.seed}{'  (shared)' if task.shared else ''}"
    )


class _Lines:
    """One line a finished run, and a sign of life every half minute."""

    _QUIET_S = 30

    def __init__(self, tasks: list[Task], console: Console) -> None:
        self.tracker, self.console = Tracker(tasks), console
        self.spoke = time.monotonic()

    def __call__(self, event: Event) -> None:
        self.tracker.update(event)
        values = event.values
        if event.kind == "done" and not event.task.shared:
            self._say(
                f"done    {describe(event.task)}  loss {values['loss']:.4f} ± {values['loss_stderr']:.4f}  "
                f"{format_count(values['tokens_per_s'])} tokens/s  ({self.tracker.summary()})"
            )
        elif event.kind == "failed":
            self._say(f"{values['status'].replace('_', ' ').upper()}  {describe(event.task)}  {values['message']}")
        elif time.monotonic() - self.spoke > self._QUIET_S:
            self._say(f"running ({self.tracker.summary()})")

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
        self.spoke = time.monotonic()


class _LiveTable:
    """The total, and a row for each running run; finished runs scroll by above."""

    def __init__(self, tasks: list[Task], console: Console) -> None:
        self.tracker, self.console = Tracker(tasks), console
        self.live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._render)

    def __call__(self, event: Event) -> None:
        self.tracker.update(event)
        values = event.values
        if event.kind == "done" and not event.task.shared:
            self.live.console.print(
                f"✓ {describe(event.task)}  loss {values['loss']:.4f} ± {values['loss_stderr']:.4f}  "
                f"{format_count(values['tokens_per_s'])} tokens/s",
                style="green",
                soft_wrap=True,
            )
        elif event.kind == "failed":
            self.live.console.print(
                f"✗ {describe(event.task)}  {values['status'].replace('_', ' ')}: {values['message']}",
                style="red",
                soft_wrap=True,
            )

    def __enter__(self) -> _LiveTable:
        self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.live.stop()

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("run", "step", "", "loss", "tokens/s", "left"):
            table.add_column(name, justify="left" if name in ("run", "") else "right", no_wrap=True)
        for task, state in self.tracker.running.values():
            speed, config = state.tokens_per_s, task.config
            table.add_row(
                describe(task),
                f"{state.step}/{config.steps}",
                ProgressBar(config.steps, state.step, width=18),
                "…" if state.loss is None else f"{state.loss:.3f}",
                "…" if speed is None else format_count(speed),
                "…" if speed is None else format_seconds((config.steps - state.step) * config.step_tokens / speed),
            )
        total = Table.grid(padding=(0, 2))
        total.add_row(ProgressBar(1.0, self.tracker.fraction, width=30), self.tracker.summary())
        return Group(table, total)
