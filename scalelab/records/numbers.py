"""Parse numbers in tables: 7B, 300 billion, 125M params, 1,000,000, 3,14, 12 %, 3.2 ± 0.1."""

from __future__ import annotations

import re
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd

_WORDS = {
    **dict.fromkeys(("k", "thousand"), 1e3),
    **dict.fromkeys(("m", "mn", "mio", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "g", "bn", "billion", "billions"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
    "": 1.0,
}
_UNITS = r"(?:param(?:eter)?s?|tok(?:en)?s?|flops?|flop/s|nats?|bits?|seqs?|sequences)"
_NUMBER = re.compile(
    r"^[~≈<>]?\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*"
    r"(?:[x×·*]\s*10\s*(?:\^|\*\*)?\s*([+-]?\d+))?\s*"
    rf"([a-z]*?)\s*{_UNITS}?\s*(%?)$",
    re.IGNORECASE,
)
_ERROR = re.compile(r"\s*(?:±|\+/-|\+-|\\pm)\s*\S.*$|\s*\([\d.,]+\)$")  # "± 0.1", or an error in brackets
_THOUSANDS = re.compile(r"^[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?$")
_DOTTED = re.compile(r"^[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?$")
_COMMA = re.compile(r"^[+-]?\d*,\d+(?:e[+-]?\d+)?$", re.IGNORECASE)
_GAPS = re.compile(r"(?<=\d)[ _'\u00a0\u2009\u202f](?=\d{3}(?:\D|$))")


def to_floats(column: pd.Series) -> pd.Series:
    """Return `column` as floats: NaN if a cell is not a number, infinity if it is too large."""
    cells = column.map(_stripped)
    commas = decimal_comma(cells)
    return pd.to_numeric(cells.map(lambda v: _one(v, commas)), errors="coerce").astype(float)


def decimal_comma(cells: pd.Series) -> bool:
    """Return true if a column has decimal commas (3,14): some comma cannot separate thousands, no cell has a point."""
    texts = [v for v in cells if isinstance(v, str)]
    if any(_DOTTED.match(v) and "," in v for v in texts):
        return True
    some = any(_COMMA.match(v) and not _THOUSANDS.match(v) for v in texts)
    return some and not any("." in v and not _DOTTED.match(v) for v in texts)


def _stripped(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = _GAPS.sub("", _ERROR.sub("", value.strip()))
    return text or None


def _one(value: object, commas: bool) -> float | None:
    if isinstance(value, str):
        text = value
        if commas and (_COMMA.match(text) or _DOTTED.match(text)):
            text = text.replace(".", "").replace(",", ".")
        elif re.match(r"^[+-]?\d{1,3}(?:,\d{3})+(?!\d)", text):
            text = text.replace(",", "")
        match = _NUMBER.match(text)
        if match is None:
            return np.inf if text.lower() in ("inf", "infinity", "+inf") else None
        factor = _WORDS.get(match[3].lower())
        if factor is None:
            return None
        power = 10.0 ** int(match[2]) if match[2] and abs(int(match[2])) < 300 else 1.0
        return float(match[1]) * power * factor / (100.0 if match[4] else 1.0)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, Decimal)):
        return None  # a date, a list, a complex number
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return np.inf
