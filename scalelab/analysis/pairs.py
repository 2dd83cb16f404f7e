"""Paired differences: losses at each level of a setting less those at a baseline, in runs that are otherwise equal.

They may be compared at each level of another setting apart, or along one: then a pair's difference is followed over
that setting, and what counts is how much it changes with each doubling, or between its two levels. Along the setting
itself, it is the value that is followed. Instead of losses, the best levels of a setting may be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from scalelab.analysis.pair_means import mean_difference
from scalelab.analysis.pair_optima import Optima, best_levels
from scalelab.analysis.pair_settings import (
    PREVIOUS,
    SHAPE,
    chosen_level,
    keys_of,
    level_order,
    level_text,
    places_of,
    settings_of,
    values_of,
    varied_names,
)
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.derived import Estimate
from scalelab.shown import Shown

if TYPE_CHECKING:
    from scalelab.laws.base import Array


@dataclass(frozen=True, eq=False)
class Step:
    """The pairs of two levels of the setting.

    Attributes:
        group: Level of the setting that `each` names; None without one.
        level: Level of the setting; None along the setting itself.
        against: The other level; None along the setting itself.
        differences: What is compared at `level` less that at `against`, one for each pair, [n]: losses in nats per
            token, another value, or log2 of best levels. Along a setting, the slope of this difference over log2 of the
            setting, or its change between two levels; along the setting itself, the slope of what is compared.
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
        """Number of negative differences."""
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
        unpaired: Number of runs, or groups of runs with a best level, without a partner; along the setting itself, of
            series with one level.
        ends: The two levels of `along` if these are not positive numbers.
        best: Setting whose best level is compared, as log2, if any.
        optima: The best levels, with what was left out.
    """

    by: str
    each: str | None
    steps: tuple[Step, ...]
    unpaired: int
    along: str | None = None
    value: str = "loss"
    ends: tuple[Any, Any] | None = None
    best: str | None = None
    optima: Optima | None = None

    _report: ClassVar[str] = "scalelab.reports.pairs:pairs_report"
    _figure: ClassVar[str] = "scalelab.plot.pairs:plot_pairs"
    _json: ClassVar[str] = "scalelab.reports.pairs:pairs_json"

    @property
    def follows_itself(self) -> bool:
        """True if the value is followed along the setting, without differences of levels."""
        return self.by == self.along

    @property
    def compared(self) -> str:
        """Name of what is compared, such as loss."""
        return f"log2 of the best {self.best}" if self.best else self.value

    @property
    def title(self) -> str:
        """Title of the table, with the unit of its numbers."""
        what = f"change of {self.compared}" if self.follows_itself else f"difference in {self.compared} by {self.by}"
        return what + self.scale

    @property
    def scale(self) -> str:
        """Unit of the differences, and what they follow, as the end of a title."""
        unit = ", nats per token" if self.compared == "loss" else ""
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
    best: str | None = None,
) -> Pairs:
    """Return the differences of the levels of `by` between runs that agree in all other settings, the seed included.

    Args:
        records: Runs, one row each.
        by: Setting to compare.
        baseline: Level that the others are compared with, or "previous"; by default the first one.
        each: Setting whose levels are compared apart.
        ignore: Settings in which pairs may differ.
        along: Setting over which the differences are followed: their change with each doubling of it is compared, or
            from the first to the second of its levels if these are not positive numbers. If it is `by`, the value
            itself is followed.
        value: Column of `records` to compare.
        best: Setting whose best level is compared instead of the losses, as log2: the `value` is least there.

    Raises:
        UsageError: There is no such setting, level or column.
        ScalelabError: No two runs are a pair.
    """
    settings = settings_of(records)
    given = {"each": each, "along": along, "best": best}
    asked = {"by": [by], "ignore": list(ignore), **{k: [v] for k, v in given.items() if v}}
    for argument, names in asked.items():
        for name in names:
            if name not in settings:
                reason = f"no such setting; these vary: {varied_names(settings) or 'none'}"
                raise UsageError(reason, argument=argument, value=name)
    values, optima = values_of(records, value), None
    if best:
        if best in (by, each, along, *ignore):
            raise UsageError("is what is compared; choose another setting", argument="best", value=best)
        free = {*ignore, *(SHAPE if best == "N" else ())} - {by, each, along}
        optima = best_levels(settings, records, values, best, free)
        settings, values = optima.settings, optima.levels
    levels = sorted(settings[by].dropna().unique().tolist(), key=level_order)
    if len(levels) < 2:
        raise UsageError(f"has only the value {levels[0] if levels else 'none'}", argument="by", value=by)
    itself = by == along
    if itself and baseline is not None:
        raise UsageError("has no meaning along the setting itself; leave it out", argument="baseline", value=baseline)
    chosen = chosen_level(baseline, levels)
    free = {by, *ignore, *([along] if along else []), *(SHAPE if "N" in (by, along) else ())}
    fixed = settings.drop(columns=[name for name in settings if name in free])
    key = keys_of(fixed)
    apart = settings[each] if each else pd.Series(0, settings.index)
    table = pd.DataFrame({"key": key, "group": apart, "level": None if itself else settings[by], "loss": values})
    table["at"], ends = places_of(settings, along) if along else (0.0, None)
    table["seed"] = settings["seed"].astype("string").fillna("") if "seed" in fixed else key
    if itself and ends:
        raise UsageError("must have positive numbers", argument="along", value=along)
    losses = table.groupby(["group", "key", "seed", "at", "level"], sort=False, dropna=False)["loss"].mean().unstack()
    groups = sorted(apart.dropna().unique().tolist(), key=level_order)
    if itself:
        slopes = {group: _slopes(losses.loc[group].iloc[:, 0]) for group in groups}
        steps = [_step(group if each else None, None, None, found) for group, found in slopes.items() if len(found)]
        alone = losses.reset_index("at").index.nunique() - sum(map(len, slopes.values()))
    else:
        alone = int((losses.notna().sum(axis=1) == 1).sum())
        steps = [
            step
            for group in groups
            for step in _steps(group if each else None, losses.loc[group], levels, chosen, along is not None)
        ]
    if not steps and itself:
        raise ScalelabError(f"no runs differ in {by} alone; name settings that change with it with `ignore`")
    if not steps and along:
        raise ScalelabError(f"no pair of runs that differ in {by} is there at two values of {along}")
    if not steps:
        others = varied_names(fixed)
        raise ScalelabError(
            f"no two runs differ in {by} alone; name settings in which pairs may differ with `ignore`: {others}"
        )
    return Pairs(by, each, tuple(steps), alone, along, value, ends, best, optima)


def _steps(
    group: Any, losses: pd.DataFrame, levels: Sequence[Any], baseline: Any, along: bool = False
) -> Iterator[Step]:
    for i, level in enumerate(levels):
        against = levels[i - 1] if baseline == PREVIOUS and i else baseline
        if level == against or against == PREVIOUS or not {level, against} <= {*losses.columns}:
            continue
        pairs = (losses[level] - losses[against]).dropna()
        pairs = _slopes(pairs) if along else pairs
        if len(pairs):
            yield _step(group, level, against, pairs)


def _step(group: Any, level: Any, against: Any, pairs: pd.Series) -> Step:
    """Return the step of these differences, by key and seed."""
    differences = pairs.to_numpy(float)
    seeds = pairs.index.get_level_values("seed").to_numpy()
    return Step(group, level, against, differences, *mean_difference(differences, seeds))


def _slopes(pairs: pd.Series) -> pd.Series:
    """Return the slope over the places of each pair's differences, of those with two places, by key and seed."""

    def slope(values: pd.Series) -> float:
        places = values.index.get_level_values("at").to_numpy(float)
        away = places - places.mean()
        return float(away @ values.to_numpy()) / float(away @ away) if away.any() else np.nan

    return pairs.groupby(level=["key", "seed"], sort=False).apply(slope).dropna()
