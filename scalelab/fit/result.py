"""The fitted law: a frozen object that predicts, and says how sure it is."""

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
from scalelab.shown import Shown
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.fit.answers import Allocations, Predictions, Profiles
    from scalelab.fit.derived import Estimate

LEVEL = 0.95
Severity = Literal["info", "warning", "serious"]
Status = Literal["converged", "at_bound", "start_dependent", "degenerate", "failed"]


@dataclass(frozen=True)
class Note:
    """Something the reader must know before believing the numbers, and the figures behind it."""

    code: str
    severity: Severity
    message: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class FitResult(Shown):
    """A law fitted to one group of records.

    `params` are the parameters with their intervals, by name (``fit.params.alpha``, ``fit.params["alpha"]``) and in
    the law's order, which `covariance` and `draws` row by row follow too; one in `fixed` was not fitted. Objective, R²
    (of losses, weighted) and `log_residuals` (ln predicted − ln observed) are at `params`. `covariance` [k, k] is the
    linear approximation at the optimum, for orientation; intervals come from the bootstrap `draws`.
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
    start_spread: float  # widest range of a parameter (in logarithms) over those starts
    data: FitData  # the rows that were fitted
    log_residuals: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    draws: tuple[tuple[float, ...], ...]
    notes: tuple[Note, ...]
    versions: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)  # a foreign table's names of variables and loss
    origin: Mapping[str, str] = field(default_factory=dict)  # where the rows came from: source, where, map, points

    _report: ClassVar[str] = "scalelab.report.fits:fit_report"
    _figure: ClassVar[str] = "scalelab.plot.fits:plot_fit"
    _json: ClassVar[str] = "scalelab.report.fits:fit_json"

    def __post_init__(self) -> None:
        if self.law is not None:  # it is left out where a fit is saved
            object.__setattr__(self, "params", Parameters(self.params, self.law.names, self.interval))

    def __repr__(self) -> str:
        said = f"{self.status}, {plural(len(self.runs), 'run')}, {plural(len(self.notes), 'note')}"
        return f"<FitResult {self.group}: {self.equation()}; {said}>"

    @property
    def values(self) -> dict[str, float]:
        """Parameters by name."""
        return dict(zip(self.law.names, self.params, strict=True))

    @property
    def known(self) -> tuple[Variable, ...]:
        """Which variables the table held."""
        return self.data.known

    @property
    def runs(self) -> tuple[tuple[float | None, ...], ...]:
        """N, P, D, loss, weight and N of the backbone of each row; None where not known."""
        return self.data.rows

    @property
    def data_hash(self) -> str:
        """A hash of the rows."""
        return self.data.digest

    @property
    def failure(self) -> str | None:
        """Why this fit must not be used; None where it may be."""
        return next((note.message for note in self.notes if note.code == "explains_nothing"), None)

    @property
    def P_levels(self) -> tuple[int, ...]:
        return tuple(sorted({int(run[1]) for run in self.runs if run[1] is not None}))

    @property
    def title(self) -> str:
        """The group and law, and which of a table's rows they are of where not all were taken."""
        chosen = [f"rows where {self.origin['where']}"] if self.origin.get("where") else []
        chosen += [f"mapped {self.origin['map']}"] if self.origin.get("map") else []
        return f"{self.group}, {self.law.name} law" + (f" ({'; '.join(chosen)})" if chosen else "")

    def meaning(self, variable: Variable) -> str:
        """Return what a variable of the law is: the column that the user's table has for it, else the quantity."""
        convention = CONVENTIONS[self.options.convention]
        schema = convention.column if variable == "N" else COLUMNS[variable]
        own = self.columns.get(variable)
        if own is not None and own != schema:
            return own
        # Only a sweep's own record says what its n_params counts.
        counted = variable == "N" and (own is None or self.options.convention != "paper")
        return convention.meaning if counted else VARIABLES[variable]

    def label(self, variable: Variable) -> str:
        """Return the text of a figure's axis over a variable: ``N, model_size``."""
        return f"{variable}, {self.meaning(variable)}"

    @property
    def loss_label(self) -> str:
        """The text of a figure's axis over the loss."""
        own = self.columns.get("loss", "loss")
        return "validation loss, nats per token" if own == "loss" else own

    def equation(self, digits: int = 4) -> str:
        return self.law.equation(self.values, digits)

    def interval(self, name: str, level: float = LEVEL) -> tuple[float, float] | None:
        """Percentile bootstrap interval of a parameter; None if it was not fitted or cannot have one.

        Raises `UsageError` for a name that is no parameter.
        """
        if name not in self.law.names:
            raise UsageError(f"no parameter {name!r}: the law {self.law.name!r} has {', '.join(self.law.names)}")
        if name in self.fixed or not self.draws:
            return None
        low, high = np.quantile(np.array(self.draws)[:, self.law.names.index(name)], tails(level))
        return float(low), float(high)

    def predict(self, N: Any = None, P: Any = 1, D: Any = None, **others: Any) -> Predictions:
        """Predict the loss of every combination of N, P, D and the `others`, with intervals, as a small table.

        Each may be one value or several, as numbers or text such as "7B". Beside the loss it has the plain N of that
        loss and what 2P would gain; the attribute `notes` says which points lie outside the runs. `losses` returns an
        array instead.

        Raises:
            UsageError: a variable of the law is missing, one is not the law's, or a value is not positive.
        """
        from scalelab.fit.answers import predict

        return predict(self, N, P, D, **others)

    def n_equivalent(self, N: Any, P: Any, D: Any = None) -> Estimate:
        """Return the N of the plain model (P = 1) whose loss is that of N with P streams, with its interval."""
        from scalelab.fit import answers, derived

        return derived.n_equivalent(self, *answers.point(N, P, D))

    def doubling_gain(self, N: Any, P: Any = 1, D: Any = None) -> Estimate:
        """Return how much loss (nats a token) goes away from P to 2P streams, with its interval."""
        from scalelab.fit import answers, derived

        return derived.doubling_gain(self, *answers.point(N, P, D))

    def compute_optimal(self, flops: Any, P: Any = 1) -> Allocations:
        """Return the N and D with the least loss for training budgets of 6·N·D·P FLOPs, a row for each budget and P.

        Raises:
            UsageError: The law does not know N and D.
        """
        from scalelab.fit.answers import allocate

        return allocate(self, flops, P)

    def profile(self, *names: str) -> Profiles:
        """Return the profile likelihood of the parameters `names`, by default of all that were fitted."""
        from scalelab.fit.answers import profiles

        return profiles(self, names)

    @property
    def residuals(self) -> pd.DataFrame:
        """The runs with N, P, D, loss, predicted loss, and by how much the prediction is too high, in percent."""
        from scalelab.fit.answers import residuals

        return residuals(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the parameters as a table: value, low, high, unit."""
        from scalelab.fit.answers import parameter_table

        return parameter_table(self)

    def save(self, path: str | Path) -> Path:
        """Save the fit as JSON, which `load_fit` reads to the same digits. Returns the path."""
        from scalelab.fit.saved import save_fit

        save_fit(self, path)
        return Path(path)

    def losses(self, N: Any = None, P: Any = 1.0, D: Any = None, **others: Any) -> Array:
        """Return predicted losses in nats a token, an array of the shape that N, P, D and the `others` broadcast to.

        Every variable of the law must be given, such as C for a law of compute; D is refused by laws that do not
        know it, which hold for the D of their data only, and so is P other than 1.

        Raises:
            UsageError: a variable is missing, not the law's, or not positive.
        """
        return self.evaluate(np.array(self.params), N, P, D, **others)

    def band(
        self, N: Any = None, P: Any = 1.0, D: Any = None, level: float = LEVEL, **others: Any
    ) -> tuple[Array, Array]:
        """Return the bootstrap interval of the law's loss at each point: of the mean, without run noise.

        Infinitely wide where the fit has no draws (as many parameters as configurations) or none
        of them has a number.
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
        """Return losses [..., *shape] of params [..., k], such as the draws, over the broadcast shape of the points."""
        if D is None and "D" in self.law.variables:
            raise UsageError(f"the law {self.law.name!r} depends on D: give `D`")
        if D is not None and "D" not in self.law.variables:
            raise UsageError(f"the law {self.law.name!r} does not know D: it holds for the D of its data, {self.group}")
        if "P" not in self.law.variables and (np.asarray(P) != 1).any():
            raise UsageError(f"the law {self.law.name!r} does not know P")
        named: dict[str, Any] = {"N": N, "P": P, "D": D, **others}
        for name in self.law.variables:
            if named.get(name) is None:
                raise UsageError(f"the law {self.law.name!r} depends on {name}: give `{name}`")
        for name, value in others.items():
            if value is not None and name not in self.law.variables:
                raise UsageError(f"the law {self.law.name!r} does not know {name}")
        given = {name: np.asarray(np.nan if v is None else v, dtype=float) for name, v in named.items()}
        if not all((value > 0).all() for name, value in given.items() if named[name] is not None):
            raise UsageError(f"{', '.join(name for name in named if named[name] is not None)} must be positive")
        shape = np.broadcast_shapes(*(value.shape for value in given.values()))
        flat = {name: np.broadcast_to(value, shape).ravel() for name, value in given.items()}
        points = Points(flat.pop("N"), flat.pop("P"), flat.pop("D"), others=flat)
        with np.errstate(all="ignore"):  # far out a law may overflow, or end
            losses = self.law.loss(params, points)
        return losses.reshape((*params.shape[:-1], *shape))


def tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]


def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import scipy

    return {
        "scalelab": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
