"""Options that take many values: `--P 1 2 4 8`, `--P 1 --P 2` and `--P 1,2,4,8` alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from scalelab.errors import UsageError
from scalelab.units import format_count

_NUMBER = re.compile(r"^-?[0-9.]")


class ListCommand(TyperCommand):
    """A command whose repeatable options also take several values after one flag."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        flags = {flag for p in self.params if isinstance(p, TyperOption) and p.multiple for flag in p.opts}
        takes_path = any(not isinstance(p, TyperOption) for p in self.params)
        return super().parse_args(ctx, spread(list(args), flags, takes_path))


def list_option(flag: str, text: str, default: Sequence[float] = (), metavar: str = "VALUE…") -> Any:
    """A Typer option that takes many values; the command gets them as typed, or None."""
    shown = " ".join(format_count(value) for value in default)
    return typer.Option(flag, help=text, metavar=metavar, show_default=shown or False)


def spread(args: list[str], flags: set[str], takes_path: bool) -> list[str]:
    """`args` with the flag repeated before each of its values.

    Values end at the next option. They also end, where the command has an argument of its own
    (`takes_path`), at a word that is clearly that and no value: a path.
    """
    result: list[str] = []
    current: str | None = None
    for position, word in enumerate(args):
        if word == "--":
            return result + args[position:]
        if word.startswith("-") and not _NUMBER.match(word):
            name = word.split("=", 1)[0]
            current = name if name in flags else None
            result.append(word)
        elif current is not None and not (takes_path and _is_path(word)):
            if result[-1] == current:  # its first value
                result.pop()
            result.append(f"{current}={word}")  # one word, so that -1 is seen as a value
        else:
            current = None
            result.append(word)
    return result


def pairs(values: Sequence[str] | None, flag: str) -> dict[str, str]:
    """NAME=VALUE words as a mapping. Raises `UsageError` naming the flag and the word."""
    result = {}
    for word in values or ():
        name, sign, value = word.partition("=")
        if not (name and sign and value):
            raise UsageError(f"{flag} {word}: give NAME=VALUE")
        if name in result:
            raise UsageError(f"{flag}: {name} is given twice")
        result[name] = value
    return result


def _is_path(word: str) -> bool:
    return (
        "=" not in word
        and not _NUMBER.match(word)
        and ("/" in word or "\\" in word or "." in word or Path(word).exists())
    )
