"""Counts with a unit letter, read and written: 50k, 0.2M, 7B, 1.5T."""

from __future__ import annotations

import math
import re

from scalelab.errors import UsageError

_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_COUNT = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)\s*$", re.IGNORECASE)


def parse_count(text: str | float) -> float:
    """A positive count from text such as ``50k``, ``0.2M``, ``7B`` or ``1e6``.

    Raises `UsageError` if the text is no count or the count is not positive and finite.
    """
    match = _COUNT.match(str(text))
    value = float(match[1]) * _FACTORS[match[2].lower()] if match else math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{text!r} is not a positive count such as 50k, 0.2M, 7B or 1e6")
    return value


def format_count(value: float, digits: int = 3) -> str:
    """The shortest usual spelling of a count, e.g. ``format_count(137_000) == '137k'``."""
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.{digits}g}{letter}"
    return f"{value:.{digits}g}"


def format_seconds(seconds: float) -> str:
    """A duration as a person reads it: ``42s``, ``3m05s`` or ``2h10m``."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
