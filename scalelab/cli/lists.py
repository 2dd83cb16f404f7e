"""Options with several values, written as `--P 1 2 4 8`, `--P 1 --P 2` or `--P 1,2,4,8`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperOption

from scalelab.errors import UsageError
from scalelab.units import parse_count

_NUMBER = re.compile(r"^-?[0-9.]")


class ListCommand(TyperCommand):
    """A command whose repeatable options take several values after one flag; its help shows no value for switches."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, --help among them, with nothing shown for the value of a switch."""
        params = super().get_params(ctx)
        for option in params:
            if isinstance(option, TyperOption) and option.is_flag and not option.metavar:
                option.metavar = ""
        return params

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments after `spread`."""
        flags = {flag for p in self.params if isinstance(p, TyperOption) and p.multiple for flag in p.opts}
        takes_path = any(not isinstance(p, TyperOption) for p in self.params)
        return super().parse_args(ctx, spread(list(args), flags, takes_path))


def spread(args: list[str], flags: set[str], takes_path: bool) -> list[str]:
    """Repeat the flag of a list option before each of its values.

    Values end at the next option. If the command also has an argument (`takes_path`), they end at a word after the
    first that looks like a path.
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
        elif current is not None and (result[-1] == current or not (takes_path and _is_path(word))):
            if result[-1] == current:  # its first value, which may be a path
                result.pop()
            result.append(f"{current}={word}")  # one word, so that -1 is parsed as a value
        else:
            current = None
            result.append(word)
    return result


def numbers(values: Mapping[str, str], argument: str) -> dict[str, float]:
    """Return the values as numbers.

    Raises:
        UsageError: A value is not a finite number. The message names the argument and the name.
    """
    return {name: _number(value, f"`{argument}` {name}") for name, value in values.items()}


def ranges(values: Mapping[str, str], argument: str) -> dict[str, tuple[float, float]]:
    """Return LOW:HIGH values as numbers; a missing end is infinite.

    Raises:
        UsageError: A value is not LOW:HIGH.
    """
    found = {}
    for name, text in values.items():
        low, colon, high = text.partition(":")
        where = f"`{argument}` {name}"
        if not colon:
            raise UsageError(f"{where}: give LOW:HIGH, LOW: or :HIGH")
        ends = (_number(low, where) if low else -math.inf, _number(high, where) if high else math.inf)
        found[name] = ends
    return found


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        try:
            value = parse_count(text)
        except UsageError:
            raise UsageError(f"{where}: {text!r} is not a number") from None
    if not math.isfinite(value):
        raise UsageError(f"{where}: {text!r} is not a finite number")
    return value


def pairs(values: Sequence[str] | None, flag: str) -> dict[str, str]:
    """Return NAME=VALUE words as a mapping.

    Raises:
        UsageError: A word is not NAME=VALUE, or a name is given twice.
    """
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
