"""Results derived from a fit: predictions, compute-optimal allocations, profiles and residuals, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.derived import (
    Allocation,
    Estimate,
    compute_optimal,
    doubling_gain,
    extrapolation_notes,
    n_equivalent,
    predicted,
)
from scalelab.fit.mixture import MixtureLaw, law_share
from scalelab.fit.result import FitResult, Note
from scalelab.shown import Shown
from scalelab.units import counts, one_count, whole_numbers

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from scalelab.fit.profile import Profile


@dataclass(frozen=True)
class Prediction:
    """The predicted loss at one N, P and D.

    `n_equivalent` and `doubling_gain` are None for a law without N and P, `doubling_gain` also where the law is
    undefined at 2P. `others` are the variables except N, P and D, such as C, by name. `law_share` is the share of the
    variance of `loss` that is between the laws of an average, None for one law.
    """

    N: float | None
    P: int
    D: float | None
    loss: Estimate
    n_equivalent: Estimate | None
    doubling_gain: Estimate | None
    notes: tuple[Note, ...]
    others: Mapping[str, float] = field(default_factory=dict)
    law_share: float | None = None


@dataclass(frozen=True)
class Predictions(Shown):
    """Predictions of one fit. NumPy treats them as an array of the losses."""

    fit: FitResult
    rows: tuple[Prediction, ...]

    _report: ClassVar[str] = "scalelab.reports.predictions:predictions_report"
    _figure: ClassVar[str] = "scalelab.plot.predictions:plot_predictions"
    _json: ClassVar[str] = "scalelab.reports.predictions:predictions_json"

    @property
    def notes(self) -> tuple[Note, ...]:
        """Serious notes of the fit, and notes on points outside the range of its runs, without duplicates."""
        found = (*_serious(self.fit), *(note for row in self.rows for note in row.notes))
        return tuple({(note.code, note.message): note for note in found}.values())

    def register(self, path: str | Path) -> int:
        """Append the predictions to a file of forecasts, to be scored by `score_forecasts` once the runs are done.

        Args:
            path: JSON Lines file, made if there is none.

        Returns:
            The number of new forecasts; a point that the file holds for this fit is not repeated.

        Raises:
            ScalelabError: The fit has no intervals.
            DataError: The file holds something else.
        """
        module = import_module("scalelab.analysis.forecasts")
        return len(module.register(module.make_forecasts(self), path))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per point, unrounded."""
        found = _frame(self.rows, ("loss", "n_equivalent", "doubling_gain"), ("N", "P", "D"))
        if isinstance(self.fit.law, MixtureLaw):
            found["law_share"] = [row.law_share for row in self.rows]
        return found

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> Prediction:
        return self.rows[index]

    def __float__(self) -> float:
        (row,) = self.rows
        return row.loss.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array([row.loss.value for row in self.rows], dtype=dtype)

    def __repr__(self) -> str:
        return f"<Predictions {self.fit.group}, {self.fit.law.title}: {_short([row.loss for row in self.rows])}>"


