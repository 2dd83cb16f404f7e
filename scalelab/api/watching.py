"""State of the sweeps that write to a folder, with forecasts of the runs in progress."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scalelab.errors import UsageError
from scalelab.shown import Shown
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.sweep.outlook import Outlook, Outlooks
    from scalelab.sweep.overview import FinishedRun
    from scalelab.sweep.state import SweepState
    from scalelab.sweep.tracker import RunningTask

__all__ = ["FolderWatch", "Watched", "watch"]


@dataclass(frozen=True)
class Watched(Shown):
    """State of a folder at one moment.

    Attributes:
        folder: The folder.
        sweeps: Sweeps that write to it, or were killed while they did.
        counts: Number of records by status.
        latest: The last runs that ended, oldest first.
        faults: A line for each unreadable file.
        outlooks: Forecasts of running runs, by their settings.
    """

    folder: Path
    sweeps: list[SweepState]
    counts: Counter[str]
    latest: list[FinishedRun]
    faults: list[str]
    outlooks: Outlooks

    _report: ClassVar[str] = "scalelab.reports.watching:watched_report"
    _json: ClassVar[str] = "scalelab.reports.watching:watched_json"

    @property
    def is_running(self) -> bool:
        """True if a sweep is running."""
        return any(sweep.is_running for sweep in self.sweeps)

    @property
    def running(self) -> list[RunningTask]:
        """The tasks in progress, of all running sweeps."""
        return _running(self.sweeps)

    def outlook(self, run: RunningTask) -> Outlook | None:
        """Return the forecast of a running run, or None for training that several runs share."""
        return None if run.facts is None else self.outlooks.get(run.facts)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each task in progress, with its forecast."""
        import pandas as pd

        from scalelab.reports.watching import TASK_COLUMNS, task_json

        columns = (*TASK_COLUMNS, "forecast", "low", "high", "learned_from", "reason", "will_not_beat")
        rows: list[dict[str, Any]] = []
        for task in self.running:
            values = task_json(self, task)
            made, rival = values.pop("forecast"), values.pop("will_not_beat")
            names = {"loss": "forecast", "low": "low", "high": "high", "runs": "learned_from", "reason": "reason"}
            values |= {name: getattr(made, source, None) for source, name in names.items()}
            rows.append(values | {"will_not_beat": None if rival is None else rival["loss"]})
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        running = sum(sweep.is_running for sweep in self.sweeps)
        return f"<Watched {self.folder}: {plural(running, 'sweep')} running, {plural(len(self.running), 'task')}>"


class FolderWatch:
    """Watch of one folder, which reads only files that have changed since its last poll.

    Raises:
        UsageError: There is no such folder, or no sweep has written to it.
    """

    def __init__(self, folder: str | Path) -> None:
        from scalelab.sweep.outlook import Forecaster
        from scalelab.sweep.overview import FolderWatcher, has_sweep

        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder}: no such folder")
        if not has_sweep(self.folder):
            below = sorted(path.name for path in self.folder.iterdir() if path.is_dir() and has_sweep(path))
            advice = f"try {self.folder / below[0]}" if below else "start one with a sweep whose `out` is this folder"
            raise UsageError(f"{self.folder}: no sweep has written to this folder; {advice}")
        self._watcher, self._forecaster = FolderWatcher(self.folder), Forecaster()

    def poll(self) -> Watched:
        """Return the current state. Damaged files are in its `faults`."""
        seen = self._watcher.poll()
        outlooks = self._forecaster.update(seen.ended, _running(seen.sweeps))
        return Watched(self.folder, seen.sweeps, seen.counts, seen.latest, seen.faults, outlooks)


def _running(sweeps: list[SweepState]) -> list[RunningTask]:
    return [task for sweep in sweeps if sweep.is_running for task in sweep.progress.running]


def watch(folder: str | Path) -> Watched:
    """Return the state of the sweeps that write to a folder, from any machine that can read it.

    The final loss of each run in progress is forecast from its curve so far and the curves of the finished runs in the
    same folder with the same text and schedule, of which there must be five or more. A run whose interval is above the
    loss of a finished run with no more parameters, streams, tokens and FLOPs "will not beat" it; nothing is stopped.

    Args:
        folder: Folder that a sweep writes to.

    Returns:
        The state, with `to_frame` for the runs in progress and their forecasts.

    Raises:
        UsageError: There is no such folder, or no sweep has written to it.
    """
    return FolderWatch(folder).poll()
