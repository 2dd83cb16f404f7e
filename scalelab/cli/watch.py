"""The command `scalelab watch`: progress of the sweeps that write to a folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalelab.cli.console import stdout
from scalelab.cli.options import AsJson
from scalelab.errors import UsageError
from scalelab.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, Group

    from scalelab.api.watching import FolderWatch, Watched


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that a sweep writes to.", metavar="DIR")],
    once: Annotated[bool, typer.Option("--once", help="Print the current state and exit.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between updates.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show the sweeps that write to a folder until all have ended, from any machine that can read it.

    Final losses of running runs are forecast from five or more finished runs of the folder, with 95 % intervals. Sweeps
    whose process was killed are shown with their progress. Without a terminal the state is printed once.
    """
    # Imported here because --help needs neither rich nor pandas.
    from scalelab.api.watching import FolderWatch
    from scalelab.reports.watching import watched_lines

    if not 0.1 <= interval <= 3600:  # also for NaN
        raise UsageError(f"--interval {interval:g}: must be from 0.1 to 3600 seconds")
    watcher = FolderWatch(folder)
    console, seen = stdout(), watcher.poll()
    if as_json:
        console.out(json.dumps(seen.to_dict(), indent=1), highlight=False)
        return
    ended = "no sweep is running"
    if not once and console.is_terminal and not console.is_dumb_terminal and seen.is_running:
        seen = _follow(console, watcher, seen, interval)
        ended = "all sweeps have ended"
    for line in watched_lines(seen):
        console.print(line, soft_wrap=True)
    if not seen.is_running:
        console.print(ended)


def _follow(console: Console, watcher: FolderWatch, seen: Watched, interval: float) -> Watched:
    """Show the state until no sweep is running, and return the last state."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True) as live:
        while seen.is_running:
            live.update(_screen(seen, console.width), refresh=True)
            time.sleep(interval)
            seen = watcher.poll()
    return seen


def _screen(seen: Watched, width: int) -> Group:
    from rich.console import Group
    from rich.text import Text

    from scalelab.reports.watching import records_lines, running_line, stopped_line
    from scalelab.sweep.progress import render

    parts = []
    for sweep in seen.sweeps:
        if sweep.is_running:
            table = render(sweep.progress, seen.outlooks, width)
            parts += [Text(visible(running_line(sweep)), style="bold"), table, Text()]
        else:
            parts += [Text(visible(stopped_line(sweep)), style="yellow"), Text()]
    return Group(*parts, *(Text(visible(line), no_wrap=True, overflow="ellipsis") for line in records_lines(seen)))
