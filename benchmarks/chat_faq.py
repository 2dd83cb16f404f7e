"""Questions and answers of the Python FAQ, from the pages that Debian's package python3-doc installs.

Each page says that it is under the PSF License Version 2, and code in it also under the Zero-Clause BSD License.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

LICENCE = "PSF-2.0"
_INSTALLED = "python3*/html/faq/index.html"  # below /usr/share/doc
_VERSION = re.compile(r"(\d+\.\d+\.\d+) Documentation")
_BLOCKS = {"pre", "ul", "ol", "dl", "table", "blockquote", "div", "aside"}  # an answer ends before the first of them
_ASCII = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "..."})


@dataclass(frozen=True)
class Question:
    """A question with the first sentences of its answer; `section` names the page and the part of it."""

    section: str
    text: str
    answer: str


@dataclass
class _Section:
    """An open section of a page: its heading, its paragraphs before any other block, and if it has sections."""

    name: str
    heading: str = ""
    paragraphs: list[str] = field(default_factory=list)
    closed: bool = False
    inner: bool = False


class _Page(HTMLParser):
    """Collects heading and first paragraphs of each innermost section."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[_Section] = []
        self.found: list[tuple[str, _Section]] = []
        self.text: list[str] | None = None
        self.depth = 0  # of the blocks that end an answer
        self.hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "section":
            if self.open:
                self.open[-1].inner = self.open[-1].closed = True
            self.open.append(_Section(named.get("id") or ""))
        elif tag in _BLOCKS and self.open:
            self.depth += 1
            self.open[-1].closed = True
        elif tag in ("h1", "h2", "h3", "h4", "p") and self.open and self.depth == 0:
            self.text = []
        elif tag == "a" and "headerlink" in (named.get("class") or ""):
            self.hidden = True

    def handle_data(self, data: str) -> None:
        if self.text is not None and not self.hidden:
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self.hidden = False
        elif tag in _BLOCKS and self.depth:
            self.depth -= 1
        elif tag == "section" and self.open:
            section = self.open.pop()
            if not section.inner and self.open:
                self.found.append((self.open[-1].name, section))
        elif tag in ("h1", "h2", "h3", "h4", "p") and self.text is not None:
            text, self.text = " ".join("".join(self.text).translate(_ASCII).split()), None
            section = self.open[-1]
            if tag != "p":
                section.heading = text
            elif not section.closed:
                section.paragraphs.append(text)


def installed_faq() -> Path | None:
    """Return the folder of the newest installed pages; None without the package."""
    found = {index.parent.resolve() for index in Path("/usr/share/doc").glob(_INSTALLED)}
    return max(found, key=lambda folder: [int(part) for part in faq_version(folder).split(".")], default=None)


def faq_version(folder: Path) -> str:
    """Return the version of Python that the pages are about."""
    match = _VERSION.search((folder / "index.html").read_text(encoding="utf-8"))
    return match[1] if match else "0"


def questions(folder: Path, longest: int) -> Iterator[Question]:
    """Yield the questions whose answer begins with sentences of at most `longest` characters."""
    for file in sorted(folder.glob("*.html")):
        page = _Page()
        page.feed(file.read_text(encoding="utf-8"))
        for part, section in page.found:
            answer = first_sentences(section.paragraphs, longest)
            if section.heading and answer:
                yield Question(f"faq/{file.stem}/{part}", section.heading, answer)


def first_sentences(paragraphs: list[str], longest: int) -> str | None:
    """Return the whole sentences at the start that fit; None if they do not answer by themselves."""
    kept = ""
    for sentence in re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.) +(?=[A-Z\"'])", " ".join(paragraphs)):
        if len(kept) + len(sentence) + 1 > longest or sentence.endswith(":"):
            break
        kept = f"{kept} {sentence}".strip()
    complete = len(kept) >= 25 and kept[-1] in ".!?" and not kept.startswith("See ")
    return kept if complete else None
