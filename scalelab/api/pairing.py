"""Paired differences between runs that differ in one setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.analysis.pairs import Pairs
    from scalelab.records import RunTable

__all__ = ["pairs"]


def pairs(
    data: str | Path | pd.DataFrame | RunTable,
    by: str = "P",
    *,
    baseline: Any = None,
    each: str | None = None,
    along: str | None = None,
    ignore: str | Sequence[str] = (),
    value: str = "loss",
    best: str | None = None,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
) -> Pairs:
    """Compare runs that differ in one setting and agree in all others, the seed included.

    The noise of a seed is larger than most effects, and cancels in part within a pair. Each level of the setting is
    compared with a baseline: the mean difference of the pairs with its 95 % interval, and how many pairs would decide
    it. The interval is Student's t over the pairs or, where pairs of one seed are alike, over the seeds.

    Args:
        data: A folder of records, a table in a file, a pandas table, "paper", or a result of `read`.
        by: Setting to compare: P, D, lr, or any key of the runs' configuration, such as "aggregation".
        baseline: Level that the others are compared with, or "previous" for each with the one before; by default the
            smallest.
        each: Setting whose levels are compared apart, such as "P" for learning rates at each P.
        along: Setting over which the differences are followed, such as "D": what is reported is how much they change
            with each doubling of it, or from one to the other of two levels, such as "dense" and "moe". If it is `by`,
            the value itself is followed.
        ignore: Settings in which the runs of a pair may differ.
        value: Column to compare, such as "stream_correlation", or an expression of columns: a difference of
            "ln(train_seconds)" is the logarithm of a ratio.
        best: Setting whose best level is compared instead of losses, such as "lr": log2 of the vertex of a parabola
            through the runs around the least loss. With `by` and `along` "D" the result is the exponent of D.
        columns: Map from field to column or expression, as for `fit_law`.
        where: Condition that selects rows, as for `fit_law`.

    Returns:
        The differences, with a table and a figure.

    Raises:
        UsageError: There is no such setting, level or column, or the expression is wrong.
        DataError: A file cannot be read.
        ScalelabError: No two runs are a pair.
    """
    from scalelab.analysis.pairs import pair_runs

    table = _read(data, columns, where, value)
    ignored = [ignore] if isinstance(ignore, str) else list(ignore)
    return pair_runs(table.records, by, baseline, each, ignored, along, value, best)


def _read(
    data: str | Path | pd.DataFrame | RunTable, columns: Mapping[str, str] | None, where: str | None, value: str
) -> RunTable:
    """Return the runs with a column of their own for `value`, which may be an expression."""
    from scalelab import records

    source = data.records if isinstance(data, records.RunTable) else data
    try:
        return records.read(source, columns, where, {value: value})
    except UsageError as error:
        if error.value == {value: value}:
            raise UsageError(error.reason, argument="value", value=value) from None
        raise
