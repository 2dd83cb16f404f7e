"""Contents of a page, read as a browser reads them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._cell: str | None = None
        self._skipped = 0

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ""
        if tag in ("script", "style"):
            self._skipped += 1

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(self._cell)
            self._cell = None
        if tag in ("script", "style"):
            self._skipped -= 1

    def handle_data(self, data):
        if self._skipped:
            return
        self.text += data
        if self._cell is not None:
            self._cell += data


def parsed(path: Path) -> _Parser:
    """Return tags, rows of tables and text of a page."""
    parser = _Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def data_of(path: Path) -> Any:
    """Return the data block of a page."""
    found = re.search(r'<script type="application/json" id="scalelab-data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def without_scripts(path: Path) -> str:
    """Return the source of a page without scripts and data."""
    return re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
