"""Best levels of a setting, such as the best learning rate, in groups of runs that agree in all else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scalelab.errors import ScalelabError, UsageError

if TYPE_CHECKING:
    from scalelab.laws.base import Array

LEAST = 3  # levels of a group, for a parabola


def best_levels(settings: pd.DataFrame, losses: Array, name: str) -> tuple[pd.DataFrame, Array, int]:
    """Return a row of settings for each group of runs, log2 of its best level, and the number of groups left out.

    The best level is the vertex of the parabola in log2 of the level through the three levels around the least loss.
    A group whose least loss is at its smallest or largest level, or has fewer than three, is left out.

    Args:
        settings: Settings of each run.
        losses: Loss of each run, [n].
        name: The setting, with positive numbers.

    Raises:
        UsageError: The setting has other values.
        ScalelabError: No group has a best level inside its range.
    """
    numbers = pd.to_numeric(settings[name].astype(object), errors="coerce")
    if not (numbers > 0).all() or pd.api.types.is_bool_dtype(settings[name]):
        raise UsageError("must have positive numbers", argument="best", value=name)
    others = settings.drop(columns=name)
    key = others.astype("string").fillna("").agg("\x1f".join, axis=1)
    table = pd.DataFrame({"key": key, "x": np.log2(numbers.to_numpy(float)), "loss": losses}).dropna()
    rows, found, edges = [], [], 0
    for _, group in table.groupby("key", sort=False):
        curve = group.groupby("x")["loss"].mean()
        vertex = _vertex(curve.index.to_numpy(float), curve.to_numpy(float))
        if vertex is None:
            edges += 1
        else:
            rows.append(others.loc[group.index[0]])
            found.append(vertex)
    if not found:
        raise ScalelabError(
            f"no {LEAST} runs that differ only in {name} have their least loss inside its range; train more values"
        )
    return pd.DataFrame(rows).astype(others.dtypes.to_dict()).reset_index(drop=True), np.array(found), edges


def _vertex(x: Array, losses: Array) -> float | None:
    """Return the vertex of the parabola through the least of `losses` and its neighbours, at ascending `x`."""
    i = int(np.argmin(losses))
    if not 0 < i < len(x) - 1:
        return None
    u, y = x[i - 1 : i + 2] - x[i], losses[i - 1 : i + 2] - losses[i]
    left, right = y[0] / u[0], y[2] / u[2]
    bend = (right - left) / (u[2] - u[0])
    return float(x[i] - (left - bend * u[0]) / (2 * bend)) if bend > 0 else float(x[i])
