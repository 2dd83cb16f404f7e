"""Two training recipes compared: the compute that one saves over the other at equal loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.api.fitting import Count, LawName, read
from scalelab.api.grouping import groups_of, one_group
from scalelab.errors import UsageError
from scalelab.fit import FitOptions

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.analysis.recipe_result import RecipeComparison
    from scalelab.fit.groups import Group
    from scalelab.records import RunTable

Factor = Literal["N", "D", "compute"]

__all__ = ["compare_recipes"]


def compare_recipes(
    first: str | Path | pd.DataFrame | RunTable,
    second: str | Path | pd.DataFrame | RunTable | None = None,
    *,
    where: str | None = None,
    against: str | None = None,
    names: Sequence[str] | None = None,
    factor: Factor | None = None,
    law: LawName | None = None,
    gpu: str | None = None,
    columns: Mapping[str, str] | None = None,
    count: Count = "paper",
    starts: int = 100,
    draws: int = FitOptions.draws,
    test_draws: int = 500,
    seed: int = 0,
) -> RecipeComparison:
    """Compare two recipes by one law that they share: the multiplier of compute at equal loss, with its interval.

    The law's floor and exponents are shared, and the second recipe multiplies N (a factor on A), D, or compute. Nested
    models and bootstrap tests say whether that is supported. The same is given for training FLOPs, seconds where
    records have them, and serving time on a device.

    Args:
        first: Runs of the baseline: a folder of records, a table, "paper", or a result of `read`.
        second: Runs of the other recipe; by default those of `first` that `against` selects.
        where: Condition that selects the rows of the baseline, and of both recipes without `against`.
        against: Condition that selects the rows of the second recipe.
        names: Names of the two recipes; by default their conditions or files.
        factor: What the second recipe multiplies: "N", "D" or "compute"; by default N, if the law has it.
        law: The shared law; by default "chinchilla" if N and D vary, "params" or "tokens" if one of them does, "joint"
            or "parallel" if P varies too, and "compute" for tables of compute.
        gpu: Device from `list_hardware`, to compare the time to serve one request (512 tokens in, 128 out).
        columns: Map from field to column or expression, as for `fit_law`.
        count: Definition of N, as for `fit_law`.
        starts: Starting points of the fits.
        draws: Bootstrap draws of the intervals.
        test_draws: Bootstrap data sets of each test.
        seed: Seed of starting points and bootstraps.

    Returns:
        The multipliers, nested models, tests and notes.

    Raises:
        UsageError: An argument is wrong, or nothing tells the recipes apart.
        DataError: A file cannot be read.
        ScalelabError: The recipes share no variable or no loss, or have too few runs.
    """
    from scalelab.analysis import recipes
    from scalelab.analysis.recorded_costs import costs_of

    if second is None and against is None:
        raise UsageError("give a second source, or `against` to select the second recipe's rows")
    if second is None and against == where:
        raise UsageError("selects the same rows as `where`; give another condition", argument="against", value=against)
    if names is not None and len(names) != 2:
        raise UsageError(f"needs two names, not {len(names)}", argument="names")
    sources = (first, first if second is None else second)
    conditions = (where, where if against is None else against)
    titles = tuple(names) if names is not None else _titles(sources, conditions, second is None)
    groups = [
        _group(source, columns, condition, title, argument)
        for source, condition, title, argument in zip(
            sources, conditions, titles, ("where", "where" if against is None else "against"), strict=True
        )
    ]
    options = recipes.RecipeOptions(count, law, factor, starts, draws, test_draws, seed)
    costs = costs_of([group.records for group in groups], count, gpu)
    return recipes.compare_recipes(groups[0], groups[1], (titles[0], titles[1]), options, costs)


def _group(source: Any, columns: Mapping[str, str] | None, where: str | None, title: str, argument: str) -> Group:
    return one_group(groups_of(read(source, columns, where), None, None, None, False, "final"), title, argument)


def _titles(sources: tuple[Any, Any], conditions: tuple[str | None, str | None], same: bool) -> tuple[str, str]:
    """Return names of the recipes: what tells them apart."""
    if same:
        first, second = (condition.replace("==", "=") if condition else "all runs" for condition in conditions)
        return first, second
    files = [Path(source) if isinstance(source, str | Path) else None for source in sources]
    if files[0] is not None and files[1] is not None:
        stems = [file.stem or str(file) for file in files if file is not None]
        return (stems[0], stems[1]) if stems[0] != stems[1] else (str(files[0]), str(files[1]))
    first, second = (
        default if file is None else file.stem for file, default in zip(files, ("first", "second"), strict=True)
    )
    return first, second
