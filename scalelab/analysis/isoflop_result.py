"""The result of IsoFLOP: minima at each training budget, exponents by three approaches, and notes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scalelab.analysis.lines import Line
from scalelab.analysis.runs import Basis
from scalelab.errors import UsageError
from scalelab.fit.derived import Estimate
from scalelab.fit.result import FitResult, Note
from scalelab.laws.base import Array
from scalelab.shown import Shown
from scalelab.units import counts, plural

if TYPE_CHECKING:
    import pandas as pd

Approach = Literal["isoflop", "law", "envelope"]


@dataclass(frozen=True, eq=False)
class Minimum:
    """The quadratic of one budget and P: its runs and its minimum.

    `N`, `D` and `loss` are None if the loss has no minimum in ln N. `gain` is the loss minus that at P = 1 and the same
    budget (negative if streams pay), `bias` the relative error of N that this grid would have on the fitted law.
    """

    flops: float
    P: int
    x: Array  # ln N of the runs, [n]
    losses: Array  # at exactly this budget, [n]
    coefficients: tuple[float, float, float]  # by the centred ln N
    centre: float  # of ln N
    sizes: int  # different N
    N: Estimate | None
    D: Estimate | None
    loss: Estimate | None
    gain: Estimate | None = None
    bias: float | None = None

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest ln N."""
        return float(self.x.min()), float(self.x.max())


@dataclass(frozen=True, eq=False)
class Scaling:
    """Compute-optimal N ∝ C^a and D ∝ C^b by one approach at one P."""

    approach: Approach
    P: int
    N: Line
    D: Line
    source: str  # number of budgets, the law, or the number of curves

    @property
    def a(self) -> Estimate:
        """Exponent of N."""
        return self.N.exponent

    @property
    def b(self) -> Estimate:
        """Exponent of D."""
        return self.D.exponent


@dataclass(frozen=True)
class IsoFlops(Shown):
    """Compute-optimal N and D from runs at equal training FLOPs.

    Attributes:
        group: Title of the runs.
        basis: Training FLOPs: "6NDP", or "recorded".
        minima: One for each budget and P, ascending.
        scaling: Exponents by approach and P.
        asked: Further training budgets to answer for.
        fit: The fitted law, if the runs determine one.
        notes: Notes on what the grid supports.
        columns: Names of N and of the loss in the user's table.
    """

    group: str
    basis: Basis
    minima: tuple[Minimum, ...]
    scaling: tuple[Scaling, ...]
    notes: tuple[Note, ...]
    asked: tuple[float, ...] = ()
    fit: FitResult | None = None
    columns: dict[str, str] = field(default_factory=dict)

    _report: ClassVar[str] = "scalelab.reports.isoflop:isoflop_report"
    _figure: ClassVar[str] = "scalelab.plot.isoflop:plot_isoflop"
    _json: ClassVar[str] = "scalelab.reports.isoflop:isoflop_json"

    @property
    def P_levels(self) -> tuple[int, ...]:
        """Numbers of streams, ascending."""
        return tuple(sorted({row.P for row in self.minima}))

    def exponents(self, approach: Approach = "isoflop", P: int | None = None) -> Scaling:
        """Return the exponents of one approach, at the smallest P by default.

        Raises:
            UsageError: These runs do not give them.
        """
        found = [s for s in self.scaling if s.approach == approach and P in (None, s.P)]
        if not found:
            known = ", ".join(sorted({f"{s.approach} at P = {s.P}" for s in self.scaling})) or "none"
            raise UsageError(f"no exponents by {approach}{'' if P is None else f' at P = {P}'}; there are {known}")
        return found[0]

    def optimum(self, flops: Any, approach: Approach = "isoflop", P: int | None = None) -> pd.DataFrame:
        """Return compute-optimal N and D at training budgets, with intervals, a row for each."""
        import pandas as pd

        chosen, rows = self.exponents(approach, P), []
        for budget in counts(flops, "flops"):
            cells: dict[str, float | None] = {"flops": budget}
            for name, line in (("N", chosen.N), ("D", chosen.D)):
                at = line.at(budget)
                cells |= {name: at.value, f"{name}_low": at.low, f"{name}_high": at.high}
            rows.append(cells)
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each budget and P, unrounded."""
        import pandas as pd

        rows = []
        for row in self.minima:
            cells: dict[str, Any] = {"flops": row.flops, "P": row.P, "runs": len(row.x), "sizes": row.sizes}
            for name in ("N", "D", "loss", "gain"):
                found: Estimate | None = getattr(row, name)
                ends = (None, None, None) if found is None else (found.value, found.low, found.high)
                cells |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
            rows.append(cells | {"bias": row.bias})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        main = [s for s in self.scaling if s.approach == "isoflop"]
        text = f"N ∝ C^{main[0].a.value:.3f}" if main else "no exponents"
        return f"<IsoFlops {self.group}: {plural(len(self.minima), 'minimum', 'minima')}, {text}>"
