"""Where tables are printed, and how they look."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def stdout(broken_pipe_code: int = 0) -> Console:
    """The console of standard output: 100 columns where it is no terminal, and text as it is.

    Names of corpora are text, so nothing in square brackets is taken for markup. Where the reader
    goes away (`| head`), the program ends with `broken_pipe_code`.
    """
    from rich.console import Console

    class _Output(Console):
        def on_broken_pipe(self) -> NoReturn:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(broken_pipe_code)

    width = None if sys.stdout.isatty() else 100
    return _Output(highlight=False, markup=False, width=width)


def print_text(console: Console, text: str, style: str = "") -> None:
    """Sentences: broken between words to a terminal's width, and elsewhere as they are, for other programs."""
    console.print(text, style=style, soft_wrap=not console.is_terminal)


def make_table(*columns: str) -> Table:
    """A plain table, numbers to the right; a column named with a leading ``<`` goes left."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        left = column.startswith("<")
        table.add_column(column.removeprefix("<"), justify="left" if left else "right", no_wrap=left)
    return table


def print_table(console: Console, title: str, table: Table) -> None:
    """A heading, of the terminal's width and not of the table's, and the table."""
    from rich.measure import Measurement

    print_text(console, title, "bold")
    # Rather a line too long for the terminal than figures cut short: headings wrap, at words, and nothing else.
    for column in table.columns:
        texts = [str(column.header), *map(str, column.cells)]
        column.min_width = max(
            len(part) for text in texts for part in ([text] if column.no_wrap else text.split() or [""])
        )
    needed = Measurement.get(console, console.options.update(max_width=1000), table).minimum
    console.print(table, width=max(needed, console.width), crop=False)
