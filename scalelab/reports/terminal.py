"""Rendering of reports as text, for terminals of any width and for files."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from textwrap import wrap as wrap_words
from typing import TYPE_CHECKING, Any

from scalelab.reports.blocks import Line, Report, Table

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"strong": "bold", "dim": "dim", "warning": "yellow", "serious": "bold red", "left out": "red"}
_INDENT = "    "  # of continuation lines
_GAP = 3  # characters between two columns


def as_text(report: Report, width: int) -> str:
    """Return the report as plain text."""
    from rich.console import Console

    written = StringIO()
    console = Console(file=written, width=width, highlight=False, markup=False, no_color=True)
    print_report(report, console, console, wrap=True)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def print_report(report: Report, out: Console, aside: Console | None, wrap: bool | None = None) -> None:
    """Print the result to `out` and its notes to `aside`; with None, notes are left out.

    With `wrap`, sentences are wrapped to the width; by default only on a terminal.
    """
    for block in report.blocks:
        if isinstance(block, Line):
            console = aside if block.is_aside else out
            if console is not None:
                _print_sentences(console, block, wrap)
        else:
            _print_sentences(out, Line(block.title, "strong"), wrap)
            for part, needed in parts(block, out.width):
                _print_whole(out, part, needed)
            if left_out := dropped(block, out.width):
                text = f"hidden columns: {', '.join(left_out)}; choose columns or widen the terminal"
                _print_sentences(out, Line(text, "dim"), wrap)


def _print_whole(console: Console, part: Any, needed: int) -> None:
    """Print a table without truncating numbers, even if its lines are longer than the terminal."""
    width = console.width
    if needed > width:
        console.width = needed
    console.print(part, crop=False)
    if needed > width:
        console.width = width


def _print_sentences(console: Console, line: Line, wrap: bool | None = None) -> None:
    """Print a line, wrapped on a terminal and in one piece elsewhere."""
    wrap = console.is_terminal if wrap is None else wrap
    if wrap and line.equation:
        text = "\n".join(broken_equation(line.words, console.width))
        console.print(text, style=_STYLES.get(line.kind, ""), soft_wrap=True)
        return
    console.print(line.words, style=_STYLES.get(line.kind, ""), soft_wrap=not wrap)


def broken_equation(text: str, width: int) -> Iterator[str]:
    """Yield an equation and the words after it in lines of at most `width` columns, if possible.

    Lines are broken before the last of the operators with the fewest brackets around them; later lines are indented.
    """
    if len(text) <= width:
        yield text
        return
    text, gap, words = text.partition("   (")
    indent = ""
    while len(text) > width:
        places = [(depth, -at) for at, depth in _operators(text) if len(indent) < at <= width]
        if not places:
            break
        at = -min(places)[1]
        yield text[:at].rstrip()
        indent = _INDENT
        text = indent + text[at:].lstrip()
    yield text
    if gap:
        yield from wrap_words(
            f"({words}", width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_long_words=False
        )


def _operators(text: str) -> Iterator[tuple[int, int]]:
    """Yield position and bracket depth of each operator; a product counts as one deeper than a sum."""
    depth = 0
    for at, letter in enumerate(text):
        if letter == " " and (text[at + 1 : at + 3] in ("+ ", "- ") or text[at - 1 : at] == ","):
            yield at, depth
        elif letter == "·":
            yield at, depth + 1
        depth += (letter == "(") - (letter == ")")


def render(report: Report, width: int) -> Iterator[Any]:
    """Yield the report as rich renderables."""
    from rich.text import Text

    for block in report.blocks:
        if isinstance(block, Line):
            yield Text(block.words, style=_STYLES.get(block.kind, ""))
        else:
            yield Text(block.title, style="bold")
            yield from (part for part, _ in parts(block, width))


def parts(table: Table, width: int) -> Iterator[tuple[Any, int]]:
    """Yield a table as one or several rich tables, with the width of each.

    Headings are wrapped between words; cells are never broken.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    for chosen in _parts(table, width):
        made = RichTable(box=SIMPLE_HEAD, pad_edge=False)
        for (heading, left, *_), exact in zip(chosen, _widths(chosen, width), strict=True):
            made.add_column(heading, justify="left" if left else "right", width=exact, no_wrap=left)
        for row in zip(*(cells for _, _, cells, _ in chosen), strict=True):
            made.add_row(*row)
        yield made, _needed(chosen)


def dropped(table: Table, width: int) -> list[str]:
    """Return the headings of the columns that do not fit into `width`, for a table that drops them."""
    shown = sum(len(part) for part in _parts(table, width)) if table.drops else len(table.headings)
    return [heading.removeprefix("<") for heading in table.headings[shown:]]


def _parts(table: Table, width: int) -> list[list[Any]]:
    columns = [(heading, left, cells, _width(heading, left, cells)) for heading, left, cells in table.columns()]
    if not table.drops:
        return _fitting(columns, table.keys, width)
    while len(columns) > table.keys and _needed(columns) > width:
        columns.pop()
    return [columns]


def _width(heading: str, left: bool, cells: list[str]) -> int:
    """Return the minimal width of a column that breaks no cell and no word of its heading."""
    from rich.cells import cell_len

    words = [heading] if left else heading.split() or [""]
    return max(cell_len(text) for text in (*words, *cells))


def _needed(columns: list[Any]) -> int:
    return sum(least for *_, least in columns) + _GAP * len(columns) - 1


def _widths(columns: list[Any], width: int) -> list[int]:
    """Return the width of each column, with headings on one line while there is room; rich would shrink cells."""
    from rich.cells import cell_len

    spare, widths = max(0, width - _needed(columns)), []
    for heading, _, _, least in columns:
        more = min(spare, max(0, cell_len(heading) - least))
        spare -= more
        widths.append(least + more)
    return widths


def _fitting(columns: list[Any], keys: int, width: int) -> list[list[Any]]:
    """Split columns into parts that fit, each with the key columns and about as many others."""
    fixed, rest = columns[:keys], columns[keys:]
    greedy: list[list[Any]] = [[*fixed]]
    for column in rest:
        if len(greedy[-1]) > len(fixed) and _needed([*greedy[-1], column]) > width:
            greedy.append([*fixed])
        greedy[-1].append(column)
    size = -(-len(rest) // len(greedy)) or 1
    even = [[*fixed, *rest[first : first + size]] for first in range(0, len(rest), size)]
    return even if even and all(_needed(part) <= width for part in even) else greedy
