"""Forecasts of the final losses of running runs, from the finished runs in the same folder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalelab.analysis.final_loss import (
    FinalLoss,
    Measured,
    RunFacts,
    TrainedRun,
    find_rival,
    forecast_final,
    nearest,
)
from scalelab.errors import ScalelabError
from scalelab.records.files import read_curve
from scalelab.sweep.facts import finished_run, running_run
from scalelab.sweep.overview import FinishedRun
from scalelab.sweep.tracker import RunningTask

_STEP = 0.005  # share of a run after which its forecast is made again
_REST = 30.0  # pause after some forecasts, as a multiple of the time that they took: training may need the core


@dataclass(frozen=True)
class Outlook:
    """Forecast of a running run, and the best finished run at no higher cost that it will not beat."""

    forecast: FinalLoss
    rival: Measured | None = None


Outlooks = Mapping[RunFacts, Outlook]


class Forecaster:
    """Maker of forecasts that reads each curve once, and forecasts a run again only when something has changed.

    It takes at most about 3 % of a core.
    """

    def __init__(self) -> None:
        self._curves: dict[Path, TrainedRun | None] = {}
        self._made: dict[RunFacts, tuple[int, Outlook]] = {}
        self._rest_until = 0.0

    def update(self, ended: Sequence[FinishedRun], running: Iterable[RunningTask]) -> Outlooks:
        """Return the outlook of each running run that is not shared training.

        Args:
            ended: All recorded runs of the folder.
            running: The running tasks.
        """
        began = time.monotonic()
        if began < self._rest_until:
            return {facts: outlook for facts, (_, outlook) in self._made.items()}
        measured = [(run, known) for run in ended if (known := run.measured) is not None]
        current: dict[RunFacts, tuple[int, Outlook]] = {}
        for task in running:
            if task.facts is None:
                continue
            before = self._made.get(task.facts)
            if before is None or self._is_old(before, task, len(measured)):
                before = len(measured), self._make(measured, task.facts, task)
            current[task.facts] = before
        self._made = current
        ended_at = time.monotonic()
        self._rest_until = ended_at + _REST * (ended_at - began)
        return {facts: outlook for facts, (_, outlook) in current.items()}

    @staticmethod
    def _is_old(before: tuple[int, Outlook], task: RunningTask, n_measured: int) -> bool:
        known, outlook = before
        share = task.curve[-1][0] / task.steps if task.curve else 0.0
        return known != n_measured or not 0 <= share - outlook.forecast.share < _STEP

    def _make(self, measured: list[tuple[FinishedRun, Measured]], facts: RunFacts, task: RunningTask) -> Outlook:
        like = [(run, known) for run, known in measured if known.facts.like(facts)]
        chosen = [like[i] for i in nearest([known.facts for _, known in like], facts)]
        curves = [curve for run, known in chosen if (curve := self._curve(run, known)) is not None]
        forecast = forecast_final(running_run(facts, task.curve, task.steps), curves)
        return Outlook(forecast, find_rival(facts, forecast, (known for _, known in measured)))

    def _curve(self, run: FinishedRun, known: Measured) -> TrainedRun | None:
        """Return a finished run with its curve; None if it has none that can be read."""
        if run.curve is None:
            return None
        if run.curve not in self._curves:
            try:
                curve = read_curve(run.curve)
            except ScalelabError:  # missing, or damaged and named by `scalelab results check`
                self._curves[run.curve] = None
            else:
                self._curves[run.curve] = finished_run(known.facts, curve, known.loss) if len(curve) else None
        return self._curves[run.curve]
