"""Progress of a running sweep: a live table in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scalelab.reports.final_loss import forecast_text, rival_text
from scalelab.status import RunStatus
from scalelab.sweep.limits import MANY_PASSES
from scalelab.sweep.outlook import Forecaster, Outlook, Outlooks
from scalelab.sweep.overview import FolderWatcher
from scalelab.sweep.resolve import ResolvedSweep
from scalelab.sweep.tasks import Event, Task
from scalelab.sweep.tracker import RunningTask, Snapshot, Tracker
from scalelab.train.recipe import RunConfig
from scalelab.units import all_of, format_count, format_seconds, plural

_ROOMY, _MEDIUM = 112, 92  # columns of a terminal from which the table has all its columns, with and without forecasts
_MOST_NOTES = 4
_FORECAST_S = 3.0  # between two forecasts of the same sweep


class Progress(Protocol):
    """Receiver of a sweep's events, and a context manager around the whole sweep."""

    def __call__(self, event: Event) -> None:
        """Handle one event."""
        ...

    def __enter__(self) -> Progress: ...
    def __exit__(self, *exc: object) -> None: ...


def make_progress(tasks: list[Task], console: Console, out: Path | None = None) -> Progress:
    """Return a live table if the console is a terminal, else a printer of one line per event.

    With the folder `out` of the sweep they show forecasts of final losses, learned from the runs that ended there.
    """
    return (_LiveTable if console.is_terminal else _Lines)(tasks, console, out)


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


def render(snapshot: Snapshot, outlooks: Outlooks = {}, width: int = _ROOMY) -> Group:  # noqa: B006  # not changed
    """Return a table of the running tasks, notes on them, and a bar for the whole sweep.

    Args:
        snapshot: Progress of the sweep.
        outlooks: Forecasts of the final losses of running runs.
        width: Columns of the terminal. On narrow ones the table has no bars, and no speed beside a forecast.
    """
    total = Table.grid(padding=(0, 2))
    total.add_row(ProgressBar(1.0, snapshot.fraction, width=30 if width >= _MEDIUM else 10), snapshot.summary)
    if not snapshot.running:
        return Group(total)
    forecast = any(outlook.forecast.loss is not None for outlook in outlooks.values())
    bars, speed = width >= (_ROOMY if forecast else _MEDIUM), not forecast or width >= _ROOMY
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("run", no_wrap=True)
    table.add_column("step" if bars or speed else "done", justify="right", no_wrap=True)
    for name, shown in (("", bars), ("loss", True), ("final (95 %)", forecast), ("tokens/s", speed), ("left", True)):
        if shown:
            table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    notes = []
    for run in snapshot.running:
        outlook = None if run.facts is None else outlooks.get(run.facts)
        table.add_row(
            run.title,
            f"{run.step}/{run.steps}" if bars or speed else f"{run.step / run.steps:.0%}",
            *([ProgressBar(run.steps, run.step, width=18)] if bars else []),
            "…" if run.loss is None else f"{run.loss:.3f}",
            *(["…" if outlook is None else forecast_text(outlook.forecast)] if forecast else []),
            *(["…" if run.tokens_per_s is None else format_count(run.tokens_per_s)] if speed else []),
            "…" if run.left_s is None else format_seconds(run.left_s),
        )
        if (note := outlook_note(run, outlook)) is not None:
            notes.append(Text(note, style="dim", no_wrap=True, overflow="ellipsis"))
    more = len(notes) - _MOST_NOTES
    notes[_MOST_NOTES:] = [Text(f"and {plural(more, 'other run')} like these", style="dim")] if more > 0 else []
    return Group(table, *notes, total)


def outlook_note(run: RunningTask, outlook: Outlook | None) -> str | None:
    """Return which finished run `run` will not beat, or None."""
    if run.facts is None or outlook is None or outlook.rival is None:
        return None
    return f"{run.title} {rival_text(run.facts, outlook.rival)}"


class _Outlooks:
    """Forecasts of the running runs of a sweep, made in a background thread, so that the sweep never waits."""

    def __init__(self, out: Path | None) -> None:
        self._watcher = None if out is None else FolderWatcher(out)
        self._forecaster = Forecaster()
        self._known: Outlooks = {}
        self._thread: Thread | None = None
        self._made_at = -_FORECAST_S

    def of(self, running: Sequence[RunningTask]) -> Outlooks:
        """Return the latest forecasts, and start to make new ones if those are some seconds old."""
        if self._watcher is None or (self._thread is not None and self._thread.is_alive()):
            return self._known
        if running and time.monotonic() - self._made_at >= _FORECAST_S:
            self._thread = Thread(target=self._make, args=(self._watcher, running), name="forecasts", daemon=True)
            self._thread.start()
        return self._known

    def _make(self, watcher: FolderWatcher, running: Sequence[RunningTask]) -> None:
        with suppress(OSError):  # as for the state: the next poll may succeed
            self._known = self._forecaster.update(watcher.poll().ended, running)
        self._made_at = time.monotonic()


def _describe(task: Task) -> str:
    return RunningTask.started(task).title


class _Lines:
    """Printer of one line per finished run, and of a summary: soon at first, then every half minute."""

    _SOON_S, _SUMMARY_S = 5.0, 30.0

    def __init__(self, tasks: list[Task], console: Console, out: Path | None = None) -> None:
        self.tracker, self.console = Tracker(tasks), console
        self.outlooks, self.noted = _Outlooks(out), set[str]()
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
            snapshot = self.tracker.snapshot()
            self._print_line(f"running ({snapshot.summary})")
            self._print_notes(snapshot)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def _print_notes(self, snapshot: Snapshot) -> None:
        """Print once for each run which finished run it will not beat."""
        outlooks = self.outlooks.of(snapshot.running)
        for run in snapshot.running:
            outlook = None if run.facts is None else outlooks.get(run.facts)
            note = outlook_note(run, outlook)
            if outlook is not None and note is not None and run.title not in self.noted:
                self.noted.add(run.title)
                self._print_line(f"note: {note}: forecast {forecast_text(outlook.forecast)}")

    def _print_line(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
        self.printed_at = time.monotonic()


class _LiveTable:
    """Live table of running runs and a bar for the sweep; finished runs are printed above it."""

    def __init__(self, tasks: list[Task], console: Console, out: Path | None = None) -> None:
        self.tracker, self.console, self.outlooks = Tracker(tasks), console, _Outlooks(out)
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
        snapshot = self.tracker.snapshot()
        return render(snapshot, self.outlooks.of(snapshot.running), self.console.width)
