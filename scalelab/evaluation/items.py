"""Multiple-choice items from held-out text: the next line, a missing word, and brackets with indentation.

Items come only from the validation split of a corpus, which no run trains on, and depend only on that text and a seed.
Contexts end in a character that is not white space, so that a tokenizer can split there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from scalelab.errors import DataError

ITEMS = 400  # of a task
_CONTEXT_CHARS = 800  # longer than what the models of a sweep can read
_LEAST_CONTEXT = 60
_FEWEST = 20  # items, below which an accuracy says nothing
_LINE = (12, 70)  # characters of a line without its indentation
_WORD = re.compile(r"(?<![\w'\"])[A-Za-z_]\w{2,}")
_CLOSERS = re.compile(r"(?<=\w)[)\]}]{1,2}")
_INDENTS = (0, 4, 8, 12, 16)


@dataclass(frozen=True)
class Item:
    """A context, its possible continuations, and the number of the right one.

    `document` is the number of the held-out document; items of one document are not independent.
    """

    context: str
    choices: tuple[str, ...]
    answer: int
    document: int

    def as_dict(self) -> dict[str, Any]:
        """Return the item as plain values."""
        return asdict(self) | {"choices": list(self.choices)}


# Where the answer is judged by how much likelier the context makes it, since some lines are likely anywhere.
BY_GAIN = ("next-line",)

# A way to make an item of one position, or None where that is not possible.
_Make = Callable[[np.random.Generator], tuple[str, str, list[str]] | None]


@dataclass(frozen=True)
class _Text:
    """A held-out document, and the stripped lines of all documents by length, each with the number of its document."""

    text: str
    number: int
    lines: Mapping[int, Sequence[tuple[int, str]]]


def next_line(document: _Text) -> Iterator[_Make]:
    """Yield candidates: the next line, among lines of other documents with its indentation and about its length."""
    lines = document.text.splitlines()

    def make(i: int, rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
        context, truth = "\n".join(lines[max(0, i - 40) : i]).rstrip(), lines[i].strip()
        margin = max(2, len(truth) // 8)
        lengths = range(len(truth) - margin, len(truth) + margin + 1)
        pool = [line for n in lengths for number, line in document.lines.get(n, ()) if number != document.number]
        wrong = _draw(sorted({*pool} - {truth}), 3, rng)
        indent = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
        return None if wrong is None else (context, f"\n{indent}{truth}", [f"\n{indent}{line}" for line in wrong])

    yield from (partial(make, i) for i in range(1, len(lines)) if _is_good(lines[i]) and lines[i - 1].strip())


def _is_good(line: str) -> bool:
    return _LINE[0] <= len(line.strip()) <= _LINE[1]


def cloze(document: _Text) -> Iterator[_Make]:
    """Yield candidates: a missing word with the rest of its line, among other words of the same document."""
    text = document.text
    found = list(_WORD.finditer(text))
    words = [match[0] for match in found]

    def make(i: int, rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
        match, truth = found[i], words[i]
        before = text[: match.start()]
        context = before.rstrip(" ")
        gap = before[len(context) :]
        others = sorted({word for word in words if word != truth and abs(len(word) - len(truth)) <= 2})
        wrong = _draw(others, 3, rng)
        if wrong is None or not context or context[-1].isspace():
            return None
        rest = text[match.end() :].partition("\n")[0][:20]
        return context, f"{gap}{truth}{rest}", [f"{gap}{word}{rest}" for word in wrong]

    yield from (partial(make, i) for i in range(len(found)))


def brackets(document: _Text) -> Iterator[_Make]:
    """Yield candidates: closing brackets of another kind, or the next line with another indentation."""
    text = document.text

    def close(match: re.Match[str], rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
        truth = match[0]
        kinds = [a + b for a in ")]}" for b in (")]}" if len(truth) == 2 else [""])]
        wrong = _draw([kind for kind in kinds if kind != truth], 2, rng)
        return None if wrong is None else (text[: match.start()], truth, wrong)

    def indent(start: int, rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
        context, line = text[:start].rstrip(), text[start:].partition("\n")[0].rstrip()
        width = len(line) - len(line.lstrip(" "))
        wrong = _draw([n for n in _INDENTS if n != width], 2, rng)
        if wrong is None or width not in _INDENTS:
            return None
        return context, f"\n{line}", [f"\n{' ' * n}{line.strip()}" for n in wrong]

    closers = list(_CLOSERS.finditer(text))
    round_ones = [match for match in closers if set(match[0]) == {")"}]
    others = [match for match in closers if set(match[0]) != {")"}]
    # Most closing brackets are round: not more of them than others, so that a guess of the usual kind is often wrong.
    closers = others + round_ones[: max(1, len(others))]
    yield from (partial(close, match) for match in closers)
    starts = [match.end() for match in re.finditer(r"\S\n(?=[ ]*[^\s#])", text)]
    yield from (partial(indent, start) for start in starts[:: max(1, len(starts) // max(1, len(closers)))])


TASKS: dict[str, Callable[[_Text], Iterator[_Make]]] = {"next-line": next_line, "cloze": cloze, "brackets": brackets}


def make_items(task: str, documents: Sequence[str], source: str, count: int = ITEMS, seed: int = 0) -> list[Item]:
    """Return at most `count` items of a task, spread evenly over the documents.

    Args:
        task: Name in `TASKS`.
        documents: Held-out documents.
        source: Name of the corpus, for messages.
        count: The most items.
        seed: Seed of positions, wrong answers and their order.

    Raises:
        DataError: The text has too few places for the task.
    """
    rng = np.random.default_rng([seed, *task.encode()])
    lines: dict[int, list[tuple[int, str]]] = {}
    for number, text in enumerate(documents):
        for line in dict.fromkeys(map(str.strip, filter(_is_good, text.splitlines()))):
            lines.setdefault(len(line), []).append((number, line))
    queues = [_of_document(task, _Text(text, number, lines), rng) for number, text in enumerate(documents)]
    items: list[Item] = []
    while queues and len(items) < count:
        left = []
        for queue in queues:
            item = next(queue, None)
            if item is not None:
                items.append(item)
                left.append(queue)
        queues = left
    if len(items) < min(_FEWEST, count):
        raise DataError(
            f"{source}: the held-out text has places for only {len(items)} items of {task!r}, fewer than {_FEWEST}; "
            "give more text, or another task"
        )
    return items[:count]


def _of_document(task: str, document: _Text, rng: np.random.Generator) -> Iterator[Item]:
    """Yield the items of one document in random order."""
    candidates = list(TASKS[task](document))
    for i in rng.permutation(len(candidates)):
        made = candidates[i](rng)
        if made is None:
            continue
        context, truth, wrong = made
        context = context[-_CONTEXT_CHARS:]
        if len(context) < _LEAST_CONTEXT:
            continue
        answer = int(rng.integers(len(wrong) + 1))
        choices = (*wrong[:answer], truth, *wrong[answer:])
        yield Item(context, choices, answer, document.number)


def _draw(options: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any] | None:
    """Return `count` different ones of `options` in random order; None if there are too few."""
    if len(options) < count:
        return None
    return [options[i] for i in rng.choice(len(options), count, replace=False)]
