"""Best levels of a setting, such as the best learning rate, in groups of runs that agree in all else."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scalelab.analysis.pair_settings import keys_of
from scalelab.errors import ScalelabError, UsageError

if TYPE_CHECKING:
    from scalelab.laws.base import Array

LEAST = 3  # levels of a group, for a parabola


@dataclass(frozen=True, eq=False)
class Optima:
    """The best level of each group of runs.

    Attributes:
        settings: Settings of each group that has one.
        levels: log2 of its best level, [n].
        edges: Number of groups whose least loss is at the smallest or largest level.
        small: Number of groups with fewer than `LEAST` levels.
    """

    settings: pd.DataFrame
    levels: Array
    edges: int
    small: int


def best_levels(
    settings: pd.DataFrame, records: pd.DataFrame, losses: Array, name: str, ignore: Set[str] = frozenset()
) -> Optima:
    """Return the best level of a setting in each group of runs that differ only in it and in what `ignore` names.

    It is the vertex of the parabola in log2 of the level through the three levels around the least loss. Of learning
    rates, levels are peak rates, not those of a recipe before it scales them.

    Args:
        settings: Settings of each run.
        records: The runs.
        losses: Loss of each run, [n].
        name: The setting, with positive numbers.
        ignore: Other settings in which the runs of a group may differ.

    Raises:
        UsageError: The setting has other values.
        ScalelabError: No group has a best level inside its range.
    """
    peaks = name == "lr" and "peak_lr" in records and records["peak_lr"].notna().all()
    numbers = pd.to_numeric((records["peak_lr"] if peaks else settings[name]).astype(object), errors="coerce")
    if not (numbers > 0).all() or pd.api.types.is_bool_dtype(settings[name]):
        raise UsageError("must have positive numbers", argument="best", value=name)
    others = settings.drop(columns=[column for column in settings if column in {name, *ignore}])
    table = pd.DataFrame({"key": keys_of(others), "x": np.log2(numbers.to_numpy(float)), "loss": losses}).dropna()
    rows, found, edges, small = [], [], 0, 0
    for _, group in table.groupby("key", sort=False):
        curve = group.groupby("x")["loss"].mean()
        best = vertex(curve.index.to_numpy(float), curve.to_numpy(float))
        if best is not None:
            rows.append(others.loc[group.index[0]])
            found.append(best)
        elif len(curve) < LEAST:
            small += 1
        else:
            edges += 1
    if not found:
        raise ScalelabError(
            f"no group of {LEAST} or more runs that differ only in {name} has its least loss between the smallest and "
            f"largest {name}; train more values, or name settings that change with it with `ignore`"
        )
    rows_of = pd.DataFrame(rows).astype(others.dtypes.to_dict()).reset_index(drop=True)
    return Optima(rows_of, np.array(found), edges, small)


def vertex(x: Array, losses: Array) -> float | None:
    """Return the vertex of the parabola through the least of `losses` and its neighbours, at ascending `x`.

    None if the least is the first or the last.
    """
    i = int(np.argmin(losses))
    if not 0 < i < len(x) - 1:
        return None
    u, y = x[i - 1 : i + 2] - x[i], losses[i - 1 : i + 2] - losses[i]
    left, right = y[0] / u[0], y[2] / u[2]
    bend = (right - left) / (u[2] - u[0])
    return float(x[i] - (left - bend * u[0]) / (2 * bend)) if bend > 0 else float(x[i])
