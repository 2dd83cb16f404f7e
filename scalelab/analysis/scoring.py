"""Forecasts against the runs that came after them, and calibration by distance from the runs of the fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scalelab.analysis.forecasts import Forecast
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.data import FitData, fit_data
from scalelab.fit.groups import Group
from scalelab.shown import Shown
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd

SAME_POINT = 0.01  # relative difference of N, D and other variables up to which a run is that of a forecast
# Factors outside the range of the runs of a fit, by which forecasts are summarised.
BANDS = ((1.0, "within the runs"), (2.0, "up to 2×"), (10.0, "up to 10×"), (np.inf, "beyond 10×"))
_INSIDE = 1.0005


@dataclass(frozen=True)
class Scored:
    """A forecast and the loss of one run that was measured after it."""

    forecast: Forecast
    measured: float

    @property
    def error(self) -> float:
        """Forecast over measured loss, minus 1."""
        return self.forecast.loss / self.measured - 1

    @property
    def held(self) -> bool:
        """True if the measured loss is in the interval."""
        return self.forecast.low <= self.measured <= self.forecast.high


@dataclass(frozen=True)
class Band:
    """Forecasts at similar distances from the runs of their fit."""

    label: str
    count: int
    held: float  # share of the intervals that hold the measured loss
    error: float  # mean absolute relative error
    bias: float  # mean relative error


@dataclass(frozen=True)
class Calibration(Shown):
    """Scored forecasts, and how often their intervals held.

    Attributes:
        title: Source of the forecasts.
        rows: Forecasts with a measured loss, several where runs were repeated.
        open: Forecasts without a run.
    """

    title: str
    rows: tuple[Scored, ...]
    open: tuple[Forecast, ...] = ()

    _report: ClassVar[str] = "scalelab.reports.forecasts:calibration_report"
    _figure: ClassVar[str] = "scalelab.plot.forecasts:plot_calibration"
    _json: ClassVar[str] = "scalelab.reports.forecasts:calibration_json"

    @property
    def bands(self) -> tuple[Band, ...]:
        """Share of intervals that held and errors, by factor outside the runs; all forecasts come last."""
        found, below = [], 0.0
        for limit, label in BANDS:
            top = _INSIDE if limit == 1.0 else limit
            found.append(_band(label, [row for row in self.rows if below < row.forecast.factor <= top]))
            below = top
        return (*(band for band in found if band.count), _band("all", self.rows))

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each scored forecast, unrounded."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    **{name: getattr(row.forecast, name) for name in ("time", "group", "law", "N", "P", "D")},
                    **row.forecast.others,
                    **{name: getattr(row.forecast, name) for name in ("loss", "low", "high", "factor")},
                    "measured": row.measured,
                    "error": row.error,
                    "held": row.held,
                }
                for row in self.rows
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Scored]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"<Calibration of {plural(len(self.rows), 'forecast')}, {len(self.open)} without a run>"


def _band(label: str, rows: Sequence[Scored]) -> Band:
    errors = np.array([row.error for row in rows])
    held = np.array([row.held for row in rows], dtype=float)
    if not len(rows):
        return Band(label, 0, np.nan, np.nan, np.nan)
    return Band(label, len(rows), float(held.mean()), float(np.abs(errors).mean()), float(errors.mean()))


def score(
    forecasts: Sequence[Forecast], groups: Sequence[Group], named: Mapping[str, Group], title: str
) -> Calibration:
    """Compare forecasts with runs.

    A run is that of a forecast if P is the same and all other variables agree within 1 %. Losses that the fit knew are
    not scored.

    Args:
        forecasts: Forecasts.
        groups: All runs, in groups.
        named: Groups by name. Only the runs of this group count for a forecast of a group of that name.
        title: Source of the forecasts.

    Raises:
        ScalelabError: The data cannot be read with the forecast's count of N.
        UsageError: No forecast has a run in the data.
    """
    rows: list[Scored] = []
    waiting: list[Forecast] = []
    read: dict[tuple[str, str], FitData] = {}
    for forecast in forecasts:
        measured: list[float] = []
        for group in [named[forecast.group]] if forecast.group in named else groups:
            key = (group.title, forecast.count)
            if key not in read:
                read[key] = fit_data(group.records, forecast.count, group.title, variables_of(forecasts))
            measured += _measured(forecast, read[key])
        new = [loss for loss in measured if not any(np.isclose(loss, known, rtol=1e-9) for known in forecast.known)]
        rows += [Scored(forecast, loss) for loss in new]
        waiting += [] if new else [forecast]
    if not rows:
        some = f"{plural(len(waiting), 'forecast')} without a run"
        raise UsageError(f"{title}: {some} in these data: no run has the N, P and D of a forecast within 1 %")
    return Calibration(title, tuple(rows), tuple(waiting))


def variables_of(forecasts: Sequence[Forecast]) -> set:
    """Return the variables of all forecasts."""
    return {"N", "P", "D"} | {name for forecast in forecasts for name in forecast.others}


def _measured(forecast: Forecast, data: FitData) -> list[float]:
    same = data.P == forecast.P
    for name, value in {"N": forecast.N, "D": forecast.D, **forecast.others}.items():
        if value is None:
            continue
        if name not in data.known:
            raise ScalelabError(f"these data have no {name}, which the forecasts of {forecast.group} depend on")
        same &= np.abs(data.values(name) / value - 1) <= SAME_POINT  # type: ignore[arg-type]
    return data.loss[same].tolist()
