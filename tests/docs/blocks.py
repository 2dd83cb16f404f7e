"""Blocks of Markdown pages, and how to run them: what the tests of the documentation share.

A ```console block holds commands after ``$ `` and what they print. A ```python block that is followed by a ```text
block prints that. A block with title="FILE" is that file's content. ``<!-- not run: REASON -->`` above a block leaves
it out. In expected output ``[…]`` stands for anything on a line and, alone on a line, for any number of lines. Blank
lines and spaces at the ends of lines do not count.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

_FENCE = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'title="([^"]+)"')
_LEFT_OUT = re.compile(r"<!-- not run: (.+?) -->\s*\Z")
ANYTHING = "[…]"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    title: str
    text: str
    left_out: str  # why it is not run; empty where it is
    output: str | None  # of a python block: the text block right after it

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[tuple[str, str]]:
        """Commands of a console block with what they are to print."""
        command: list[str] = []
        output: list[str] = []
        for line in [*self.text.splitlines(), "$ "]:
            if line.startswith("$ "):
                if command:
                    yield "\n".join(command), "\n".join(output)
                command, output = [line[2:]], []
            elif line.startswith("> ") and not output and command[-1].endswith("\\"):
                command.append(line[2:])
            else:
                output.append(line)


def pages() -> list[Path]:
    """Return README.md and every page of docs/, but for signatures."""
    return [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "api.md")]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    made = []
    for match, after in zip(found, [*found[1:], None], strict=False):
        language, info, body = match.groups()
        title, reason = _TITLE.search(info), _LEFT_OUT.search(text[: match.start()])
        follows = after is not None and after[1] == "text" and not text[match.end() : after.start()].strip()
        made.append(
            Block(
                str(page.relative_to(ROOT)),
                text[: match.start()].count("\n") + 1,
                language,
                title[1] if title else "",
                body,
                reason[1] if reason else "",
                after[3] if after is not None and follows and language == "python" else None,
            )
        )
    return made


def lines_of(text: str) -> list[str]:
    """Return what counts in an output."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def agrees(expected: str, seen: str) -> bool:
    """Return whether an output is the expected one, with its gaps. Long numbers may differ by rounding."""
    pattern, numbers = "", []
    for line in lines_of(expected):
        if line.strip() == ANYTHING:
            pattern += r"(?:[^\n]*\n)*?"
            continue
        for i, part in enumerate(line.split(ANYTHING)):
            pattern += "[^\n]*" if i else ""
            words = _NUMBER.split(part)
            pattern += _CAPTURED.join(map(_loose, words))
            numbers += _NUMBER.findall(part)
        pattern += "\n"
    found = re.fullmatch(pattern, "".join(f"{line}\n" for line in lines_of(seen)))
    return found is not None and all(map(_close, numbers, found.groups()))


# Other processors sum in another order, which shows in the last digits.
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
_CAPTURED = r"(\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)"


def _loose(text: str) -> str:
    """Return a pattern for text in which gaps and rules may be wider, as numbers with another digit make them."""
    return re.sub(r"(?:\\ ){2,}", " +", re.sub(r"─+", "─+", re.escape(text)))


def _close(expected: str, seen: str) -> bool:
    """Return whether two numbers agree; those of three digits or more may differ by one in the last that is shown."""
    plain, _, exponent = expected.replace(",", "").partition("e")
    whole, _, decimals = plain.partition(".")
    if len(whole + decimals) < 3:
        return expected == seen
    zeros = 0 if decimals else len(whole) - len(whole.rstrip("0"))
    unit = 10.0 ** (zeros - len(decimals) + int(exponent or 0))
    return abs(float(expected.replace(",", "")) - float(seen.replace(",", ""))) <= 1.01 * unit


def run_command(command: str) -> str:
    """Run a command of a page in the current folder; return what it prints, errors included."""
    words = shlex.split(command, comments=True)
    if words[0] == "scalelab" and not {"|", "&&", ";", ">"} & set(words):
        return _run_here(words[1:])
    program = f"{shlex.quote(sys.executable)} -m scalelab"
    script = re.sub(r"\bscalelab(?= [a-z])", program, command)
    python = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": python},
    )
    return done.stdout


def _run_here(words: list[str]) -> str:
    """Run a scalelab command in this process, which spares the second that a new one takes to import."""
    from scalelab.cli import main

    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        main(words)
    return screen.getvalue()


def run_python(source: str, where: str, names: dict[str, object]) -> str:
    """Run a python block with the names of the page's earlier ones; return what it prints, without progress bars."""
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(source, where, "exec"), names)
    return screen.getvalue()
