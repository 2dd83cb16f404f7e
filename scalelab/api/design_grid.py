"""Candidates of a design: the sizes that a sweep can train around the known runs, or a given grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalelab.errors import UsageError
from scalelab.units import counts, whole_numbers

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.architecture import Architecture
    from scalelab.fit.data import FitData
    from scalelab.laws.base import Array

_SAME_D = 0.02  # relative difference of D that a whole number of steps may make
_BELOW, _ABOVE, _STEP = 1.0, 8.0, 2**0.5  # default range of N around the known runs, and the factor between sizes


def grid_of(
    known: FitData | None,
    records: pd.DataFrame | None,
    grid: tuple[Any, Any, Any],
    count: str,
) -> tuple[dict[str, Array], Array]:
    """Return the candidates of a grid over N, P and D, by variable, and the N to ask a sweep for, [c] each.

    N is that of the shape that a sweep would train, if the known runs are those of a sweep. Values that are not given
    are taken from the known runs: N from their smallest to 8 times their largest in steps of √2, all their P, and their
    D, with twice the largest if they have several.

    Raises:
        UsageError: Without known runs, a value is missing.
    """
    N, P, D = grid
    if known is None and (N is None or D is None):
        lacking = "N" if N is None else "D"
        raise UsageError(
            f"a pilot without known runs needs the candidates' {lacking}: give a grid of `N`, `P` and `D`",
            argument=lacking,
        )
    if known is not None and "N" not in known.known:
        raise UsageError("the runs have no N, so give a table of candidates", argument="candidates")
    sizes = _sizes(known) if N is None else counts(N, "N")
    streams = whole_numbers(P, "P") if P is not None else _levels(known, "P")
    tokens: Sequence[float]
    if D is not None:
        tokens = [_snapped(d, known) for d in counts(D, "D")]
    elif known is not None and "D" in known.known:
        levels = _levels(known, "D")
        tokens = (*levels, 2 * levels[-1]) if len(levels) > 1 else levels
    else:
        tokens = ()
    shapes = shapes_of(records, sizes)
    rows: list[tuple[float, float, float, float]] = []
    for size in sizes:
        for p in streams:
            n = float(size) if shapes is None else float(shapes[size].with_streams(int(p)).count_params(count))
            rows += [(n, float(p), float(d), float(size)) for d in tokens or (float("nan"),)]
    once = {row[:3]: row for row in reversed(rows)}  # two sizes may have the same shape
    table = np.array(sorted(once.values()), dtype=float)
    found = {"N": table[:, 0], "P": table[:, 1]}
    return (found if np.isnan(table[:, 2]).any() else {**found, "D": table[:, 2]}), table[:, 3]


def _snapped(value: float, known: FitData | None) -> float:
    """Return the D of known runs that is the same but for whole steps, or `value`."""
    levels = () if known is None or "D" not in known.known else _levels(known, "D")
    near = [level for level in levels if abs(level / value - 1) < _SAME_D]
    return min(near, key=lambda level: abs(level - value), default=value)


def _sizes(known: FitData | None) -> list[float]:
    assert known is not None
    low, high = float(known.size.min()) * _BELOW, float(known.size.max()) * _ABOVE
    steps = int(np.ceil(np.log(high / low) / np.log(_STEP)))
    return [low * _STEP**i for i in range(steps + 1)]


def _levels(known: FitData | None, variable: Any) -> tuple[float, ...]:
    if known is None or variable not in known.known:
        return (1,)
    return tuple(np.unique(known.values(variable)).tolist())


def shapes_of(records: pd.DataFrame | None, sizes: Sequence[float]) -> dict[float, Architecture] | None:
    """Return the shape of each size as a sweep would choose it, or None if the records are not those of a sweep."""
    config = sweep_config(records)
    if config is None:
        return None
    from scalelab.architecture import FAMILY, Architecture, architecture_for

    shape = config["architecture"]
    family = {name: shape.get(name, getattr(Architecture, name)) for name in FAMILY}
    found: dict[float, Architecture] = {}
    for size in sizes:
        try:
            found[size] = architecture_for(
                size, shape["vocab_size"], shape["prefix_tokens"], **family, ladder=config.get("ladder", 1)
            )
        except UsageError as error:
            raise UsageError(str(error), argument="N") from None
    return found


def sweep_config(records: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return the config of the latest record of a sweep, or None if there is none."""
    if records is None or "config" not in records or not records["config"].notna().any():
        return None
    texts = records.loc[records["config"].notna()].sort_values("created_utc")["config"]
    config: dict[str, Any]
    try:
        config = json.loads(texts.iloc[-1])
    except (TypeError, ValueError):
        return None
    return config if {"architecture", "recipe", "text"} <= config.keys() else None
