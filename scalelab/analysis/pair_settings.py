"""Settings of runs, from their configurations or from the columns of a table, and the levels that they have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scalelab.errors import UsageError
from scalelab.later_options import with_later_options
from scalelab.units import format_count, parse_count

if TYPE_CHECKING:
    from scalelab.laws.base import Array

PREVIOUS = "previous"
_FIELDS = {"n_streams": "P", "n_tokens": "D", "peak_lr": "lr"}
# Columns of a table that settle a run, if it has no `config`. Of the definitions of N the first that is there counts.
_SIZES = ("n_params_backbone", "n_params", "n_params_total")
SHAPE = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads")  # which go with N
_SETTINGS = (
    *("n_tokens", "n_streams", "seed", "peak_lr", "batch_size", "n_experts", "n_tokens_unique"),
    *("setup", "corpus", "tokenizer"),
)


def settings_of(records: pd.DataFrame) -> pd.DataFrame:
    """Return what settles each run: its `config`, or the columns of `_SETTINGS`; P, D and lr go by these names."""
    size = next((name for name in _SIZES if name in records and records[name].notna().all()), None)
    if "config" in records and records["config"].notna().all():
        rows = [_flat(with_later_options(json.loads(text))) for text in records["config"]]
        found = pd.DataFrame(rows, index=records.index).rename(columns={"n_tokens": "D"})
        found.loc[found["backbone_digest"] != "", "single_prefix"] = False  # P = 1 always has a prefix there
        for name in ("corpus", "tokenizer", "backbone"):  # a renamed folder has the same content
            if f"{name}_digest" in found:
                found[name] = found.groupby(f"{name}_digest")[name].transform("first")
        return found if size is None else found.assign(N=records[size])
    names = [name for name in (size, *_SETTINGS) if name in records and records[name].notna().any()]
    return records[names].rename(columns={**dict.fromkeys(_SIZES, "N"), **_FIELDS})


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in config.items():
        made |= _flat(value) if isinstance(value, dict) else {name: str(value) if isinstance(value, list) else value}
    return made


def chosen_level(baseline: Any, levels: Sequence[Any]) -> Any:
    """Return the level that `baseline` means. Raises `UsageError` if no run has it."""
    if baseline is None:
        return levels[0]
    if baseline == PREVIOUS:
        return PREVIOUS
    for level in levels:
        if level == baseline or _number(str(baseline)) == level:
            return level
    listed = ", ".join(map(_text, levels))
    raise UsageError(f"no run has it; choose {PREVIOUS} or one of {listed}", argument="baseline", value=baseline)


def _number(text: str) -> Any:
    """Return the number that `text` is, such as 0, 0.01 or 50k, or else the text."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parse_count(text)
    except UsageError:
        return text


def level_order(value: Any) -> tuple[bool, Any]:
    """Return the key that sorts levels: numbers before text."""
    return isinstance(value, str), value


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def level_text(value: Any) -> str:
    """Return a level as text, such as ``8``, ``0.01`` or ``1M``."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return format_count(float(value)) if number and value >= 10_000 else _text(value)


def values_of(records: pd.DataFrame, column: str) -> Array:
    """Return the numbers of a column. Raises `UsageError` if it has none."""
    numbers = [str(name) for name in records if pd.api.types.is_numeric_dtype(records[name])]
    if column not in numbers:
        numbers = [name for name in numbers if records[name].notna().any()]
        raise UsageError(f"no such column of numbers; choose from {', '.join(numbers)}", argument="value", value=column)
    values = records[column].to_numpy(dtype=float, na_value=np.nan)
    if not np.isfinite(values).any():
        raise UsageError("no run has a number there", argument="value", value=column)
    return np.where(np.isfinite(values), values, np.nan)


def places_of(settings: pd.DataFrame, along: str) -> tuple[pd.Series, tuple[Any, Any] | None]:
    """Return log2 of a setting; or 0 and 1 for two levels that are not positive numbers, and these levels.

    Raises:
        UsageError: It has other values.
    """
    numbers = pd.to_numeric(settings[along].astype(object), errors="coerce")
    if (numbers > 0).all() and not pd.api.types.is_bool_dtype(settings[along]):
        return pd.Series(np.log2(numbers.to_numpy(float)), settings.index), None
    levels = sorted(settings[along].dropna().unique().tolist(), key=level_order)
    if len(levels) != 2 or settings[along].isna().any():
        raise UsageError("must have positive numbers or two levels", argument="along", value=along)
    return (settings[along] == levels[1]).astype(float), (levels[0], levels[1])


def keys_of(settings: pd.DataFrame) -> pd.Series:
    """Return a text for each run, which is the same for runs that agree in all `settings`."""
    if not len(settings.columns):
        return pd.Series("", settings.index)
    return settings.astype("string").fillna("").agg("\x1f".join, axis=1)


def varied_names(settings: pd.DataFrame) -> str:
    """Return the names of the settings that vary."""
    return ", ".join(str(name) for name in settings if settings[name].nunique(dropna=False) > 1)
