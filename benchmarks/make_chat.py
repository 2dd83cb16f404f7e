"""A small set of questions and answers from docstrings of permissively licensed packages on this machine.

    python benchmarks/make_chat.py FOLDER

FOLDER gets train.jsonl and validation.jsonl (conversations), preferences/ (with answers about other objects of the
same module as rejected ones) and sources.csv, which names package, version, licence and split of every module. All
conversations about a module are on one side of the split.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
HELD_OUT = 0.12  # of the modules
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
    """Return one or two questions about an object with their answers; every third has a system message."""
    asked = (f"What does {name} do?", f"What is {name} for?", f"Explain {name} in Python.")[number % 3]
    messages = [{"role": "system", "content": SYSTEM}] if number % 3 == 0 else []
    messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": text}]
    if signature and number % 2:
        messages += [{"role": "user", "content": "How do I call it?"}, {"role": "assistant", "content": signature}]
    return messages


def main(out: Path) -> None:
    """Write the data."""
    rows: dict[str, list[Any]] = {"train": [], "validation": []}
    pairs: dict[str, list[Any]] = {"train": [], "validation": []}
    sources, seen = [], set()
    for package, (licence, number, modules) in PACKAGES.items():
        for module in modules.split():
            side = (
                "validation" if int(hashlib.sha256(module.encode()).hexdigest()[:8], 16) < HELD_OUT * 2**32 else "train"
            )
            found = []
            for name, text, signature in entries(module):
                if text not in seen:  # a function under two names, or inherited documentation
                    seen.add(text)
                    found.append((name, text, signature))
            for i, (name, text, signature) in enumerate(found):
                rows[side].append({"messages": conversation(name, text, signature, i), "source": module})
                if len(found) > 1:
                    prompt = [{"role": "user", "content": f"What does {name} do?"}]
                    answers = (text, found[(i + 1) % len(found)][1])
                    chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in answers)
                    pairs[side].append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
            if found:
                sources.append((module, package, number, licence, side, len(found)))
    for folder, sides in ((out, rows), (out / "preferences", pairs)):
        folder.mkdir(parents=True, exist_ok=True)
        for side, content in sides.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
            (folder / f"{side}.jsonl").write_text(lines, encoding="utf-8")
    with (out / "sources.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("module", "package", "version", "licence", "split", "conversations"), *sources])
    counts = ", ".join(f"{len(rows[side])} {side} conversations" for side in rows)
    print(f"{out}: {counts} from {len(sources)} modules; licences in sources.csv")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # deprecated names of other packages
    main(Path(sys.argv[1]))
