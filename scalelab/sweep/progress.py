"""Progress of a running sweep: a live table in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from scalelab.status import RunStatus
from scalelab.sweep.limits import MANY_PASSES
from scalelab.sweep.resolve import ResolvedSweep
from scalelab.sweep.tasks import Event, Task
from scalelab.sweep.tracker import RunningTask, Snapshot, Tracker
from scalelab.train.recipe import RunConfig
from scalelab.units import all_of, format_count, format_seconds, plural


class Progress(Protocol):
    """Receiver of a sweep's events, and a context manager around the whole sweep."""

    def __call__(self, event: Event) -> None:
        """Handle one event."""
        ...

    def __enter__(self) -> Progress: ...
    def __exit__(self, *exc: object) -> None: ...


def make_progress(tasks: list[Task], console: Console) -> Progress:
    """Return a live table if the console is a terminal, else a printer of one line per event."""
    return (_LiveTable if console.is_terminal else _Lines)(tasks, console)


class EventFanOut:
    """Receiver that passes each event to several receivers, in order."""

    def __init__(self, *receivers: Progress) -> None:
        self._receivers, self._stack = receivers, ExitStack()

    def __call__(self, event: Event) -> None:
        """Pass `event` to each receiver."""
        for receiver in self._receivers:
            receiver(event)

    def __enter__(self) -> EventFanOut:
        with ExitStack() as stack:
            for receiver in self._receivers:
                stack.enter_context(receiver)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def announce(console: Console, resolved: ResolvedSweep, to_train: list[RunConfig], slots: list[str], out: Path) -> None:
    """Print the corpus and the runs to train."""
    data, total = resolved.data, len(resolved.runs)
    console.print(
        f"{data.text.corpus}: {format_count(data.train_tokens)} training and "
        f"{format_count(data.validation_tokens)} validation tokens of {data.text.tokenizer}, "
        f"{data.bytes_per_token:.2f} bytes each",
        soft_wrap=True,
    )
    longest = max(c.n_tokens for c in resolved.runs)
    if data.train_tokens < longest <= MANY_PASSES * data.train_tokens:  # more are a warning of their own
        console.print(
            f"note: D {format_count(longest)} is {longest / data.train_tokens:.1f} passes over this text; "
            "laws over D assume new tokens: use more text or a smaller D",
            style="yellow",
            soft_wrap=True,
        )
    if not to_train:
        console.print(
            f"nothing to do: {all_of(total, 'run is', 'runs are')} recorded below {out} already", soft_wrap=True
        )
        return
    done = total - len(to_train)
    already = f"; {done} of {plural(total, 'run')} recorded already" if done else ""
    sizes = sorted({c.architecture.backbone_params for c in resolved.runs})
    streams = sorted({c.architecture.P for c in resolved.runs})
    console.print(
        f"{plural(len(to_train), 'run')} to train, {len(slots)} at once on {slots[0].split(':')[0]}: "
        f"N {', '.join(map(format_count, sizes))} × P {', '.join(map(str, streams))}{already}",
        soft_wrap=True,
    )


def render(snapshot: Snapshot) -> Group:
    """Return a table of the running tasks, and a bar for the whole sweep."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "step", "", "loss", "tokens/s", "left"):
        table.add_column(name, justify="left" if name in ("run", "") else "right", no_wrap=True)
    for run in snapshot.running:
        table.add_row(
            run.title,
            f"{run.step}/{run.steps}",
            ProgressBar(run.steps, run.step, width=18),
            "…" if run.loss is None else f"{run.loss:.3f}",
            "…" if run.tokens_per_s is None else format_count(run.tokens_per_s),
            "…" if run.left_s is None else format_seconds(run.left_s),
        )
    total = Table.grid(padding=(0, 2))
    total.add_row(ProgressBar(1.0, snapshot.fraction, width=30), snapshot.summary)
    return Group(table, total) if snapshot.running else Group(total)


def _describe(task: Task) -> str:
    return RunningTask.started(task).title


class _Lines:
    """Printer of one line per finished run, and of a summary: soon at first, then every half minute."""

    _SOON_S, _SUMMARY_S = 5.0, 30.0

    def __init__(self, tasks: list[Task], console: Console) -> None:
        self.tracker, self.console = Tracker(tasks), console
        self.printed_at, self.wait_s = time.monotonic(), self._SOON_S

    def __call__(self, event: Event) -> None:
        self.tracker.update(event)
        values = event.values
        if event.kind == "done" and not event.task.shared:
            self._print_line(
                f"done    {_describe(event.task)}  loss {values['loss']:.4f} ± {values['loss_stderr']:.4f}  "
                f"{format_count(values['tokens_per_s'])} tokens/s  ({self.tracker.snapshot().summary})"
            )
        elif event.kind == "failed":
            status = RunStatus(values["status"]).words.upper()
            self._print_line(f"{status}  {_describe(event.task)}  {values['message']}")
        elif event.kind == "lost":
            self._print_line(f"LOST    {_describe(event.task)}  {values['message']}; it will be trained again")
        elif event.kind == "progress" and time.monotonic() - self.printed_at > self.wait_s:
            self.wait_s = min(2 * self.wait_s, self._SUMMARY_S)
            self._print_line(f"running ({self.tracker.snapshot().summary})")

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def _print_line(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
        self.printed_at = time.monotonic()


class _LiveTable:
    """Live table of running runs and a bar for the sweep; finished runs are printed above it."""

    def __init__(self, tasks: list[Task], console: Console) -> None:
        self.tracker, self.console = Tracker(tasks), console
        self.live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._render)

    def __call__(self, event: Event) -> None:
        self.tracker.update(event)
        values = event.values
        if event.kind == "done" and not event.task.shared:
            self.live.console.print(
                f"✓ {_describe(event.task)}  loss {values['loss']:.4f} ± {values['loss_stderr']:.4f}  "
                f"{format_count(values['tokens_per_s'])} tokens/s",
                style="green",
                soft_wrap=True,
            )
        elif event.kind == "failed":
            self.live.console.print(
                f"✗ {_describe(event.task)}  {RunStatus(values['status']).words}: {values['message']}",
                style="red",
                soft_wrap=True,
            )
        elif event.kind == "lost":
            message = f"↻ {_describe(event.task)}  {values['message']}; it will be trained again"
            self.live.console.print(message, style="yellow", soft_wrap=True)

    def __enter__(self) -> _LiveTable:
        self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.live.stop()

    def _render(self) -> Group:
        return render(self.tracker.snapshot())
