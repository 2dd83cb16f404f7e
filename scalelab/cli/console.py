"""Where tables are printed, and how they look."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def stdout() -> Console:
    """The console of standard output; 100 columns where it is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    return console


def make_table(*columns: str) -> Table:
    """A plain table, numbers to the right; a column named with a leading ``<`` goes left."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.removeprefix("<"), justify="left" if column.startswith("<") else "right")
    return table


def print_table(console: Console, title: str, table: Table) -> None:
    """A heading, never wrapped to the table's width, and the table."""
    console.print(title, style="bold", markup=False, soft_wrap=True)
    console.print(table)
