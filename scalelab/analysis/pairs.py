"""Paired differences: losses at each level of a setting less those at a baseline, in runs that are otherwise equal.

They may be compared at each level of another setting apart, or along one: then a pair's difference is followed over
that setting, and what counts is how much it changes with each doubling, or between its two levels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from scalelab.analysis.pair_means import mean_difference
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.derived import Estimate
from scalelab.later_options import with_later_options
from scalelab.shown import Shown
from scalelab.units import format_count, parse_count

if TYPE_CHECKING:
    from scalelab.laws.base import Array

PREVIOUS = "previous"
_FIELDS = {"n_streams": "P", "n_tokens": "D", "peak_lr": "lr"}
# Columns of a table that settle a run, if it has no `config`. Of the definitions of N the first that is there counts.
_SIZES = ("n_params_backbone", "n_params", "n_params_total")
_SHAPE = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads")  # which go with N
_SETTINGS = (
    *("n_tokens", "n_streams", "seed", "peak_lr", "batch_size", "n_experts", "n_tokens_unique"),
    *("setup", "corpus", "tokenizer"),
)


@dataclass(frozen=True, eq=False)
class Step:
    """The pairs of two levels of the setting.

    Attributes:
        group: Level of the setting that `each` names; None without one.
        level: Level of the setting.
        against: The other level.
        differences: Loss at `level` less that at `against`, nats per token, one for each pair, [n]; along a setting,
            the slope of this difference over log2 of the setting, or its change between two levels.
        mean: Their mean with its 95 % interval, Student's t over the pairs or the seeds; none for a single pair.
        needed: Pairs with which the interval of such a mean would just exclude 0; None if that takes over 10,000.
        seeds: Number of seeds if the interval is over these, since pairs of one seed are alike; else None.
    """

    group: Any
    level: Any
    against: Any
    differences: Array
    mean: Estimate
    needed: int | None
    seeds: int | None = None

    @property
    def lower(self) -> int:
        """Number of pairs in which `level` has the lower loss."""
        return int((self.differences < 0).sum())

    @property
    def decided(self) -> bool:
        """True if the interval excludes 0."""
        return self.mean.low is not None and self.mean.high is not None and not self.mean.low <= 0 <= self.mean.high


@dataclass(frozen=True, eq=False)
class Pairs(Shown):
    """Differences of a setting's levels.

    Attributes:
        by: Name of the setting.
        each: Setting whose levels are compared apart, if any.
        along: Setting over which the differences are followed, if any.
        value: Column that is compared.
        steps: Differences, by group and level.
        unpaired: Number of runs without a partner.
        ends: The two levels of `along` if these are not positive numbers.
    """

    by: str
    each: str | None
    steps: tuple[Step, ...]
    unpaired: int
    along: str | None = None
    value: str = "loss"
    ends: tuple[Any, Any] | None = None

    _report: ClassVar[str] = "scalelab.reports.pairs:pairs_report"
    _figure: ClassVar[str] = "scalelab.plot.pairs:plot_pairs"
    _json: ClassVar[str] = "scalelab.reports.pairs:pairs_json"

    @property
    def scale(self) -> str:
        """Unit of the differences, and what they follow, as the end of a title."""
        unit = ", nats per token" if self.value == "loss" else ""
        if self.ends:
            return f"{unit}, change from {self.along} = {level_text(self.ends[0])} to {level_text(self.ends[1])}"
        return unit + (f", for each doubling of {self.along}" if self.along else "")

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each pair of levels."""
        rows = [
            {
                **({self.each: step.group} if self.each else {}),
                self.by: step.level,
                "against": step.against,
                "difference": step.mean.value,
                "low": step.mean.low,
                "high": step.mean.high,
                "pairs": len(step.differences),
                "lower": step.lower,
                "needed": step.needed,
                "seeds": step.seeds,
            }
            for step in self.steps
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"<Pairs by {self.by}: {len(self.steps)} differences>"


def pair_runs(
    records: pd.DataFrame,
    by: str = "P",
    baseline: Any = None,
    each: str | None = None,
    ignore: Sequence[str] = (),
    along: str | None = None,
    value: str = "loss",
) -> Pairs:
    """Return the differences of the levels of `by` between runs that agree in all other settings, the seed included.

    Args:
        records: Runs, one row each.
        by: Setting to compare.
        baseline: Level that the others are compared with, or "previous"; by default the first one.
        each: Setting whose levels are compared apart.
        ignore: Settings in which pairs may differ.
        along: Setting over which the differences are followed: their change with each doubling of it is compared, or
            from the first to the second of its levels if these are not positive numbers.
        value: Column of `records` to compare.

    Raises:
        UsageError: There is no such setting, level or column.
        ScalelabError: No two runs are a pair.
    """
    settings = _settings(records)
    asked = {"by": [by], "each": [each] if each else [], "along": [along] if along else [], "ignore": list(ignore)}
    for argument, names in asked.items():
        for name in names:
            if name not in settings:
                reason = f"no such setting; these vary: {_varied(settings) or 'none'}"
                raise UsageError(reason, argument=argument, value=name)
    levels = sorted(settings[by].dropna().unique().tolist(), key=_order)
    if len(levels) < 2:
        raise UsageError(f"has only the value {levels[0] if levels else 'none'}", argument="by", value=by)
    chosen = _level(baseline, levels)
    values = _values(records, value)
    free = {by, *ignore, *([along] if along else []), *(_SHAPE if "N" in (by, along) else ())}
    fixed = settings.drop(columns=[name for name in settings if name in free])
    key = (
        fixed.astype("string").fillna("").agg("\x1f".join, axis=1)
        if len(fixed.columns)
        else pd.Series("", settings.index)
    )
    apart = settings[each] if each else pd.Series(0, settings.index)
    table = pd.DataFrame({"key": key, "group": apart, "level": settings[by], "loss": values})
    table["at"], ends = _places(settings, along) if along else (0.0, None)
    table["seed"] = settings["seed"].astype("string").fillna("") if "seed" in fixed else key
    losses = table.groupby(["group", "key", "seed", "at", "level"], sort=False)["loss"].mean().unstack()
    steps = [
        step
        for group in sorted(apart.dropna().unique().tolist(), key=_order)
        for step in _steps(group if each else None, losses.loc[group], levels, chosen, along is not None)
    ]
    if not steps and along:
        raise ScalelabError(f"no pair of runs that differ in {by} is there at two values of {along}")
    if not steps:
        raise ScalelabError(
            f"no two runs differ in {by} alone; name settings in which pairs may differ with `ignore`: {_varied(fixed)}"
        )
    alone = losses.notna().sum(axis=1) == 1
    return Pairs(by, each, tuple(steps), int(alone.sum()), along, value, ends)


def _values(records: pd.DataFrame, column: str) -> Array:
    """Return the numbers of a column. Raises `UsageError` if it has none."""
    numbers = [str(name) for name in records if pd.api.types.is_numeric_dtype(records[name])]
    if column not in numbers:
        numbers = [name for name in numbers if records[name].notna().any()]
        raise UsageError(f"no such column of numbers; choose from {', '.join(numbers)}", argument="value", value=column)
    values = records[column].to_numpy(dtype=float, na_value=np.nan)
    if not np.isfinite(values).any():
        raise UsageError("no run has a number there", argument="value", value=column)
    return np.where(np.isfinite(values), values, np.nan)


def _places(settings: pd.DataFrame, along: str) -> tuple[pd.Series, tuple[Any, Any] | None]:
    """Return log2 of a setting; or 0 and 1 for two levels that are not positive numbers, and these levels.

    Raises:
        UsageError: It has other values.
    """
    numbers = pd.to_numeric(settings[along].astype(object), errors="coerce")
    if (numbers > 0).all() and not pd.api.types.is_bool_dtype(settings[along]):
        return pd.Series(np.log2(numbers.to_numpy(float)), settings.index), None
    levels = sorted(settings[along].dropna().unique().tolist(), key=_order)
    if len(levels) != 2 or settings[along].isna().any():
        raise UsageError("must have positive numbers or two levels", argument="along", value=along)
    return (settings[along] == levels[1]).astype(float), (levels[0], levels[1])


def _varied(settings: pd.DataFrame) -> str:
    """Return the names of the settings that vary."""
    return ", ".join(str(name) for name in settings if settings[name].nunique(dropna=False) > 1)


def _steps(
    group: Any, losses: pd.DataFrame, levels: Sequence[Any], baseline: Any, along: bool = False
) -> Iterator[Step]:
    for i, level in enumerate(levels):
        against = levels[i - 1] if baseline == PREVIOUS and i else baseline
        if level == against or against == PREVIOUS or not {level, against} <= {*losses.columns}:
            continue
        pairs = (losses[level] - losses[against]).dropna()
        pairs = _slopes(pairs) if along else pairs
        differences = pairs.to_numpy(float)
        if len(differences):
            seeds = pairs.index.get_level_values("seed").to_numpy()
            yield Step(group, level, against, differences, *mean_difference(differences, seeds))


def _slopes(pairs: pd.Series) -> pd.Series:
    """Return the slope over the places of each pair's differences, of those with two places, by key and seed."""

    def slope(values: pd.Series) -> float:
        places = values.index.get_level_values("at").to_numpy(float)
        away = places - places.mean()
        return float(away @ values.to_numpy()) / float(away @ away) if away.any() else np.nan

    return pairs.groupby(level=["key", "seed"], sort=False).apply(slope).dropna()


def _settings(records: pd.DataFrame) -> pd.DataFrame:
    """Return what settles each run: its `config`, or the columns of `_SETTINGS`; P, D and lr go by these names."""
    size = next((name for name in _SIZES if name in records and records[name].notna().all()), None)
    if "config" in records and records["config"].notna().all():
        rows = [_flat(with_later_options(json.loads(text))) for text in records["config"]]
        found = pd.DataFrame(rows, index=records.index).rename(columns={"n_tokens": "D"})
        if (found["backbone_digest"] != "").all():  # then P = 1 always has a prefix
            found = found.drop(columns="single_prefix")
        return found if size is None else found.assign(N=records[size])
    names = [name for name in (size, *_SETTINGS) if name in records and records[name].notna().any()]
    return records[names].rename(columns={**dict.fromkeys(_SIZES, "N"), **_FIELDS})


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in config.items():
        made |= _flat(value) if isinstance(value, dict) else {name: str(value) if isinstance(value, list) else value}
    return made


def _level(baseline: Any, levels: Sequence[Any]) -> Any:
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


def _order(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def level_text(value: Any) -> str:
    """Return a level as text, such as ``8``, ``0.01`` or ``1M``."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return format_count(float(value)) if number and value >= 10_000 else _text(value)
