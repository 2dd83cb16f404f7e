"""Accuracy on downstream tasks of models that nobody has trained yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.analysis.downstream import Downstream
from scalelab.errors import UsageError
from scalelab.fit import FitOptions
from scalelab.units import counts, one_count, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from scalelab.analysis.accuracy import Point
    from scalelab.analysis.tasks import Task
    from scalelab.laws import Law
    from scalelab.records import RunTable

__all__ = ["predict_downstream"]


def predict_downstream(
    data: str | Path | pd.DataFrame | RunTable,
    tasks: Mapping[str, str] | Sequence[str] | str | None = None,
    *,
    losses: Mapping[str, str] | str | None = None,
    N: Any = None,
    P: Any = None,
    D: Any = None,
    law: str | Law | None = None,
    smooth: int = 1,
    hold_out: Any = None,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    starts: int = 100,
    draws: int = 500,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Downstream:
    """Predict accuracies of larger models from losses and accuracies of smaller ones.

    Two ways are fitted to each task. In two steps, a law predicts the task's loss, and a sigmoid with a floor and a
    ceiling predicts the accuracy from it. Directly, the same law without a floor predicts −ln accuracy. The prediction
    is the mean of both, and its interval spans both.

    Args:
        data: Runs with accuracies: a table, a file, or a folder of records of a sweep with `eval`.
        tasks: Columns of accuracies, as shares or in percent: names, or a mapping from task to column or expression. By
            default those of a sweep.
        losses: Column of each task's own loss, such as bits per byte of the right answer: a mapping from task, or one
            column for all. By default the loss of the run.
        N: Parameters of the models to predict.
        P: Streams of these models, by default 1.
        D: Training tokens of these models, for laws with D.
        law: Law of the losses; by default one of the variables that the runs vary, such as joint or chinchilla.
        smooth: Evaluations at the end of a run whose mean counts, for tables with several rows per run.
        hold_out: N from which on runs are left out to check both ways; by default the largest.
        columns: Map from field to column or expression, as for `read`.
        where: Condition that selects rows, as for `read`.
        starts: Starting points of the optimiser.
        draws: Bootstrap draws.
        seed: Seed of starting points and bootstrap.
        progress: Called with the stage and its completed fraction.

    Returns:
        Accuracies with 95 % intervals for each task and on average, errors on left-out larger runs, and what streams
        add at equal loss.

    Raises:
        UsageError: An argument is wrong; `argument` names it.
        DataError: A file cannot be read, or a column holds no accuracies.
        ScalelabError: No task can be predicted.
    """
    from scalelab.analysis.downstream import predict_tasks
    from scalelab.analysis.tasks import task_runs
    from scalelab.api.reporting import default_law
    from scalelab.laws import get_law
    from scalelab.records import RunTable, read

    if smooth < 1:
        raise UsageError("give 1 or more", argument="smooth", value=smooth)
    if draws < 100:
        raise UsageError("give 100 or more", argument="draws", value=draws)
    source = data.records if isinstance(data, RunTable) else data
    if tasks is None:
        tasks = _of_sweep(read(source, columns, where), data)
    asked = _tasks(tasks, losses)
    runs = [task_runs(source, task, columns, where, smooth) for task in asked]
    chosen = get_law(law) if law is not None else default_law(_as_table(runs[0].records))
    points = _points(chosen, N, P, D)
    limit = None if hold_out is None else one_count(hold_out, "hold_out")
    options = FitOptions(starts=starts, draws=draws, seed=seed)
    return predict_tasks(runs, chosen, options, points, limit, progress)


def _of_sweep(table: RunTable, data: Any) -> dict[str, str]:
    """Return the accuracies in records of a sweep, by task."""
    from scalelab.records.evaluations import ACCURACY, accuracies

    found = {name.removeprefix(ACCURACY): name for name in accuracies(table.records.columns)}
    if not found:
        source = data if isinstance(data, str | Path) else "the table"
        raise UsageError(f"{source} has no accuracies of a sweep; name the columns of accuracies with `tasks`")
    return found


def _tasks(tasks: Mapping[str, str] | Sequence[str] | str, losses: Mapping[str, str] | str | None) -> list[Task]:
    from scalelab.analysis.tasks import Task

    names = [tasks] if isinstance(tasks, str) else list(tasks)
    found = {name: tasks[name] if isinstance(tasks, Mapping) else name for name in names}
    if not found:
        raise UsageError("name a column of accuracies", argument="tasks")
    if isinstance(losses, Mapping):
        unknown = [name for name in losses if name not in found]
        if unknown:
            raise UsageError(f"no such task; choose from {', '.join(found)}", argument="losses", value=unknown[0])
    return [
        Task(name, column, losses.get(name) if isinstance(losses, Mapping) else losses)
        for name, column in found.items()
    ]


def _as_table(records: Any) -> RunTable:
    from scalelab.records import RunTable

    return RunTable(records, (), 0)


def _points(law: Law, N: Any, P: Any, D: Any) -> list[Point]:
    from scalelab.analysis.accuracy import Point

    for name, values in (("N", N), ("D", D)):
        if name in law.variables and values is None:
            raise UsageError(f"the {law.name} law depends on {name}: give `{name}` of the models to predict")
        if name not in law.variables and values is not None:
            raise UsageError(f"the {law.name} law does not depend on it; leave it out", argument=name)
    if set(law.variables) - {"N", "P", "D"}:
        raise UsageError("only laws of N, P and D are supported", argument="law", value=law.name)
    if P is not None and "P" not in law.variables:
        raise UsageError(f"the {law.name} law does not depend on it; leave it out", argument="P")
    sizes = [None] if N is None else list(counts(N, "N"))
    tokens = [None] if D is None else list(counts(D, "D"))
    # Several N with as many D are pairs, as of models that are known; else all combinations are predicted.
    pairs = list(zip(sizes, tokens, strict=True)) if len(sizes) == len(tokens) > 1 else list(product(sizes, tokens))
    return [Point(n, p, d) for n, d in pairs for p in whole_numbers(1 if P is None else P, "P")]
