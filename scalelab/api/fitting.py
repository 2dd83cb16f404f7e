"""Fitting and comparison of laws, from a table, a file or a folder of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.api.grouping import groups_for
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit import FitOptions, FitResult, load_fit
from scalelab.fit.many import Comparisons, FitResults
from scalelab.laws import Law, get_law

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.fit.groups import Group
    from scalelab.fit.select import LawComparison
    from scalelab.records import RunTable

LawName = Literal[
    "parallel",
    "power",
    "peaked",
    "diversity",
    "additive",
    "chinchilla",
    "farseer",
    "joint",
    "joint-power",
    "joint-additive",
    "compute",
    "params",
    "tokens",
    "broken-compute",
    "broken-params",
    "broken-tokens",
    "data-constrained",
    "experts",
    "experts-started",
    "loops",
    "lr-batch",
]
DEFAULT_LAW = "parallel"
Count = Literal["paper", "backbone", "total"]
Objective = Literal["huber", "log", "raw", "asymmetric"]
Points = Literal["auto", "final", "all"]
Bootstrap = Literal["residual", "wild", "pairs"]

__all__ = ["compare_laws", "fit_law", "load_fit", "read"]


def read(
    data: str | Path | pd.DataFrame | RunTable,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
) -> RunTable:
    """Read run records from a folder, a file, a pandas table, or "paper".

    Files may be Parquet, CSV, TSV, text, JSON, JSONL or Excel, compressed or not.

    Args:
        data: Folder, file or table. "paper" is the 48 losses published with ParScale.
        columns: Map from field to column or expression: ``{"n_params": "size", "loss": "ln(ppl)"}``. Columns with usual
            names, such as N, P, D and loss in any case, are recognised; `notes` lists the columns used.
        where: Condition that selects rows: ``"D > 100M and corpus == 'pile'"``.

    Returns:
        A table: `records` can be fitted, `rejected` are rows that cannot be used, `others` are runs that are not ok.

    Raises:
        UsageError: The source does not exist, or a column or condition is wrong.
        DataError: A file cannot be read, or no run has a loss.
    """
    from scalelab import records

    if isinstance(data, records.RunTable):
        if columns is None and where is None:
            return data
        data = data.records
    return records.read(data, columns, where)


def fit_law(
    data: str | Path | pd.DataFrame | RunTable | Group,
    law: LawName | str | Law | None = None,
    *,
    average: bool | None = None,
    by: str | Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    points: Points = "auto",
    best: bool = False,
    count: Count = "paper",
    fix: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    tie: Mapping[str, str] | None = None,
    objective: Objective = "huber",
    delta: float = FitOptions.delta,
    starts: int = FitOptions.starts,
    bootstrap: Bootstrap | int = "residual",
    draws: int = FitOptions.draws,
    seed: int = 0,
) -> FitResult | FitResults:
    """Fit a scaling law to losses, with intervals and notes on what the data support.

    Args:
        data: A folder of records, a table in a file, a pandas table, a result of `read`, or "paper".
        law: A law by name, ``file.py:NAME``, or an object of your own class; by default the parallel law.
        average: Weigh the other laws that suit the data, over which predictions and plans then average. By default only
            if `law`, `fix`, `bounds` and `tie` are not given: a chosen law is used alone.
        by: Columns that define the groups to fit separately. By default runs are grouped by corpus, tokenizer, training
            setup and, for laws without D, training tokens; ``by=[]`` fits all runs as one group.
        columns: Map from field to column or expression: ``{"n_params": "size", "loss": "ln(ppl)"}``. ``run`` is the
            column of run ids, for tables with several rows per run.
        where: Condition that selects rows: ``"D > 1e8"``.
        points: Rows of runs that have several: "final", "all", or "auto" (final, unless only all rows vary D).
        best: Use only the row with the lowest loss for each N, P and D, as after a tuning sweep.
        count: Definition of N: "paper" (non-embedding, with streams), "backbone" or "total".
        fix: Parameters to hold at a value: ``{"c": 0.5}``.
        bounds: Bounds of parameters: ``{"alpha": (0.1, 1)}``.
        tie: Parameters to keep equal to others: ``{"beta": "alpha"}``.
        objective: "huber" (Huber loss of log residuals), "log" or "raw" (least squares of log or raw losses), or
            "asymmetric" (rows above the law weigh less).
        delta: Threshold of the Huber loss, in ln loss.
        starts: Starting points of the optimiser.
        bootstrap: Bootstrap for the intervals: "residual", "wild" or "pairs"; a number means so many draws of the
            residual bootstrap.
        draws: Bootstrap draws; 0 gives no intervals.
        seed: Seed of starting points and bootstrap.

    Returns:
        The fit, or a mapping from group name to fit if the data hold several groups. `failure` is the reason why a
        fit must not be used, or None.

    Raises:
        UsageError: An argument is wrong; `argument` names it.
        DataError: A file cannot be read, or no run has a loss.
        ScalelabError: The data cannot determine the law.
    """
    if isinstance(bootstrap, int):
        bootstrap, draws = "residual", bootstrap
    options = FitOptions(
        count,
        objective,
        delta,
        starts,
        bootstrap,
        draws,
        seed,
        dict(fix or {}),
        dict(bounds or {}),
        dict(tie or {}),
        best,
    )
    averages = averages_by_default(law, options) if average is None else average
    chosen = get_law(DEFAULT_LAW if law is None else law)
    groups = groups_for(chosen, data, columns, where, by, points)
    return _one_or_all(fit_groups(groups, chosen, options, origin_of(data, columns, where, points), average=averages))


def averages_by_default(law: Any, options: FitOptions) -> bool:
    """Return true if nothing in a request says that one law alone is wanted."""
    return law is None and not (options.fix or options.bounds or options.tie)


def origin_of(data: Any, columns: Mapping[str, str] | None, where: str | None, points: str) -> dict[str, str]:
    """Return the origin of rows as a fit stores it: source, where, map, points."""
    source = str(data) if isinstance(data, str | Path) else ""
    mapped = " ".join(f"{name}={column}" for name, column in (columns or {}).items())
    return {"source": source, "where": where or "", "map": mapped, "points": points}


def compare_laws(
    data: str | Path | pd.DataFrame | RunTable | Group,
    *,
    own: Sequence[Law] = (),
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    points: Points = "auto",
    best: bool = False,
    count: Count = "paper",
    starts: int = FitOptions.starts,
    seed: int = 0,
) -> LawComparison | Comparisons:
    """Compare laws by AICc, BIC and prediction error on held-out runs.

    Args:
        data: Losses, as for `fit_law`.
        own: Laws of your own, in addition to those of the package.
        columns: Map from field to column or expression, as for `fit_law`.
        where: Condition that selects rows, as for `fit_law`.
        points: Rows of runs that have several, as for `fit_law`.
        best: Use only the row with the lowest loss for each N, P and D.
        count: Definition of N, as for `fit_law`.
        starts: Starting points of the optimiser; at most 100 are used.
        seed: Seed of the starting points.

    Returns:
        The comparison, or a mapping from group name to comparison if the data hold several groups.

    Raises:
        UsageError: An argument is wrong; `argument` names it.
        DataError: A file cannot be read, or no run has a loss.
        ScalelabError: No group has enough runs.
    """
    options = FitOptions(convention=count, starts=starts, seed=seed, best=best)
    return _one_or_all(compare_groups(comparison_groups(data, columns, where, points), options, own))


def fit_groups(
    groups: Sequence[Group],
    law: Law,
    options: FitOptions,
    origin: Mapping[str, str] | None = None,
    progress: Callable[[str, float], None] | None = None,
    average: bool = False,
) -> FitResults:
    """Fit each group; errors of single groups are in `failures`.

    Args:
        groups: Groups of runs.
        law: The law to fit.
        options: Options of the fit.
        origin: Origin of the rows, from `origin_of`.
        progress: Called with the stage of a fit and its completed fraction.
        average: Weigh the other laws that suit the runs, for predictions and plans.

    Returns:
        The fits by group name.

    Raises:
        UsageError: `average` with parameters of one law that are fixed, bounded or tied.
        ScalelabError: No group could be fitted.
    """
    from scalelab.fit import fit_group
    from scalelab.fit.averaging import with_laws

    if average and (options.fix or options.bounds or options.tie):
        raise UsageError("compares laws with free parameters: leave out `fix`, `bounds` and `tie`", argument="average")

    found: dict[str, FitResult] = {}
    failures: dict[str, ScalelabError] = {}
    for group in groups:
        try:
            fit = replace(fit_group(group, law, options, progress), origin=dict(origin or {}))
            found[group.title] = with_laws(fit, progress) if average else fit
        except UsageError:
            raise
        except ScalelabError as error:
            failures[group.title] = error
    _raise_if_nothing(found, failures, "could be fitted")
    return FitResults(found, failures, {group.title: group.slug for group in groups})


def comparison_groups(
    data: Any, columns: Mapping[str, str] | None, where: str | None, points: str = "auto"
) -> list[Group]:
    """Return the groups in which to compare laws: one for each D, and one over all D if it varies."""
    from scalelab.fit.groups import Group, check_points, group_records

    which = check_points(points)
    if isinstance(data, Group):
        return [data]
    table = read(data, columns, where)
    over_tokens = [g for g in group_records(table, False, which) if g.records["n_tokens"].nunique() > 1]
    # Groups of a single D are for laws of N and P. If P does not vary either, the group over all D is enough.
    groups = [g for g in group_records(table, True, which) if not over_tokens or g.records["n_streams"].nunique() > 1]
    return [*groups, *over_tokens]


def compare_groups(groups: Sequence[Group], options: FitOptions, own: Sequence[Law] = ()) -> Comparisons:
    """Compare laws in each group; errors of groups that are too small are in `failures`.

    Raises:
        ScalelabError: No group has enough runs.
    """
    from scalelab.fit.select import compare_laws, comparison_data

    found: dict[str, LawComparison] = {}
    failures: dict[str, ScalelabError] = {}
    for group in groups:
        try:
            found[group.title] = compare_laws(
                comparison_data(group, options), group.title, replace(options, draws=0), own
            )
        except ScalelabError as error:
            failures[group.title] = error
    _raise_if_nothing(found, failures, "is large enough to compare laws")
    return Comparisons(found, failures)


def _raise_if_nothing(found: Mapping[str, Any], failures: Mapping[str, ScalelabError], what: str) -> None:
    if not found:
        first = next(iter(failures.values()))
        if len(failures) == 1:
            raise first
        raise ScalelabError(f"none of the {len(failures)} groups of runs {what}; first error: {first}")


def _one_or_all(found: Any) -> Any:
    return next(iter(found.values())) if len(found) == 1 and not found.failures else found
