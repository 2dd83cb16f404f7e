"""Output of the command line: results on standard output, notes and progress on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
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

    from scalelab.reports.blocks import Report

_WIDTH = 100  # columns without a terminal


def stdout(broken_pipe_code: int = 0) -> Console:
    """Return the console of standard output.

    Square brackets are not markup, since names of corpora may contain them. If the reader closes the pipe (`| head`),
    the program exits with `broken_pipe_code`.
    """
    return _console(sys.stdout, broken_pipe_code)


def stderr(quiet: bool = False, broken_pipe_code: int = 0) -> Console:
    """Return the console of standard error, for progress, notes and warnings; with `quiet` it prints nothing."""
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
    drawn: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **options: Any,
) -> None:
    """Print a result as a report or as JSON, and write it and its figure to files.

    Args:
        result: A result of the Python API.
        as_json: Print JSON instead of a report.
        out: JSON or CSV file to write.
        figure: Figure to save.
        drawn: Options of the figure, such as its size.
        quiet: Print no notes.
        options: Options of the report.
    """
    if as_json:
        stdout().out(json.dumps(result.to_dict(), indent=1), highlight=False)
        for text in getattr(result, "notes", ()):
            if isinstance(text, str):  # not in the JSON, unlike the notes of fits
                print_line(f"note: {text}", quiet)
    else:
        show_report(result.report(**options), quiet)
    if out is not None:
        done = saved_line(out)
        write(result, out)
        print_line(done, quiet or as_json)
    if figure is not None:
        done = saved_line(figure)
        save_figure(result.plot(**(drawn or {})), figure)
        print_line(done, quiet or as_json)


def show_report(report: Report, quiet: bool = False) -> None:
    """Print the result of a report to standard output, and its notes and warnings to standard error."""
    from scalelab.reports.terminal import print_report

    print_report(in_flags(report), stdout(), None if quiet else stderr())


def in_flags(report: Report) -> Report:
    """Return the report with flags in place of argument names."""
    from scalelab.reports.blocks import Line, Report

    lines = (replace(block, text=as_typed(block.text)) if isinstance(block, Line) else block for block in report.blocks)
    return Report.of(lines)


def print_line(text: str, quiet: bool = False) -> None:
    """Print a line to standard error, unless `quiet`."""
    if not quiet:
        print(visible(as_typed(text)), file=sys.stderr, flush=True)


def silence_stdout() -> None:
    """Write to nowhere from now on, after the reader has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """Yield a function of a stage and its completed fraction, which shows them on a terminal after 2 seconds."""
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
    """Raise `UsageError` if `out` cannot be written or is an input in `read`. Call it before the work."""
    if out is None:
        return
    from scalelab.api.loading import check_file

    if out.suffix.lower() not in (".json", ".csv"):
        raise UsageError("must end in .json or .csv", argument="out", value=str(out))
    check_file(out, "out", *read)


def check_figure(figure: Path | None, size: str | None, *read: str | Path | None, default: bool = False) -> None:
    """Raise `UsageError` if a figure cannot be written. Call it before the work.

    Args:
        figure: The figure, if any.
        size: Size of figures, if given.
        read: Input files, which must not be overwritten.
        default: The command draws a figure even if no file is given.
    """
    if figure is None and size is None:
        return
    if figure is None and not default:
        raise UsageError("needs `figure`", argument="figure_size", value=size)
    from scalelab.api import loading
    from scalelab.plot.style import SIZES

    if figure is not None:
        loading.check_figure(figure, "figure", *read)
    loading.check_choice("figure_size", size, SIZES)


def write(result: Any, out: Path) -> None:
    """Write a result to a JSON or CSV file, atomically."""
    from scalelab.atomic import write_text

    is_csv = out.suffix.lower() == ".csv"
    text = as_csv(result.to_frame()) if is_csv else json.dumps(result.to_dict(), indent=1) + "\n"
    write_text(out, text)


def as_csv(frame: Any) -> str:
    """Return a table as CSV, with its index unless that only counts rows."""
    return frame.to_csv(index=type(frame.index).__name__ != "RangeIndex")


def save_figure(drawn: Any, figure: Path) -> None:
    """Save a figure, or the figure of axes, in the format of the file name extension."""
    from scalelab.plot import save

    save.save_figure(drawn, figure)


def saved_line(path: Path) -> str:
    """Return the line to print after `path` is written. Call it before writing."""
    return f"{'replaced' if path.exists() else 'saved'} {path}"
