"""The command `scalelab watch`: progress of the sweeps that write to a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalelab.cli.console import stdout
from scalelab.errors import UsageError
from scalelab.status import RunStatus
from scalelab.units import format_count, format_seconds
from scalelab.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, Group

    from scalelab.sweep.overview import FinishedRun, FolderWatcher, Overview
    from scalelab.sweep.state import SweepState


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that a sweep writes to.", metavar="DIR")],
    once: Annotated[bool, typer.Option("--once", help="Print the current state and exit.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between updates.")] = 2.0,
) -> None:
    """Show the sweeps that write to a folder until all have ended, from any machine that can read it.

    Sweeps whose process was killed are shown with their progress. Without a terminal the state is printed once.
    """
    # Imported here because --help needs neither rich nor pandas.
    from scalelab.sweep.overview import FolderWatcher, has_sweep

    if not 0.1 <= interval <= 3600:  # also for NaN
        raise UsageError(f"--interval {interval:g}: must be from 0.1 to 3600 seconds")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    if not has_sweep(folder):
        below = sorted(path.name for path in folder.iterdir() if path.is_dir() and has_sweep(path))
        advice = f"try {folder / below[0]}" if below else f"start one with: scalelab sweep --out {folder}"
        raise UsageError(f"{folder}: no sweep has written to this folder; {advice}")
    console, watcher = stdout(), FolderWatcher(folder)
    seen = watcher.poll()
    ended = "no sweep is running"
    if not once and console.is_terminal and not console.is_dumb_terminal and _running(seen):
        seen = _follow(console, watcher, seen, interval)
        ended = "all sweeps have ended"
    for line in _lines(seen):
        console.print(line, soft_wrap=True)
    if not _running(seen):
        console.print(ended)


def _follow(console: Console, watcher: FolderWatcher, seen: Overview, interval: float) -> Overview:
    """Show the state until no sweep is running, and return the last state."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True) as live:
        while _running(seen):
            live.update(_screen(seen), refresh=True)
            time.sleep(interval)
            seen = watcher.poll()
    return seen


def _running(seen: Overview) -> bool:
    return any(sweep.is_running for sweep in seen.sweeps)


def _screen(seen: Overview) -> Group:
    from rich.console import Group
    from rich.text import Text

    from scalelab.sweep.progress import render

    parts = []
    for sweep in seen.sweeps:
        if sweep.is_running:
            parts += [Text(visible(_head(sweep)), style="bold"), render(sweep.progress), Text()]
        else:
            parts += [Text(visible(_stopped(sweep)), style="yellow"), Text()]
    return Group(*parts, *(Text(visible(line), no_wrap=True, overflow="ellipsis") for line in _records(seen)))


def _lines(seen: Overview) -> Iterator[str]:
    for sweep in seen.sweeps:
        if not sweep.is_running:
            yield _stopped(sweep)
            continue
        yield f"{_head(sweep)}: {sweep.progress.summary}"
        for run in sweep.progress.running:
            parts = [f"  {run.title}  step {run.step}/{run.steps}"]
            if run.loss is not None:
                parts.append(f"loss {run.loss:.4f}")
            if run.tokens_per_s is not None and run.left_s is not None:
                parts.append(f"{format_count(run.tokens_per_s)} tokens/s  {format_seconds(run.left_s)} left")
            yield "  ".join(parts)
    yield from _records(seen)


def _head(sweep: SweepState) -> str:
    today = time.time() - sweep.started < 43_200
    started = time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", time.localtime(sweep.started))
    silent = f", no update for {format_seconds(sweep.age_s)}" if sweep.is_silent else ""
    how = "" if sweep.executor == "local" else f" by {sweep.executor}"
    return f"sweep {sweep.name} on {sweep.host} (process {sweep.pid}), {sweep.device}{how}, since {started}{silent}"


def _stopped(sweep: SweepState) -> str:
    return (
        f"sweep {sweep.name} on {sweep.host} (process {sweep.pid}): stopped {format_seconds(sweep.age_s)} ago, "
        f"{sweep.progress.done_of}; the same command resumes it"
    )


def _records(seen: Overview) -> Iterator[str]:
    """Yield the number of records by status, the latest records, and errors of files."""
    from scalelab.records.schema import describe_statuses

    yield f"records: {describe_statuses(seen.counts) or 'none yet'}"
    for run in seen.latest:
        yield _finished(run)
    yield from seen.faults


def _finished(run: FinishedRun) -> str:
    ago = "" if run.ended is None else f"{format_seconds(time.time() - run.ended)} ago"
    if run.loss is None or run.status != RunStatus.OK:
        end = f"{RunStatus(run.status).words}  {run.message}".rstrip()
    else:
        end = f"loss {run.loss:.4f}"
        end += "" if run.loss_stderr is None else f" ± {run.loss_stderr:.4f}"
        end += "" if run.tokens_per_s is None else f"  {format_count(run.tokens_per_s)} tokens/s"
    return f"  {ago:>10}  {run.title}  {end}"
