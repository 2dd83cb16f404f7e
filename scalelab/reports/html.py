"""Rendering of reports as HTML with inline styles, for notebooks and pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from scalelab.reports.blocks import Line, Report, Table

# A page sets the variables by its theme; a notebook does not have them.
_SERIOUS, _MUTED = "var(--serious, #b00020)", "var(--muted, #707070)"
_COLOURS = {
    "warning": "var(--warning, #8a6d00)",
    "serious": _SERIOUS,
    "left out": _SERIOUS,
    "dim": _MUTED,
    "info": _MUTED,
}


def as_html(report: Report) -> str:
    """Return the report as one HTML element."""
    return f'<div class="scalelab">{"".join(_blocks(report))}</div>'


def _blocks(report: Report) -> Iterator[str]:
    for block in report.blocks:
        yield _line(block) if isinstance(block, Line) else _table(block)


def _line(line: Line) -> str:
    if not line.text.strip():
        return ""
    colour = f"color: {_COLOURS[line.kind]}; " if line.kind in _COLOURS else ""
    weight = "font-weight: bold; " if line.kind in ("strong", "serious") else ""
    text = with_code(line.words.strip()).replace("\n", "<br>")
    return f'<p style="{colour}{weight}margin: 0.3em 0">{text}</p>'


def with_code(text: str) -> str:
    """Return text as HTML, with what stands in backticks as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text))


def _table(table: Table) -> str:
    columns = table.columns()
    look = ["text-align: left" if left else "text-align: right" for _, left, _ in columns]
    head = "".join(
        f'<th style="{style}">{escape(heading)}</th>' for style, (heading, *_) in zip(look, columns, strict=True)
    )
    body = "".join(_row(row, look) for row in table.rows)
    title = escape(table.title.strip()).replace("\n", "<br>")
    return (
        '<div style="overflow-x: auto"><table>'
        f'<caption style="text-align: left; caption-side: top; font-weight: bold">{title}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: tuple[str, ...], look: list[str]) -> str:
    cells = zip(look, row, strict=True)
    inner = "".join(f'<td style="{style}; white-space: nowrap">{escape(cell)}</td>' for style, cell in cells)
    return f"<tr>{inner}</tr>"
