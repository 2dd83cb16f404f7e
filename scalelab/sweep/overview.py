"""Overview of a sweep's folder: running sweeps, records by status, and the latest runs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from typing import Any

from scalelab.analysis.final_loss import Measured, RunFacts
from scalelab.errors import DataError
from scalelab.records.files import RUNS, read_record
from scalelab.records.store import curve_path
from scalelab.status import RunStatus
from scalelab.sweep.facts import facts_of_record
from scalelab.sweep.state import FOLDER, SweepState, read_states
from scalelab.sweep.tracker import describe_run

LATEST = 5


@dataclass(frozen=True)
class FinishedRun:
    """One record.

    Attributes:
        title: Short description.
        status: Its status.
        message: Its message.
        loss: Held-out loss in nats per token; None for values that the record lacks, here and below.
        loss_stderr: Standard error of the loss.
        tokens_per_s: Speed.
        ended: End of the run, Unix seconds.
        facts: Settings by which the run is compared with others.
        curve: File of its curve, which may not exist.
    """

    title: str
    status: str
    message: str
    loss: float | None
    loss_stderr: float | None
    tokens_per_s: float | None
    ended: float | None
    facts: RunFacts | None = None
    curve: Path | None = None

    @property
    def measured(self) -> Measured | None:
        """The final loss, for comparisons; None if the run is not ok."""
        if self.loss is None or self.facts is None or self.status != RunStatus.OK:
            return None
        return Measured(self.title, self.loss, self.facts)


@dataclass(frozen=True)
class Overview:
    """State of a folder.

    Attributes:
        sweeps: Sweeps that write to it, or were killed while they did.
        counts: Number of records by status.
        latest: The last runs that ended, oldest first.
        faults: A line for each unreadable file.
        ended: All recorded runs.
    """

    sweeps: list[SweepState]
    counts: Counter[str]
    latest: list[FinishedRun]
    faults: list[str]
    ended: list[FinishedRun] = field(default_factory=list)


class FolderWatcher:
    """Watcher of a sweep's folder, which reads only files that have changed since its last poll."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._cache: dict[tuple[Path, int, int], FinishedRun | str] = {}

    def poll(self) -> Overview:
        """Return the current state. It never raises for damaged files: `faults` describes them."""
        sweeps, faults = read_states(self.out)
        known = {}
        for file in sorted((self.out / RUNS).glob("[!.]*.parquet")):
            try:
                stat = file.stat()
            except OSError:  # replaced or moved away just now
                continue
            version = (file, stat.st_mtime_ns, stat.st_size)
            known[version] = self._cache.get(version) or _read(file)
        self._cache = known
        runs = [run for run in known.values() if isinstance(run, FinishedRun)]
        faults += [fault for fault in known.values() if isinstance(fault, str)]
        latest = sorted((run for run in runs if run.ended is not None), key=lambda run: run.ended or 0.0)
        return Overview(sweeps, Counter(run.status for run in runs), latest[-LATEST:], faults, runs)


def has_sweep(out: Path) -> bool:
    """Return true if a sweep writes to this folder or has written to it."""
    return (out / RUNS).is_dir() or (out / FOLDER).is_dir()


def _read(file: Path) -> FinishedRun | str:
    try:
        record = read_record(file)
    except DataError as error:
        return str(error)
    return FinishedRun(
        describe_run(*(_number(record.get(name)) for name in ("n_params", "n_streams", "n_tokens", "seed"))),
        str(record["status"]),
        _text(record.get("message")),
        _number(record.get("loss")),
        _number(record.get("loss_stderr")),
        _number(record.get("tokens_per_s")),
        _time(_text(record.get("created_utc"))),
        facts_of_record(record),
        curve_path(file.parent.parent, file.stem),
    )


def _number(value: Any) -> float | None:
    return value if isinstance(value, Real) and math.isfinite(value) else None  # type: ignore[return-value]


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _time(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
