"""Forecasts on record: predictions written down before their runs, to be scored afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalelab.analysis.intervals import run_interval
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.fit.mixture import MixtureLaw

if TYPE_CHECKING:
    from scalelab.fit.answers import Predictions
    from scalelab.fit.result import FitResult

_VERSION = 1
_SAME = 1e-3  # relative difference up to which a configuration was measured already
_NUMBERS = ("loss", "low", "high", "factor")


@dataclass(frozen=True)
class Forecast:
    """A prediction of the loss of a run that was not measured yet.

    Attributes:
        time: When it was registered, ISO 8601 in UTC.
        group: Group of runs of the fit.
        law: The law, or the average over laws, with weights.
        data_hash: Hash of the runs of the fit.
        count: Definition of N: "paper", "backbone" or "total".
        N: Parameters, None for a law without N.
        P: Streams.
        D: Training tokens; for a law without D those of its runs, if they agree.
        others: Other variables of the law, by name.
        loss: Forecast loss, nats per token.
        low: Lower end of the 95 % interval for one run.
        high: Upper end.
        factor: Largest factor by which a variable is outside the range of the runs; 1 inside.
        known: Losses of runs of the fit with this configuration. They are not scored.
        version: Version of this format.
    """

    time: str
    group: str
    law: str
    data_hash: str
    count: str
    N: float | None
    P: int
    D: float | None
    loss: float
    low: float
    high: float
    factor: float
    others: Mapping[str, float] = field(default_factory=dict)
    known: tuple[float, ...] = ()
    version: int = _VERSION

    @property
    def point(self) -> tuple[Any, ...]:
        """The question that it answers, and the fit: the same point is registered once."""
        return (self.data_hash, self.law, self.N, self.P, self.D, *sorted(self.others.items()))


def make_forecasts(predictions: Predictions, now: datetime | None = None) -> list[Forecast]:
    """Return a forecast for each row of `predictions`.

    Raises:
        ScalelabError: The fit has no intervals.
    """
    fit = predictions.fit
    time = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    found = []
    for row in predictions:
        D = row.D if "D" in fit.law.variables else _only(fit.data.D)
        of_law = row.D if "D" in fit.law.variables else None
        loss = run_interval(fit, row.N, row.P, of_law, **row.others)
        if loss.low is None or loss.high is None or not np.isfinite([loss.low, loss.high]).all():
            raise ScalelabError(f"{fit.group}: the interval at N = {row.N}, P = {row.P} is open; add runs")
        found.append(
            Forecast(
                time,
                fit.group,
                fit.law.words if isinstance(fit.law, MixtureLaw) else fit.law.name,
                fit.data_hash,
                fit.options.convention,
                row.N,
                row.P,
                D,
                loss.value,
                loss.low,
                loss.high,
                outside(fit, N=row.N, P=row.P, D=of_law, **row.others),
                dict(row.others),
                tuple(_known(fit, row.N, row.P, D, row.others)),
            )
        )
    return found


def outside(fit: FitResult, **at: float | None) -> float:
    """Return the largest factor by which a variable is outside the range of the runs of `fit`; 1 if none is."""
    factors = [1.0]
    for name, value in at.items():
        if value is not None and name in fit.law.variables:
            seen = fit.data.values(name)  # type: ignore[arg-type]  # a variable of the law
            factors += [float(value / seen.max()), float(seen.min() / value)]
    return max(factors)


def register(forecasts: Iterable[Forecast], path: str | Path) -> list[Forecast]:
    """Append forecasts to a JSON Lines file, and return those that it did not hold yet.

    Raises:
        DataError: The file holds something else.
        UsageError: The file cannot be written.
    """
    path = Path(path)
    held = {forecast.point for forecast in read_forecasts(path)} if path.exists() else set()
    new = {forecast.point: forecast for forecast in forecasts if forecast.point not in held}
    lines = "".join(f"{json.dumps(asdict(forecast), allow_nan=False)}\n" for forecast in new.values())
    if not lines:
        return []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One write in append mode: several processes may register at the same time.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, lines.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
    return list(new.values())


def read_forecasts(path: str | Path) -> list[Forecast]:
    """Return the forecasts in a file, in the order in which they were registered.

    Raises:
        UsageError: There is no such file.
        DataError: A line is not a forecast; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file; write one with `predict` and `register`")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from None
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(line: str, where: str) -> Forecast:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON; remove the line, or restore the file") from None
    names = {each.name for each in fields(Forecast)}
    if not isinstance(found, dict) or not {*_NUMBERS, "P", "time", "group", "version"} <= {*found}:
        raise DataError(f"{where}: not a forecast of scalelab; choose a file of its own for forecasts")
    if found["version"] != _VERSION:
        raise DataError(f"{where}: version {found['version']!r} of the format is not supported; update scalelab")
    numbers = [found[name] for name in _NUMBERS]
    if not all(isinstance(value, int | float) and np.isfinite(value) and value > 0 for value in numbers):
        raise DataError(f"{where}: {', '.join(_NUMBERS)} must be positive numbers")
    found["known"] = tuple(found.get("known", ()))
    try:
        return Forecast(**{name: value for name, value in found.items() if name in names})
    except TypeError as error:
        raise DataError(f"{where}: not a forecast: {error}") from None


def _only(values: np.ndarray) -> float | None:
    """Return the value that all `values` share, or None."""
    return float(values[0]) if len(values) and np.isfinite(values).all() and np.ptp(values) == 0 else None


def _known(fit: FitResult, N: float | None, P: int, D: float | None, others: Mapping[str, float]) -> list[float]:
    data = fit.data
    same = np.ones(len(data.loss), dtype=bool)
    for name, value in {"N": N, "P": P, "D": D, **others}.items():
        if value is not None and name in data.known:
            same &= np.abs(data.values(name) / value - 1) < _SAME  # type: ignore[arg-type]
    return data.loss[same].tolist()
