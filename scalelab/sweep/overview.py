"""What there is below a sweep's folder just now: sweeps that run, records by status, the latest of them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from typing import Any

from scalelab.errors import DataError
from scalelab.records.files import RUNS, read_record
from scalelab.sweep.state import FOLDER, SweepState, read_states
from scalelab.sweep.tracker import describe_run

LATEST = 5


@dataclass(frozen=True)
class FinishedRun:
    """One record. `loss` in nats per token; `ended` in Unix seconds; None what the record does not tell."""

    title: str
    status: str
    message: str
    loss: float | None
    loss_stderr: float | None
    tokens_per_s: float | None
    ended: float | None


@dataclass(frozen=True)
class Overview:
    """`latest` are the last few runs that have ended, the last one last; `faults` files that cannot be read."""

    sweeps: list[SweepState]
    counts: Counter[str]  # of records, by status
    latest: list[FinishedRun]
    faults: list[str]


class Observatory:
    """Looks at a sweep's folder again and again, reading again only what has changed."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._known: dict[tuple[Path, int, int], FinishedRun | str] = {}

    def look(self) -> Overview:
        """What is there now. Nothing in the folder raises: what cannot be read is told in `faults`."""
        sweeps, faults = read_states(self.out)
        known = {}
        for file in sorted((self.out / RUNS).glob("[!.]*.parquet")):
            try:
                found = file.stat()
            except OSError:  # replaced or moved away just now
                continue
            mark = (file, found.st_mtime_ns, found.st_size)
            known[mark] = self._known.get(mark) or _read(file)
        self._known = known
        runs = [run for run in known.values() if isinstance(run, FinishedRun)]
        faults += [fault for fault in known.values() if isinstance(fault, str)]
        latest = sorted((run for run in runs if run.ended is not None), key=lambda run: run.ended or 0.0)
        return Overview(sweeps, Counter(run.status for run in runs), latest[-LATEST:], faults)


def has_sweep(out: Path) -> bool:
    """Whether a sweep writes to this folder, or has written to it."""
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
