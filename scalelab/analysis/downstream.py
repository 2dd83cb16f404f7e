"""From loss to accuracy: predictions for larger models, and what left-out runs say about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scalelab.analysis.accuracy import METHODS, Point, TaskModel, fit_task
from scalelab.analysis.sigmoid import LEAST_RUNS
from scalelab.analysis.streams_gain import StreamsGain, streams_gain
from scalelab.analysis.tasks import TaskRuns
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.derived import Estimate
from scalelab.fit.options import FitOptions
from scalelab.laws import Law
from scalelab.shown import Shown
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Accuracy:
    """Predicted accuracies of one model on one task; `task` is "average" for the mean over tasks."""

    task: str
    point: Point
    both: Estimate
    two_step: Estimate
    direct: Estimate | None


@dataclass(frozen=True)
class Check:
    """Errors of one method on left-out runs of a task that are larger than the fitted ones.

    Attributes:
        task: Name of the task.
        method: "two-step", "direct" or "both".
        runs: Number of left-out runs.
        error: Mean absolute relative error of their accuracy.
        held: Share of 95 % intervals that hold it.
    """

    task: str
    method: str
    runs: int
    error: float
    held: float


@dataclass(frozen=True)
class Downstream(Shown):
    """Accuracies of larger models, predicted from losses and accuracies of smaller ones.

    Attributes:
        law: Name of the law of losses and of −ln accuracy.
        models: The fits by task.
        rows: Predictions for each task and model, then those of the average over tasks.
        checks: Errors on left-out larger runs, by task and method.
        gains: What streams add to accuracy at equal loss, by task; empty if P does not vary.
        failures: Tasks that cannot be predicted, with the reason.
    """

    law: str
    models: dict[str, TaskModel]
    rows: tuple[Accuracy, ...]
    checks: tuple[Check, ...]
    gains: dict[str, StreamsGain]
    failures: dict[str, str]

    _report: ClassVar[str] = "scalelab.reports.downstream:downstream_report"
    _figure: ClassVar[str] = "scalelab.plot.downstream:plot_downstream"
    _json: ClassVar[str] = "scalelab.reports.downstream:downstream_json"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each task and model: accuracy with interval, and that of each method."""
        import pandas as pd

        made = []
        for row in self.rows:
            cells = {"task": row.task, "N": row.point.N, "P": row.point.P, "D": row.point.D}
            for name, found in (("accuracy", row.both), ("two_step", row.two_step), ("direct", row.direct)):
                ends = (None, None, None) if found is None else (found.value, found.low, found.high)
                cells |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
            made.append(cells)
        return pd.DataFrame(made)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Accuracy]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"<Downstream of {plural(len(self.models), 'task')}: {plural(len(self.rows), 'prediction')}>"


def predict_tasks(
    tasks: Sequence[TaskRuns],
    law: Law,
    options: FitOptions,
    points: Sequence[Point],
    hold_out: float | None,
    progress: Callable[[str, float], None] | None = None,
) -> Downstream:
    """Fit each task, predict `points`, and check the methods on larger runs that are left out.

    Args:
        tasks: Runs of each task.
        law: Law of losses.
        options: Options of the fits.
        points: Models to predict.
        hold_out: N from which on runs are left out for the check; None for the largest N.
        progress: Called with the stage and its completed fraction.

    Raises:
        ScalelabError: No task can be fitted.
    """
    models: dict[str, TaskModel] = {}
    checks: list[Check] = []
    gains: dict[str, StreamsGain] = {}
    failures: dict[str, str] = {}
    for number, runs in enumerate(tasks):
        name = runs.task.name
        if progress is not None:
            progress(f"fitting {name}", number / len(tasks))
        try:
            models[name] = fit_task(runs, law, options)
            checks += _checks(runs, law, options, hold_out)
            gain = streams_gain(runs, options.draws, options.seed)
        except UsageError:
            raise
        except ScalelabError as error:
            failures[name] = str(error).removeprefix(f"{name}: ")
            models.pop(name, None)
            continue
        gains |= {} if gain is None else {name: gain}
    if not models:
        first, why = next(iter(failures.items()))
        raise ScalelabError(f"no task can be predicted; {first}: {why}")
    rows = [_predicted(model, point) for model in models.values() for point in points]
    if len(models) > 1:
        rows += [_average(list(models.values()), point) for point in points]
    return Downstream(law.name, models, tuple(rows), tuple(checks), gains, failures)


def _predicted(model: TaskModel, point: Point) -> Accuracy:
    direct = None if model.direct is None else model.predict(point, "direct")[0]
    two_step = model.predict(point, "two-step")[0]
    return Accuracy(model.runs.task.name, point, model.predict(point)[0], two_step, direct)


def _average(models: Sequence[TaskModel], point: Point) -> Accuracy:
    """Return the mean accuracy over tasks, whose errors are taken as independent."""
    found = []
    for method in ("both", "two-step", "direct"):
        if method == "direct" and any(model.direct is None for model in models):
            found.append(None)
            continue
        each = [model.predict(point, method) for model in models]
        rng = np.random.default_rng(models[0].seed)
        n = min(len(draws) for _, draws in each)
        mixed = np.mean([rng.permutation(draws)[:n] for _, draws in each], axis=0)
        found.append(Estimate.of(float(np.mean([estimate.value for estimate, _ in each])), mixed))
    both, two_step, direct = found
    assert both is not None
    assert two_step is not None
    return Accuracy("average", point, both, two_step, direct)


def _checks(runs: TaskRuns, law: Law, options: FitOptions, hold_out: float | None) -> list[Check]:
    """Return the errors of the methods on the runs from `hold_out` on; none if too few runs are smaller."""
    N = runs.records["n_params"].to_numpy(dtype=float)
    if np.isnan(N).any():
        return []
    limit = N.max() * 0.75 if hold_out is None else hold_out
    left = limit <= N
    if left.all() or not left.any() or (~left).sum() < LEAST_RUNS:
        return []
    try:
        model = fit_task(runs.part(~left), law, options)
    except ScalelabError:
        return []
    rest = runs.part(left)
    found = []
    for method in METHODS:
        if method == "direct" and model.direct is None:
            continue
        guesses = [model.predict(point, method)[0] for point in points_of(rest, law)]
        errors = [abs(guess.value / true - 1) for guess, true in zip(guesses, rest.accuracy, strict=True)]
        held = [_holds(guess, true) for guess, true in zip(guesses, rest.accuracy, strict=True)]
        found.append(Check(runs.task.name, method, len(errors), float(np.mean(errors)), float(np.mean(held))))
    return found


def _holds(guess: Estimate, true: float) -> bool:
    return guess.low is not None and guess.high is not None and guess.low <= true <= guess.high


def points_of(runs: TaskRuns, law: Law) -> list[Point]:
    """Return the models of runs, with the variables that the law depends on."""
    records = runs.records
    N, P, D = (records[name].to_numpy(dtype=float) for name in ("n_params", "n_streams", "n_tokens"))
    streams = "P" in law.variables
    return [
        Point(
            float(N[i]) if "N" in law.variables else None,
            int(P[i]) if streams and not np.isnan(P[i]) else 1,
            float(D[i]) if "D" in law.variables else None,
        )
        for i in range(len(records))
    ]
