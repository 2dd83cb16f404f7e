"""Printing of results to standard output, and of notes and progress to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from scalelab.cli.flags import as_typed
from scalelab.errors import UsageError
from scalelab.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

    from scalelab.report.blocks import Report

_WIDTH = 100  # where there is no terminal


def stdout(broken_pipe_code: int = 0) -> Console:
    """Return the console of standard output.

    Names of corpora are text, so nothing in square brackets is taken for markup. Where the reader goes away
    (`| head`), the program ends with `broken_pipe_code`.
    """
    return _console(sys.stdout, broken_pipe_code)


def stderr(quiet: bool = False, broken_pipe_code: int = 0) -> Console:
    """Return the console of standard error, for progress, notes and warnings; with `quiet` it says nothing."""
    console = _console(sys.stderr, broken_pipe_code)
    console.quiet = quiet
    return console


def _console(file: TextIO, broken_pipe_code: int) -> Console:
    from rich.console import Console

    class _Output(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*(visible(o) if isinstance(o, str) else o for o in objects), **options)

        def on_broken_pipe(self) -> NoReturn:
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
            raise SystemExit(broken_pipe_code)

    width = None
    if not file.isatty():
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdigit() and int(columns) > 0 else _WIDTH
    return _Output(file=file, highlight=False, markup=False, width=width)


def show(
    result: Any,
    *,
    as_json: bool = False,
    out: Path | None = None,
    figure: Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> None:
    """Print a result, as a report or as JSON, and write it and its figure to files. `options` are of the report."""
    if as_json:
        stdout().out(json.dumps(result.to_dict(), indent=1), highlight=False)
        for text in getattr(result, "notes", ()):
            if isinstance(text, str):  # how it was made, which the JSON does not say; notes of fits stand in it
                told(f"note: {text}", quiet)
    else:
        show_report(result.report(**options), quiet)
    if out is not None:
        done = saved(out)
        write(result, out)
        told(done, quiet or as_json)
    if figure is not None:
        done = saved(figure)
        draw(result.plot(), figure)
        told(done, quiet or as_json)


def show_report(report: Report, quiet: bool = False) -> None:
    """Print a report: its result to standard output, notes and warnings to standard error."""
    from scalelab.report.terminal import print_report

    print_report(in_flags(report), stdout(), None if quiet else stderr())


def in_flags(report: Report) -> Report:
    """Return the report with flags where its sentences name arguments."""
    from scalelab.report.blocks import Line, Report

    lines = (replace(block, text=as_typed(block.text)) if isinstance(block, Line) else block for block in report.blocks)
    return Report.of(lines)


def told(text: str, quiet: bool = False) -> None:
    """Print a line to standard error."""
    if not quiet:
        print(visible(as_typed(text)), file=sys.stderr, flush=True)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """Yield what takes a stage and its share done: a line on a terminal, once the work takes longer than 2 seconds."""
    began, shown = monotonic(), False

    def line(stage: str, share: float) -> None:
        nonlocal shown
        if sys.stderr.isatty() and not quiet and monotonic() - began > 2:
            shown = True
            print(f"\r\033[K{stage}: {share:.0%}", end="", file=sys.stderr, flush=True)

    yield line
    if shown:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def check_out(out: Path | None, *read: str | Path | None) -> None:
    """Raise `UsageError` for a file that results cannot be written to, or that is `read`, before any work."""
    if out is None:
        return
    from scalelab.api.loading import check_file

    if out.suffix.lower() not in (".json", ".csv"):
        raise UsageError("end it in .json or .csv", argument="out", value=str(out))
    check_file(out, "out", *read)


def write(result: Any, out: Path) -> None:
    """Write a result to a file, completely or not at all: JSON, or CSV where the name ends so."""
    from scalelab.atomic import atomic_write

    is_csv = out.suffix.lower() == ".csv"
    text = as_csv(result.to_frame()) if is_csv else json.dumps(result.to_dict(), indent=1) + "\n"
    with atomic_write(out) as file:
        file.write(text.encode())


def as_csv(frame: Any) -> str:
    """Return a table as CSV, with its index where that says something."""
    return frame.to_csv(index=type(frame.index).__name__ != "RangeIndex")


def draw(drawn: Any, figure: Path) -> None:
    """Save a figure, or that of axes, in the format that the file's ending names."""
    from scalelab.plot.save import save_figure

    save_figure(drawn, figure)


def saved(path: Path) -> str:
    """Return the line to print once `path` is written; ask before writing."""
    return f"{'replaced' if path.exists() else 'saved'} {path}"
