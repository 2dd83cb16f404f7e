"""The result of a fit: a frozen object with parameters, intervals, notes and predictions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from scalelab import __version__
from scalelab.errors import UsageError
from scalelab.fit.data import COLUMNS, CONVENTIONS, FitData
from scalelab.fit.options import FitOptions
from scalelab.fit.values import Parameters
from scalelab.laws import Law, Points
from scalelab.laws.base import VARIABLES, Array, Variable
from scalelab.shown import Shown, load_name
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.fit.answers import Allocations, Predictions, Profiles
    from scalelab.fit.derived import Estimate
    from scalelab.fit.mixture import LawWeight

LEVEL = 0.95
Severity = Literal["info", "warning", "serious"]
Status = Literal["converged", "at_bound", "start_dependent", "degenerate", "failed"]


@dataclass(frozen=True)
class Note:
    """A remark about a fit that affects how to read its numbers, with the figures behind it."""

    code: str
    severity: Severity
    message: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class FitResult(Shown):
    """A law fitted to one group of records.

    `params` are the parameters with their intervals, by name (``fit.params.alpha``, ``fit.params["alpha"]``) and in
    the law's order, which is also that of `covariance` [k, k] and of each row of `draws`; those in `fixed` were not
    fitted. Objective, R² (weighted, of losses) and `log_residuals` (ln predicted − ln observed) are at `params`.
    Intervals come from the bootstrap `draws`; `covariance` is a linear approximation at the optimum.

    `predict`, `n_equivalent`, `doubling_gain`, `compute_optimal` and plans average over `laws` unless one is named; all
    else is by this law.
    """

    law: Law
    group: str
    options: FitOptions
    status: Status
    params: tuple[float, ...]
    fixed: tuple[str, ...]
    objective: float
    r_squared: float
    agreement: float  # share of the starts that ended at this optimum
    start_spread: float  # largest range of a parameter (in logarithms) over those starts
    data: FitData  # the rows that were fitted
    log_residuals: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    draws: tuple[tuple[float, ...], ...]
    notes: tuple[Note, ...]
    versions: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)  # names of variables and loss in the user's table
    origin: Mapping[str, str] = field(default_factory=dict)  # origin of the rows: source, where, map, points
    laws: tuple[LawWeight, ...] = ()  # plausible laws with their weights, this one first; empty for a law alone

    _report: ClassVar[str] = "scalelab.reports.fits:fit_report"
    _figure: ClassVar[str] = "scalelab.plot.fits:plot_fit"
    _json: ClassVar[str] = "scalelab.reports.fits:fit_json"

    def __post_init__(self) -> None:
        if self.law is not None:  # it is None while a fit is saved
            object.__setattr__(self, "params", Parameters(self.params, self.law.names, self.interval))

    def __repr__(self) -> str:
        text = f"{self.status}, {plural(len(self.runs), 'run')}, {plural(len(self.notes), 'note')}"
        return f"<FitResult {self.group}: {self.equation()}; {text}>"

    @property
    def values(self) -> dict[str, float]:
        """Parameters by name."""
        return dict(zip(self.law.names, self.params, strict=True))

    @property
    def known(self) -> tuple[Variable, ...]:
        """Variables that the table has."""
        return self.data.known

    @property
    def runs(self) -> tuple[tuple[float | None, ...], ...]:
        """N, P, D, loss, weight and N of the backbone of each row; None for a missing value."""
        return self.data.rows

    @property
    def data_hash(self) -> str:
        """Hash of the rows."""
        return self.data.digest

    @property
    def failure(self) -> str | None:
        """The reason why this fit must not be used, or None."""
        return next((note.message for note in self.notes if note.code == "explains_nothing"), None)

    @property
    def P_levels(self) -> tuple[int, ...]:
        """Distinct numbers of streams of the runs, ascending."""
        return tuple(sorted({int(run[1]) for run in self.runs if run[1] is not None}))

    @property
    def title(self) -> str:
        """The group and law, with the selection and mapping of rows, if any."""
        chosen = [f"rows where {self.origin['where']}"] if self.origin.get("where") else []
        chosen += [f"mapped {self.origin['map']}"] if self.origin.get("map") else []
        return f"{self.group}, {self.law.title}" + (f" ({'; '.join(chosen)})" if chosen else "")

    def meaning(self, variable: Variable) -> str:
        """Return the meaning of a variable: its column in the user's table, else the quantity."""
        convention = CONVENTIONS[self.options.convention]
        schema = convention.column if variable == "N" else COLUMNS[variable]
        own = self.columns.get(variable)
        if own is not None and own != schema:
            return own
        # It is known what n_params counts only in records of a sweep.
        counted = variable == "N" and (own is None or self.options.convention != "paper")
        return convention.meaning if counted else VARIABLES[variable]

    def label(self, variable: Variable) -> str:
        """Return the axis label of a variable: ``N, model_size``."""
        return f"{variable}, {self.meaning(variable)}"

    @property
    def loss_label(self) -> str:
        """Axis label of the loss."""
        own = self.columns.get("loss", "loss")
        return "validation loss, nats per token" if own == "loss" else own

    def equation(self, digits: int = 4) -> str:
        """Return the fitted law as one line of text, with `digits` significant digits."""
        return self.law.equation(self.values, digits)

    def interval(self, name: str, level: float = LEVEL) -> tuple[float, float] | None:
        """Return the percentile bootstrap interval of a parameter; None if it was not fitted or has no interval.

        Raises `UsageError` for an unknown parameter.
        """
        if name not in self.law.names:
            raise UsageError(f"no parameter {name!r}: the law {self.law.name!r} has {', '.join(self.law.names)}")
        if name in self.fixed or not self.draws:
            return None
        low, high = np.quantile(np.array(self.draws)[:, self.law.names.index(name)], tails(level))
        return float(low), float(high)

    def averaged(self, law: str | None = None) -> FitResult:
        """Return the average over `laws` as one fit, whose point estimate is the weighted mean of their losses.

        With `law`, such as "additive", return the fit of that law alone. Raises `UsageError` for a law that the fit
        does not hold.
        """
        from scalelab.fit.mixture import averaged

        return averaged(self, law)

    def predict(self, N: Any = None, P: Any = 1, D: Any = None, law: str | None = None, **others: Any) -> Predictions:
        """Predict the loss for all combinations of N, P, D and the `others`, with intervals, as a table.

        Each may be one value or several, as numbers or text such as "7B". Predictions average over `laws`, unless one
        of them is given as `law`. The table also has the plain N with the same loss and the gain of doubling P; its
        `notes` name points outside the range of the runs. `losses` returns an array for this law instead.

        Raises:
            UsageError: a variable of the law is missing, a variable is not one of the law's, or a value is not
                positive.
        """
        from scalelab.fit.answers import predict

        return predict(self.averaged(law), N, P, D, **others)

    def n_equivalent(self, N: Any, P: Any, D: Any = None, law: str | None = None) -> Estimate:
        """Return the N of the plain model (P = 1) with the same loss as N with P streams, with its interval."""
        from scalelab.fit import answers, derived

        return derived.n_equivalent(self.averaged(law), *answers.point(N, P, D))

    def doubling_gain(self, N: Any, P: Any = 1, D: Any = None, law: str | None = None) -> Estimate:
        """Return the reduction of the loss (nats per token) from P to 2P streams, with its interval."""
        from scalelab.fit import answers, derived

        return derived.doubling_gain(self.averaged(law), *answers.point(N, P, D))

    def compute_optimal(self, flops: Any, P: Any = 1, law: str | None = None) -> Allocations:
        """Return the N and D with the lowest loss for training budgets of 6·N·D·P FLOPs, one row per budget and P.

        Raises:
            UsageError: the law does not depend on N and D.
        """
        from scalelab.fit.answers import allocate

        return allocate(self.averaged(law), flops, P)

    def profile(self, *names: str) -> Profiles:
        """Return the profile likelihoods of the parameters `names`, by default of all that were fitted."""
        from scalelab.fit.answers import profiles

        return profiles(self, names)

    @property
    def residuals(self) -> pd.DataFrame:
        """The runs with N, P, D, loss, predicted loss, and the excess of the prediction in percent."""
        from scalelab.fit.answers import residuals

        return residuals(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the parameters as a table: value, low, high, unit, fixed."""
        from scalelab.fit.answers import parameter_table

        return parameter_table(self)

    def explore(self, height: int = 900) -> Any:
        """Return the interactive explorer of this fit, which Jupyter shows in a frame of `height` pixels."""
        return load_name("scalelab.page.widget:explore")([self], height)

    def save(self, path: str | Path) -> Path:
        """Save the fit as JSON for `load_fit`, without loss of digits, and return the path."""
        from scalelab.fit.saved import save_fit

        save_fit(self, path)
        return Path(path)

    def losses(self, N: Any = None, P: Any = 1.0, D: Any = None, **others: Any) -> Array:
        """Return predicted losses in nats per token, an array of the broadcast shape of N, P, D and the `others`.

        Every variable of the law must be given, such as C for a law of compute. Laws without D are valid for the D of
        their data only and accept no `D`; laws without P accept `P` = 1 only.

        Raises:
            UsageError: a variable is missing, not one of the law's, or not positive.
        """
        return self.evaluate(np.array(self.params), N, P, D, **others)

    def band(
        self, N: Any = None, P: Any = 1.0, D: Any = None, level: float = LEVEL, **others: Any
    ) -> tuple[Array, Array]:
        """Return the bootstrap interval of the law's loss at each point, without the noise of single runs.

        Infinite if the fit has no draws (as many parameters as configurations) or the law is
        undefined there in all of them.
        """
        if not self.draws:
            given = (np.nan if v is None else v for v in (N, P, D, *others.values()))
            shape = np.broadcast(*(np.asarray(v) for v in given)).shape
            return np.full(shape, -np.inf), np.full(shape, np.inf)
        losses = self.evaluate(np.array(self.draws), N, P, D, **others)
        losses = np.where(np.isnan(losses).all(axis=0), np.inf, losses)
        with np.errstate(invalid="ignore"):
            low, high = np.nanquantile(losses, tails(level), axis=0)
        return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)

    def evaluate(self, params: Array, N: Any = None, P: Any = 1.0, D: Any = None, **others: Any) -> Array:
        """Return the losses [..., *shape] of params [..., k], for points broadcast to `shape`."""
        if D is None and "D" in self.law.variables:
            raise UsageError(f"the law {self.law.name!r} depends on D: give `D`")
        if D is not None and "D" not in self.law.variables:
            raise UsageError(
                f"the law {self.law.name!r} has no D: it is valid for the D of its data, {self.group}; leave out `D`"
            )
        if "P" not in self.law.variables and (np.asarray(P) != 1).any():
            raise UsageError(f"the law {self.law.name!r} has no P; leave out `P`")
        named: dict[str, Any] = {"N": N, "P": P, "D": D, **others}
        for name in self.law.variables:
            if named.get(name) is None:
                raise UsageError(f"the law {self.law.name!r} depends on {name}: give `{name}`")
        for name, value in others.items():
            if value is not None and name not in self.law.variables:
                raise UsageError(f"the law {self.law.name!r} has no {name}; leave out `{name}`")
        given = {name: np.asarray(np.nan if v is None else v, dtype=float) for name, v in named.items()}
        if not all((value > 0).all() for name, value in given.items() if named[name] is not None):
            raise UsageError(f"{', '.join(name for name in named if named[name] is not None)} must be positive")
        shape = np.broadcast_shapes(*(value.shape for value in given.values()))
        flat = {name: np.broadcast_to(value, shape).ravel() for name, value in given.items()}
        points = Points(flat.pop("N"), flat.pop("P"), flat.pop("D"), others=flat)
        with np.errstate(all="ignore"):  # far from the runs a law may overflow or be undefined
            losses = self.law.loss(params, points)
        return losses.reshape((*params.shape[:-1], *shape))


def tails(level: float) -> list[float]:
    """Return the two quantiles that enclose `level`: 0.025 and 0.975 for 0.95."""
    return [(1 - level) / 2, (1 + level) / 2]


def library_versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    import scipy

    return {
        "scalelab": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
