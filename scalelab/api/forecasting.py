"""Forecasts on record and rollouts: were earlier predictions right, and would they have been?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.analysis.rollout import Rollout
from scalelab.analysis.scoring import Calibration
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit import FitOptions
from scalelab.units import counts

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from scalelab.fit.groups import Group
    from scalelab.laws import Law
    from scalelab.records import RunTable

__all__ = ["roll_out", "score_forecasts"]


def score_forecasts(
    forecasts: str | Path,
    data: str | Path | pd.DataFrame | RunTable,
    *,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
) -> Calibration:
    """Compare registered forecasts with the runs that came after them.

    Args:
        forecasts: File that ``fit.predict(...).register(file)`` wrote.
        data: Runs, as for `read`. A run is that of a forecast if P is the same and N, D and other variables agree
            within 1 %. Losses that the fit knew are not scored.
        columns: Map from field to column or expression, as for `read`.
        where: Condition that selects rows, as for `read`.

    Returns:
        Each forecast with the measured loss, and the share of intervals that held, by factor outside the runs.

    Raises:
        UsageError: There is no such file, or no forecast has a run in the data.
        DataError: A file cannot be read.
    """
    from scalelab.analysis.forecasts import read_forecasts
    from scalelab.analysis.scoring import score
    from scalelab.api.fitting import read
    from scalelab.fit.groups import group_records

    made = read_forecasts(forecasts)
    if not made:
        raise UsageError(f"{forecasts}: holds no forecasts")
    table = read(data, columns, where)
    every = group_records(table, False, "final")
    # A forecast of a law without D is of a group of one D; with D, of a group over all.
    named = {group.title: group for group in [*group_records(table, True, "final"), *every]}
    return score(made, every, named, str(forecasts))


def roll_out(
    data: str | Path | pd.DataFrame | RunTable | Group,
    budgets: Any = None,
    law: str | Law | None = None,
    *,
    group: str | None = None,
    by: str | Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    points: Literal["auto", "final", "all"] = "auto",
    best: bool = False,
    count: Literal["paper", "backbone", "total"] = "paper",
    starts: int = FitOptions.starts,
    draws: int = 300,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Rollout:
    """Fit the runs below each training budget and score the fit on the runs above it.

    Args:
        data: Runs, as for `fit_law`.
        budgets: Training compute in FLOPs, one or several (N·P if D is unknown). By default four, spread over the runs.
        law: The law to fit; by default the parallel law, averaged with the others that the fitted runs support.
        group: Group of runs, if the data hold several.
        by: Columns that define the groups, as for `fit_law`.
        columns: Map from field to column or expression, as for `fit_law`.
        where: Condition that selects rows, as for `fit_law`.
        points: Rows of runs that have several, as for `fit_law`.
        best: Use only the row with the lowest loss for each N, P and D.
        count: Definition of N, as for `fit_law`.
        starts: Starting points of the optimiser.
        draws: Bootstrap draws; at most 300 are used.
        seed: Seed of starting points and bootstrap.
        progress: Called with the stage and its completed fraction.

    Returns:
        For each budget the forecasts of the other runs with their measured losses, and the calibration of all.

    Raises:
        UsageError: An argument is wrong; `argument` names it.
        ScalelabError: There are too few runs.
    """
    from scalelab.analysis import rollout
    from scalelab.api.fitting import DEFAULT_LAW
    from scalelab.api.grouping import groups_for
    from scalelab.laws import get_law

    chosen = get_law(DEFAULT_LAW if law is None else law)
    groups = {g.title: g for g in groups_for(chosen, data, columns, where, by, points)}
    if group is None and len(groups) > 1:
        raise UsageError(f"choose one of {', '.join(map(repr, groups))}, or select rows with `where`", argument="group")
    if group is not None and group not in groups:
        raise UsageError(f"choose one of {', '.join(map(repr, groups))}", argument="group", value=group)
    if draws < 100:
        raise ScalelabError("a rollout needs 100 `draws` or more")
    options = FitOptions(convention=count, starts=starts, draws=draws, seed=seed, best=best)
    limits = () if budgets is None else counts(budgets, "rollout")
    return rollout.roll_out(groups[group or next(iter(groups))], chosen, options, limits, law is None, progress)
