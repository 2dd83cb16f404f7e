"""Parsing and formatting of counts (50k, 0.2M, 7B, 1.5T), bytes (4GB) and durations (500ms)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from scalelab.errors import UsageError

_T = TypeVar("_T")
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_BYTES = {
    "b": 1.0,
    **{f"{letter}b": 1e3 ** (i + 1) for i, letter in enumerate("kmgt")},
    **{f"{letter}ib": 1024.0 ** (i + 1) for i, letter in enumerate("kmgt")},
}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_QUANTITY = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµ]*)\s*$", re.IGNORECASE)
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(,[0-9]{3})*,000")  # 7,000,000,000: no list of sizes ends in 000
_COUNT = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)\s*$", re.IGNORECASE)


def parse_count(text: str | float) -> float:
    """Return a positive count from text such as ``50k``, ``0.2M``, ``7B`` or ``1e6``.

    Raises:
        UsageError: The text is not a count, or the count is not positive and finite.
    """
    match = _COUNT.match(str(text))
    value = float(match[1]) * _FACTORS[match[2].lower()] if match else math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{text!r} is not a positive count such as 50k, 0.2M, 7B or 1e6")
    return value


def format_count(value: float, digits: int = 3) -> str:
    """Return a count with its unit letter, e.g. ``format_count(137_000) == '137k'``; from 10¹⁵ on as 1e15."""
    if abs(value) >= 1e15:
        return format_number(value, digits)
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{plain_number(value / factor, digits)}{letter}"
    return f"{value:.{digits}g}"


def format_number(value: float, digits: int = 4) -> str:
    """Return a number with `digits` significant digits, large and small ones as 1.131e7, not 1.131e+07."""
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def parse_bytes(text: str) -> float:
    """Return bytes from text such as ``4GB`` (10⁹) or ``4GiB`` (2³⁰).

    Raises:
        UsageError: The text is not a positive amount of memory, or has no unit.
    """
    return _quantity(text, _BYTES, "an amount of memory such as 512MB, 4GB (10⁹ bytes) or 4GiB (2³⁰)")


def parse_duration(text: str) -> float:
    """Return seconds from text such as ``500ms``, ``2s`` or ``1.5min``.

    Raises:
        UsageError: The text is not a positive duration, or has no unit.
    """
    return _quantity(text, _SECONDS, "a duration such as 500ms, 2s or 1.5min")


def _quantity(text: str, units: dict[str, float], meant: str) -> float:
    match = _QUANTITY.match(text)
    factor = units.get(match[2].lower()) if match else None
    value = float(match[1]) * factor if match and factor else math.nan
    if not (math.isfinite(value) and value > 0):
        missing = ": its unit is missing" if match and not match[2] else ""
        raise UsageError(f"{text!r} is not {meant}{missing}")
    return value


def format_bytes(value: float, binary: bool = True, digits: int = 3) -> str:
    """Return bytes as text: ``3.73 GiB``, or ``4 GB`` unless `binary`."""
    base, middle = (1024.0, "i") if binary else (1000.0, "")
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k")):
        if value >= base**power * (1 - 0.5 / 10**digits):
            letter = "K" if binary and letter == "k" else letter
            return f"{plain_number(value / base**power, digits)} {letter}{middle}B"
    return f"{plain_number(value, digits)} B"


def format_duration(seconds: float, digits: int = 3) -> str:
    """Return a duration as text such as ``12.5 ms`` or ``1.2 s``; from a minute on as `format_seconds` does."""
    if seconds >= 60:
        return format_seconds(seconds)
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor * (1 - 0.5 / 10**digits):
            return f"{plain_number(seconds / factor, digits)} {unit}"
    return f"{plain_number(seconds * 1e6, digits)} µs"


def plain_number(value: float, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, with all digits before the point and without an exponent."""
    # Rounded first: 999.9996 to 3 figures would be 1e+03.
    return f"{round(value):d}" if round(value) >= 10**digits else f"{value:.{digits}g}"


