"""Parts of a report: tables of text, and lines that say how serious they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scalelab.visible import visible

# text, strong and dim belong to the result; the others tell something about it, and go to standard error.
Kind = Literal["text", "strong", "dim", "info", "warning", "serious", "left out"]
ASIDES: tuple[Kind, ...] = ("info", "warning", "serious", "left out")


@dataclass
class Table:
    """A table of text.

    A heading with a leading ``<`` puts its column to the left; the others are numbers, to the right. On a narrow
    terminal the columns go on in a second block, where the first `keys` of them stand again; with `drops` those that
    do not fit are named instead.
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
            ValueError: There are more or fewer cells than headings.
        """
        if len(cells) != len(self.headings):
            raise ValueError(f"{len(cells)} cells for {len(self.headings)} columns of {self.title!r}")
        self.rows.append(tuple(visible(cell, keep="") for cell in cells))

    def columns(self) -> list[tuple[str, bool, list[str]]]:
        """Return heading, whether it goes to the left, and cells of each column."""
        return [
            (heading.removeprefix("<"), heading.startswith("<"), [row[i] for row in self.rows])
            for i, heading in enumerate(self.headings)
        ]


@dataclass(frozen=True)
class Line:
    """A sentence or several; with `code` a note that programs know by it. A blank line is an empty text.

    An `equation` is broken at its operators, the outermost first, instead of between words.
    """

    text: str
    kind: Kind = "text"
    code: str = ""
    equation: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", visible(self.text))

    @property
    def is_aside(self) -> bool:
        """True of a line that tells something about the result and is no part of it."""
        return self.kind in ASIDES

    @property
    def words(self) -> str:
        """The line with its severity in words."""
        label = {"info": "note: ", "warning": "warning: ", "serious": "serious: ", "left out": "left out: "}
        return f"{label.get(self.kind, '')}{self.text}{f' ({self.code})' if self.code else ''}"


@dataclass(frozen=True)
class Report:
    """Blocks in the order in which they are read."""

    blocks: tuple[Table | Line, ...]

    @classmethod
    def of(cls, blocks: Iterable[Table | Line]) -> Report:
        """Return the report of these blocks."""
        return cls(tuple(blocks))

    def __add__(self, other: Report) -> Report:
        return Report(self.blocks + other.blocks)

    def text(self, width: int = 100) -> str:
        """Return plain text whose tables are at most `width` columns wide, where that is possible."""
        from scalelab.report.terminal import as_text

        return as_text(self, width)

    def html(self) -> str:
        """Return HTML for a notebook or a page."""
        from scalelab.report.html import as_html

        return as_html(self)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()


def note_lines(notes: Iterable[Any]) -> list[Line]:
    """Return a line for each note of a fit, those with the same words once."""
    once = {(note.code, note.message): note for note in notes}
    return [Line(note.message, note.severity, note.code) for note in once.values()]
