"""Parts of reports: tables of text, and lines with a severity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scalelab.visible import visible

# text, strong and dim are part of the result; the others are notes about it and go to standard error.
Kind = Literal["text", "strong", "dim", "info", "warning", "serious", "left out"]
ASIDES: tuple[Kind, ...] = ("info", "warning", "serious", "left out")


@dataclass
class Table:
    """A table of text.

    Columns whose heading starts with ``<`` are aligned left; all others are numbers, aligned right. On narrow terminals
    the columns are split into several blocks, each with the first `keys` columns; with `drops`, columns that do not fit
    are left out and listed below.
    """

    title: str
    headings: Sequence[str]
    keys: int = 1
    drops: bool = False
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.title, self.headings = visible(self.title), [visible(heading) for heading in self.headings]

    def add(self, *cells: str) -> None:
        """Add a row.

        Raises:
            ValueError: The number of cells differs from the number of headings.
        """
        if len(cells) != len(self.headings):
            raise ValueError(f"{len(cells)} cells for {len(self.headings)} columns of {self.title!r}")
        self.rows.append(tuple(visible(cell, keep="") for cell in cells))

    def columns(self) -> list[tuple[str, bool, list[str]]]:
        """Return heading, left alignment and cells of each column."""
        return [
            (heading.removeprefix("<"), heading.startswith("<"), [row[i] for row in self.rows])
            for i, heading in enumerate(self.headings)
        ]


@dataclass(frozen=True)
class Line:
    """One or several sentences, or an empty line. Notes have a `code` for programs.

    An `equation` is broken at its outermost operators instead of between words.
    """

    text: str
    kind: Kind = "text"
    code: str = ""
    equation: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", visible(self.text))

    @property
    def is_aside(self) -> bool:
        """True if the line is a note about the result and not part of it."""
        return self.kind in ASIDES

    @property
    def words(self) -> str:
        """The text with its severity in front and its code behind."""
        label = {"info": "note: ", "warning": "warning: ", "serious": "serious: ", "left out": "left out: "}
        return f"{label.get(self.kind, '')}{self.text}{f' ({self.code})' if self.code else ''}"


@dataclass(frozen=True)
class Report:
    """Blocks in reading order."""

    blocks: tuple[Table | Line, ...]

    @classmethod
    def of(cls, blocks: Iterable[Table | Line]) -> Report:
        """Return a report of these blocks."""
        return cls(tuple(blocks))

    def __add__(self, other: Report) -> Report:
        return Report(self.blocks + other.blocks)

    def text(self, width: int = 100) -> str:
        """Return plain text with tables of at most `width` columns, if that is possible without breaking numbers."""
        from scalelab.reports.terminal import as_text

        return as_text(self, width)

    def html(self) -> str:
        """Return HTML for a notebook or a page."""
        from scalelab.reports.html import as_html

        return as_html(self)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()


def note_lines(notes: Iterable[Any]) -> list[Line]:
    """Return a line for each note of a fit, without duplicates."""
    once = {(note.code, note.message): note for note in notes}
    return [Line(note.message, note.severity, note.code) for note in once.values()]