def format_seconds(seconds: float) -> str:
    """Return a duration as text: ``42s``, ``3m05s`` or ``2h10m``."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def format_interval(low: float | None, high: float | None, form: Callable[[float], str] = format_number) -> str:
    """Return an interval as text, ``4.50B–4.90B``. An end that is None or infinite is open: ``above 4.50B``."""
    low, high = (None if end is None or not math.isfinite(end) else end for end in (low, high))
    if low is None:
        return "open" if high is None else f"below {form(high)}"
    if high is None:
        return f"above {form(low)}"
    return f"{form(low)}{' to ' if low < 0 else '–'}{form(high)}"


def format_percent(share: float) -> str:
    """Return a share in whole per cents: ``80 %``."""
    return f"{100 * share:.0f} %"


def counts(values: Any, argument: str) -> tuple[float, ...]:
    """Return positive counts, such as 50k, from one value or several; text may hold several with commas.

    Raises:
        UsageError: A value is not a positive count. `argument` names the argument.
    """
    return tuple(_named(argument, parse_count, item) for item in _items(values, argument))


def whole_numbers(values: Any, argument: str, least: int = 1) -> tuple[int, ...]:
    """Return whole numbers of at least `least` from one value or several; text may hold several with commas.

    Raises:
        UsageError: A value is not such a number. `argument` names the argument.
    """

    def parse(item: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", item) or int(item) < least:
            raise UsageError(f"{item!r} is not a whole number of at least {least}")
        return int(item)

    return tuple(_named(argument, parse, item) for item in _items(values, argument))


def _items(values: Any, argument: str) -> list[str]:
    several = values if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    items = _joined([item.strip() for value in several for item in _text(value).split(",") if item.strip()], several)
    if not items:
        raise UsageError("needs at least one value", argument=argument)
    return items


def _text(value: Any) -> str:
    """Return a number of any library as text, a whole one without a point."""
    if isinstance(value, str):
        return value
    number = float(value) if hasattr(value, "__float__") else value
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _joined(items: list[str], several: Iterable[Any]) -> list[str]:
    """Return `items`, or a single item if the commas separate thousands, as in 7,000,000,000."""
    words = [str(value).strip() for value in several]
    if len(words) == 1 and _THOUSANDS.fullmatch(words[0]):
        return [words[0].replace(",", "")]
    return items


def _named(argument: str, parse: Callable[[str], _T], item: str) -> _T:
    try:
        return parse(item)
    except UsageError as error:
        raise UsageError(error.reason, argument=argument) from None


def one_count(value: Any, argument: str) -> float:
    """Return a positive count from a number or text such as 7B.

    Raises:
        UsageError: The value is not a positive count. `argument` names the argument.
    """
    return _named(argument, parse_count, value if isinstance(value, str) else _text(value))


def memory_bytes(value: str | float, argument: str = "memory") -> float:
    """Return bytes from a number, or from text with a unit such as 4GB.

    Raises:
        UsageError: The value is not a positive amount of memory. `argument` names the argument.
    """
    return _quantity_of(value, parse_bytes, argument)


def seconds(value: str | float, argument: str = "latency") -> float:
    """Return seconds from a number, or from text with a unit such as 500ms.

    Raises:
        UsageError: The value is not a positive duration. `argument` names the argument.
    """
    return _quantity_of(value, parse_duration, argument)


def _quantity_of(value: str | float, parse: Callable[[str], float], argument: str) -> float:
    if isinstance(value, str):
        return _named(argument, parse, value)
    if not (math.isfinite(value) and value > 0):
        raise UsageError("must be a number above 0", argument=argument, value=value)
    return float(value)


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: ``1 run``, ``2 runs``. `many` is an irregular plural, or a longer phrase."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def all_of(count: int, one: str, many: str | None = None) -> str:
    """Return "all" with a count and noun: ``the run``, ``all 4 runs``; `many` is as for `plural`."""
    return f"the {one}" if count == 1 else f"all {plural(count, one, many)}"
