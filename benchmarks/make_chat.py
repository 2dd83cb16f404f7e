"""A small set of questions and answers from docstrings and the Python FAQ on this machine, which may be copied.

    python -m benchmarks.make_chat FOLDER [FAQ]

FAQ is a folder of its HTML pages; by default the one that Debian's package python3-doc installs, if it is there. FOLDER
gets train.jsonl and validation.jsonl (conversations), preferences/ (with answers to other questions about the same
source as rejected ones) and sources.csv, which names package, version, licence and split of every source. A source is a
module or a section of the FAQ; all conversations from it are on one side of the split. Each row names both.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import inspect
import json
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import chat_faq

STDLIB = """
    abc argparse array ast asyncio base64 bisect bz2 calendar cmath cmd codecs collections colorsys
    concurrent.futures configparser contextlib contextvars copy csv ctypes dataclasses datetime decimal difflib
    dis doctest email enum filecmp fileinput fnmatch fractions functools gc getopt getpass gettext glob graphlib
    gzip hashlib heapq hmac html http imaplib inspect io ipaddress itertools json keyword linecache locale logging
    lzma mailbox math mimetypes multiprocessing numbers operator os os.path pathlib pickle pickletools pkgutil
    platform plistlib poplib pprint profile pstats queue quopri random re reprlib runpy sched secrets select
    selectors shelve shlex shutil signal smtplib socket sqlite3 ssl stat statistics string struct subprocess
    symtable sys sysconfig tarfile tempfile textwrap threading time timeit token tokenize trace traceback
    tracemalloc types typing unicodedata unittest unittest.mock urllib.parse urllib.request uuid warnings wave
    weakref webbrowser xml.dom.minidom xml.etree.ElementTree xml.sax zipapp zipfile zipimport zlib zoneinfo
"""
NUMPY = """
    numpy numpy.fft numpy.linalg numpy.ma numpy.polynomial numpy.random numpy.testing numpy.char numpy.strings
    numpy.lib.format numpy.lib.stride_tricks numpy.lib.scimath
"""
HELD_OUT = 0.12  # of the sources
LONGEST = 320  # characters of an answer
SYSTEM = "You answer questions about Python and NumPy in one or two sentences."
# Docstrings of the standard library and of NumPy may be copied with their licences.
PACKAGES = {
    "Python": ("PSF-2.0", platform.python_version(), STDLIB),
    "NumPy": ("BSD-3-Clause", version("numpy"), NUMPY),
}


def summary(text: str) -> str | None:
    """Return the first paragraph of a docstring as one line, without the signature that C code puts there."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", inspect.cleandoc(text))]
    if len(paragraphs) > 1 and re.match(r"[\w.]+\(.*\)( ->.*)?$", paragraphs[0]):
        paragraphs = paragraphs[1:]
    first = paragraphs[0] if paragraphs else ""
    if not 25 <= len(first) <= LONGEST or not first[0].isalpha() or first.startswith("Built-in"):
        return None
    return first if first.endswith((".", "!", "?", ":")) else first + "."


