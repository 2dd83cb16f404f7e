"""Predictions of accuracy on one task: in two steps through the task's loss, and directly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scalelab.analysis.intervals import run_draws
from scalelab.analysis.sigmoid import LEAST_RUNS, Sigmoid, accuracy_at, fit_sigmoid
from scalelab.analysis.tasks import TaskRuns, check_enough
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.core import fit_group
from scalelab.fit.derived import Estimate
from scalelab.fit.options import FitOptions
from scalelab.fit.result import FitResult
from scalelab.laws import Law
from scalelab.laws.base import Array

METHODS = ("two-step", "direct", "both")
_LOWEST = 1e-3  # accuracy, so that its logarithm is finite


@dataclass(frozen=True)
class Point:
    """A model to predict: N, P and D; None where the law does not depend on it."""

    N: float | None
    P: int
    D: float | None


@dataclass(frozen=True)
class TaskModel:
    """Both ways to predict the accuracy on a task.

    Attributes:
        runs: The runs that were fitted.
        loss: Law of the task's loss.
        sigmoid: Accuracy over the task's loss.
        direct: Law of −ln accuracy, without a floor; None if it cannot be fitted.
        seed: Seed of the errors of single runs.
    """

    runs: TaskRuns
    loss: FitResult
    sigmoid: Sigmoid
    direct: FitResult | None
    seed: int

    def predict(self, point: Point, method: str = "both") -> tuple[Estimate, Array]:
        """Return the accuracy of a new model with its 95 % interval, and the draws behind it.

        The interval has the scatter of single runs. With both methods the value is the mean of the two and the draws
        are of both, so that the interval spans what they disagree on.
        """
        at = {"N": point.N, "P": point.P, "D": point.D}
        parts: list[tuple[float, Array]] = []
        if method != "direct":
            parts.append(self._two_step(at))
        if method != "two-step" and self.direct is not None:
            parts.append(self._direct(self.direct, at))
        if not parts:
            raise ScalelabError(f"{self.runs.task.name}: these runs cannot be fitted directly; use the two steps")
        value = float(np.mean([value for value, _ in parts]))
        draws = np.clip(np.concatenate([draws for _, draws in parts]), 0.0, 1.0)
        return Estimate.of(value, draws), draws

    def _two_step(self, at: dict) -> tuple[float, Array]:
        rng = np.random.default_rng(self.seed)
        value = float(self.sigmoid(self.loss.losses(**at)))
        losses = run_draws(self.loss, self.seed, **at)
        n = min(len(losses), len(self.sigmoid.draws))
        return value, accuracy_at(losses[:n], self.sigmoid.draws[:n]) + rng.normal(0, self.sigmoid.sd, n)

    def _direct(self, fit: FitResult, at: dict) -> tuple[float, Array]:
        return float(np.exp(-fit.losses(**at))), np.exp(-run_draws(fit, self.seed + 1, **at))


def fit_task(runs: TaskRuns, law: Law, options: FitOptions) -> TaskModel:
    """Fit both ways of predicting accuracy to the runs of a task.

    Raises:
        ScalelabError: There are too few runs, or the law of the loss cannot be fitted.
    """
    check_enough(runs, LEAST_RUNS)
    loss = fit_group(runs.group(), law, options)
    if loss.failure or not loss.draws:
        raise ScalelabError(f"{runs.task.name}: the law of its loss cannot be used: {loss.failure or 'no intervals'}")
    sigmoid = fit_sigmoid(runs.loss, runs.accuracy, options.draws, np.random.default_rng(options.seed))
    return TaskModel(runs, loss, sigmoid, _fit_direct(runs, law, options), options.seed)


def _fit_direct(runs: TaskRuns, law: Law, options: FitOptions) -> FitResult | None:
    """Fit −ln accuracy by a law without a floor; None if that is not possible."""
    falling = -np.log(np.clip(runs.accuracy, _LOWEST, 1 - _LOWEST))
    try:
        found = fit_group(runs.group(falling), law, replace(options, fix={"E": 0.0}))
    except UsageError:
        raise
    except ScalelabError:
        return None
    return None if found.failure or not found.draws else found
