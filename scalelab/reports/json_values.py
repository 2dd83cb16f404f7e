"""Conversion of results to values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from math import isfinite
from typing import Any


def as_json_value(value: Any) -> Any:
    """Return dataclasses as mappings, tuples as lists, and infinities as "inf", since JSON has none."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: as_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json_value(item) for item in value]
    if isinstance(value, float):
        return float(value) if isfinite(value) else str(float(value))
    return value
