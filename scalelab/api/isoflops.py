"""IsoFLOP: compute-optimal N and D from runs at equal training FLOPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from scalelab.api.fitting import Count, read
from scalelab.api.grouping import groups_of, one_group
from scalelab.api.loading import check_choice
from scalelab.errors import UsageError
from scalelab.fit import FitOptions
from scalelab.units import counts, parse_count

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.analysis.isoflop_result import IsoFlops
    from scalelab.records import RunTable

Basis = Literal["6NDP", "recorded"]

__all__ = ["isoflop"]


def isoflop(
    data: str | Path | pd.DataFrame | RunTable,
    *,
    budgets: str | float | Sequence[Any] | None = None,
    flops: Any = None,
    basis: Basis | None = None,
    window: float | None = None,
    law: str | None = None,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    count: Count = "paper",
    starts: int = 100,
    draws: int = FitOptions.draws,
    seed: int = 0,
) -> IsoFlops:
    """Find the compute-optimal N and D from runs at equal training FLOPs, and their exponents over compute.

    At each budget and P a robust quadratic of the loss in ln N gives the best N with a bootstrap interval (errors drawn
    from the residuals of all budgets). N ∝ C^a and D ∝ C^b are fitted through the minima, and shown beside the
    exponents of a fitted law and, if the runs have loss curves, of their envelope (Approaches 2, 3 and 1 of Hoffmann et
    al., arXiv 2203.15556). With several P, the lowest losses at equal FLOPs tell whether streams pay.

    Args:
        data: A folder of records, a table in a file, a pandas table, or a result of `read`.
        budgets: Training budgets in FLOPs, or a column that holds them; by default recognised as clusters of the runs'
            FLOPs.
        flops: Further budgets to answer for.
        basis: Training FLOPs: "6NDP" (6·N·D·P, with the backbone's active parameters) or "recorded" (the column
            `train_flops`); by default the one that forms budgets.
        window: Use only sizes within this factor of each minimum, such as 4, which lowers the bias of wide grids.
        law: Law to compare with; "chinchilla" by default, "joint" if P varies.
        columns: Map from field to column or expression, as for `fit_law`.
        where: Condition that selects rows, as for `fit_law`.
        count: Definition of N, as for `fit_law`.
        starts: Starting points of the fit of the law.
        draws: Bootstrap draws; 0 gives no intervals.
        seed: Seed of starting points and bootstrap.

    Returns:
        Minima by budget and P, exponents by approach, and notes on what the grid supports.

    Raises:
        UsageError: An argument is wrong; `argument` names it.
        DataError: A file cannot be read, or a column is missing.
        ScalelabError: No budget has three sizes.
    """
    from scalelab.analysis.curves import curves_of
    from scalelab.analysis.isoflop import IsoOptions
    from scalelab.analysis.isoflop import isoflop as find_minima

    check_choice("basis", basis, ("6NDP", "recorded"))
    column = _column(budgets)
    if column is not None:
        columns, basis = {**(columns or {}), "train_flops": column}, "recorded"
    given = () if budgets is None or column is not None else counts(budgets, "budgets")
    table = read(data, columns, where)
    group = one_group(groups_of(table, None, None, None, False, "final"), str(data) if isinstance(data, str) else "")
    options = IsoOptions(count, basis, given, window, law, draws, starts, seed)
    asked = () if flops is None else counts(flops, "flops")
    every = None if group.points is None else one_group(groups_of(table, None, None, None, False, "all")).records
    return find_minima(group, options, curves_of(group.records, every, count), asked)


def _column(budgets: Any) -> str | None:
    """Return the name of a column, if `budgets` is a single word that is no number."""
    several: list[Any] = list(cast("Sequence[Any]", budgets)) if isinstance(budgets, list | tuple) else [budgets]
    word = several[0] if len(several) == 1 else None
    if not isinstance(word, str):
        return None
    try:
        parse_count(word.split(",")[0])
    except UsageError:
        return word
    return None