@dataclass(frozen=True)
class Allocations(Shown):
    """Compute-optimal N and D for training budgets, from one fit."""

    fit: FitResult
    rows: tuple[Allocation, ...]

    _report: ClassVar[str] = "scalelab.reports.predictions:allocations_report"
    _json: ClassVar[str] = "scalelab.reports.predictions:allocations_json"

    @property
    def notes(self) -> tuple[Note, ...]:
        """Serious notes of the fit, and notes on points outside the range of its runs, without duplicates."""
        found = [*_serious(self.fit), *(note for row in self.rows for note in self.notes_of(row))]
        return tuple({(note.code, note.message): note for note in found}.values())

    def notes_of(self, row: Allocation) -> list[Note]:
        """Return a note for each variable of `row` that is outside the range of the runs."""
        if row.N is None or row.D is None:
            return extrapolation_notes(self.fit, C=row.flops)
        return extrapolation_notes(self.fit, row.N.value, row.P, row.D.value)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per budget and P, unrounded."""
        return _frame(self.rows, ("N", "D", "loss"), ("flops", "P"))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Allocation]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> Allocation:
        return self.rows[index]

    def __repr__(self) -> str:
        sizes = [row.N for row in self.rows if row.N is not None]
        text = f"N {_short(sizes)}" if sizes else f"loss {_short([row.loss for row in self.rows])}"
        return f"<Allocations {self.fit.group}, {self.fit.law.title}: {text}>"


@dataclass(frozen=True)
class Profiles(Shown):
    """Profile likelihoods of the parameters of one fit, by name."""

    fit: FitResult
    profiles: Mapping[str, Profile]

    _report: ClassVar[str] = "scalelab.reports.fits:profiles_report"
    _figure: ClassVar[str] = "scalelab.plot.fits:plot_profile_set"

    def to_frame(self) -> pd.DataFrame:
        """Return value, lower and upper end of the interval per parameter; an open end is NaN."""
        import pandas as pd

        rows = {name: (self.fit.values[name], *found.interval) for name, found in self.profiles.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"], dtype=float)

    def __getitem__(self, name: str) -> Profile:
        return self.profiles[name]

    def __repr__(self) -> str:
        return f"<Profiles {self.fit.group}: {', '.join(self.profiles)}>"


def predict(fit: FitResult, N: Any = None, P: Any = 1, D: Any = None, **others: Any) -> Predictions:
    """Return predictions for all combinations of N, P, D and the `others`."""
    sizes, tokens = _optional(N, "N"), _optional(D, "D")
    more = {name: counts(values, name) for name, values in others.items() if values is not None}
    rows = (
        _prediction(fit, size, streams, seen, dict(zip(more, rest, strict=True)))
        for size in sizes
        for streams in whole_numbers(P, "P")
        for seen in tokens
        for rest in product(*more.values())
    )
    return Predictions(fit, tuple(rows))


def _optional(values: Any, name: str) -> Sequence[float | None]:
    return (None,) if values is None else counts(values, name)


def _prediction(fit: FitResult, N: float | None, P: int, D: float | None, others: Mapping[str, float]) -> Prediction:
    loss, worth, gain = predicted(fit, N, P, D, **others), None, None
    if "P" in fit.law.variables and N is not None:
        worth = n_equivalent(fit, N, P, D, **others)
        with suppress(ScalelabError):  # where streams raise the loss, the law may be undefined at 2P
            gain = doubling_gain(fit, N, P, D, **others)
    notes = extrapolation_notes(fit, N, P, D, **others)
    share = None
    if isinstance(fit.law, MixtureLaw) and fit.draws:
        share = law_share(fit, fit.evaluate(np.array(fit.draws), N, P, D, **others))
    return Prediction(N, P, D, loss, worth, gain, tuple(notes), others, share)


def allocate(fit: FitResult, flops: Any, P: Any = 1) -> Allocations:
    """Return compute-optimal N and D for all combinations of training budget (FLOPs) and P."""
    points = product(counts(flops, "flops"), whole_numbers(P, "P"))
    return Allocations(fit, tuple(compute_optimal(fit, budget, streams) for budget, streams in points))


def point(N: Any, P: Any, D: Any) -> tuple[float, float, float | None]:
    """Return N, P and D as numbers. Raises `UsageError` naming the argument that is not a positive number."""
    return one_count(N, "N"), one_count(P, "P"), None if D is None else one_count(D, "D")


def profiles(fit: FitResult, names: Sequence[str] = ()) -> Profiles:
    """Return the profiles of `names`, or of all fitted parameters. Raises `UsageError` for a parameter without one."""
    from scalelab.fit.profile import profile_fit

    found = {name: profile_fit(fit, name) for name in names or fit.law.names}
    for name in names:
        if found[name] is None:
            raise UsageError(f"no profile of {name}: it is fixed, or the fit has no intervals")
    return Profiles(fit, {name: profile for name, profile in found.items() if profile is not None})


def residuals(fit: FitResult) -> pd.DataFrame:
    """Return one row per run with measured and predicted loss, and the difference in percent."""
    import pandas as pd

    data, off = fit.data, np.array(fit.log_residuals)
    return pd.DataFrame(
        {
            "N": data.N,
            "P": data.P.astype(int),
            "D": data.D,
            **data.others,
            "loss": data.loss,
            "predicted": data.loss * np.exp(off),
            "percent": 100 * np.expm1(off),
            "weight": data.weight,
        }
    )


def parameter_table(fit: FitResult) -> pd.DataFrame:
    """Return value, interval and unit per parameter."""
    import pandas as pd

    rows = [
        (p.name, float(value), value.low, value.high, p.unit, p.name in fit.fixed)
        for p, value in zip(fit.law.parameters, fit.params.values(), strict=True)  # type: ignore[attr-defined]
    ]
    columns = ["parameter", "value", "low", "high", "unit", "fixed"]
    return pd.DataFrame(rows, columns=columns).set_index("parameter")


def _serious(fit: FitResult) -> list[Note]:
    return [note for note in fit.notes if note.severity == "serious"]


def _frame(rows: Sequence[Any], estimates: Sequence[str], plain: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    made = []
    for row in rows:
        cells = {name: getattr(row, name) for name in plain} | dict(getattr(row, "others", {}))
        for name in estimates:
            found: Estimate | None = getattr(row, name)
            ends = (None, None, None) if found is None else (found.value, found.low, found.high)
            cells |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        made.append(cells)
    return pd.DataFrame(made)


def _short(estimates: Sequence[Estimate]) -> str:
    more = f" and {len(estimates) - 3} more" if len(estimates) > 3 else ""
    return ", ".join(str(found) for found in estimates[:3]) + more