def entries(name: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield name, summary and signature of the public functions and classes of a module."""
    module: Any = importlib.import_module(name)
    public = getattr(module, "__all__", None) or [key for key in vars(module) if not key.startswith("_")]
    for key in sorted(set(public)):
        found = getattr(module, key, None)
        if not callable(found) or not str(getattr(found, "__module__", name) or name).startswith(name.split(".")[0]):
            continue
        text = summary(found.__doc__) if isinstance(found.__doc__, str) else None
        if text is None:
            continue
        try:
            signature = f"{name}.{key}{inspect.signature(found)}"
        except (ValueError, TypeError):
            signature = None
        plain = signature is not None and len(signature) <= 120 and " at 0x" not in signature
        yield f"{name}.{key}", text, signature if plain else None


def conversation(name: str, text: str, signature: str | None, number: int) -> list[dict[str, str]]:
    """Return one or two questions about an object with their answers."""
    asked = (f"What does {name} do?", f"What is {name} for?", f"Explain {name} in Python.")[number % 3]
    follow_up = ["How do I call it?", signature] if signature and number % 2 else []
    return talk(number, asked, text, *follow_up)


def talk(number: int, *texts: str) -> list[dict[str, str]]:
    """Return messages of user and assistant in turn; every third conversation has a system message."""
    head = [{"role": "system", "content": SYSTEM}] if number % 3 == 0 else []
    return head + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@dataclass(frozen=True)
class Source:
    """A module or a section of the FAQ, with its conversations and its questions with their answers."""

    name: str
    package: str
    version: str
    licence: str
    conversations: list[list[dict[str, str]]] = field(default_factory=list)
    answers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def side(self) -> str:
        """Split that all of it is on."""
        drawn = int(hashlib.sha256(self.name.encode()).hexdigest()[:8], 16)
        return "validation" if drawn < HELD_OUT * 2**32 else "train"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the conversations as rows."""
        for messages in self.conversations:
            yield {"messages": messages, "source": self.name, "licence": self.licence}

    def pairs(self) -> Iterator[dict[str, Any]]:
        """Yield preferences: the answer to a question over the answer to the next."""
        for i, (question, answer) in enumerate(self.answers if len(self.answers) > 1 else []):
            other = self.answers[(i + 1) % len(self.answers)][1]
            chosen, rejected = ([{"role": "assistant", "content": text}] for text in (answer, other))
            prompt = [{"role": "user", "content": question}]
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, "source": self.name}


def from_modules() -> Iterator[Source]:
    """Yield the modules of all packages."""
    seen = set()
    for package, (licence, number, modules) in PACKAGES.items():
        for name in modules.split():
            source = Source(name, package, number, licence)
            for key, text, signature in entries(name):
                if text not in seen:  # a function under two names, or inherited documentation
                    seen.add(text)
                    source.conversations.append(conversation(key, text, signature, len(source.answers)))
                    source.answers.append((f"What does {key} do?", text))
            yield source


def from_faq(folder: Path) -> Iterator[Source]:
    """Yield the sections of the FAQ in `folder`."""
    number, sources, seen = chat_faq.faq_version(folder), {}, set()
    for i, question in enumerate(chat_faq.questions(folder, LONGEST)):
        if question.text in seen:  # in two sections, which may be on different sides
            continue
        seen.add(question.text)
        new = Source(question.section, "Python FAQ", number, chat_faq.LICENCE)
        source = sources.setdefault(question.section, new)
        source.conversations.append(talk(i, question.text, question.answer))
        source.answers.append((question.text, question.answer))
    yield from sources.values()


def main(out: Path, faq: Path | None) -> None:
    """Write the data."""
    sources = [*from_modules(), *(from_faq(faq) if faq else [])]
    sources = [source for source in sources if source.conversations]
    for folder, kind in ((out, Source.rows), (out / "preferences", Source.pairs)):
        folder.mkdir(parents=True, exist_ok=True)
        for side in ("train", "validation"):
            content = [row for source in sources if source.side == side for row in kind(source)]
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
            (folder / f"{side}.jsonl").write_text(lines, encoding="utf-8")
    with (out / "sources.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("source", "package", "version", "licence", "split", "conversations"))
        table.writerows((s.name, s.package, s.version, s.licence, s.side, len(s.conversations)) for s in sources)
    for package in dict.fromkeys(source.package for source in sources):
        own = [source for source in sources if source.package == package]
        counts = {side: sum(len(s.conversations) for s in own if s.side == side) for side in ("train", "validation")}
        print(f"{package}: {counts['train']} train, {counts['validation']} validation, from {len(own)} sources")
    if faq is None:
        print("no FAQ: install Debian's package python3-doc, or name a folder with the FAQ's pages")
    print(f"{out}: licences in sources.csv")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # deprecated names of other packages
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else chat_faq.installed_faq())
