"""The contents of a report: sources of runs, and the studies of their groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scalelab.errors import ScalelabError
from scalelab.fit import FitResult

if TYPE_CHECKING:
    from scalelab.api.runs import Runs
    from scalelab.fit import Group
    from scalelab.fit.select import LawComparison
    from scalelab.plan import Plan
    from scalelab.plan.comparison import CostComparison


@dataclass(frozen=True)
class Study:
    """One group of comparable runs: its fit and what follows from it. Each may be the error that prevented it.

    `source` is the number of the group's `Runs` in the contents; `group` is None for a fit that was given.
    """

    title: str
    slug: str
    source: int
    fit: FitResult | ScalelabError
    laws: LawComparison | ScalelabError | None = None
    plan: Plan | ScalelabError | None = None
    costs: CostComparison | ScalelabError | None = None
    group: Group | None = None
    limits: str = ""  # where the limits of the plan come from, as a sentence

    @property
    def parts(self) -> tuple[object, ...]:
        """The fit, comparison of laws, plan and costs, or their errors."""
        return self.fit, self.laws, self.plan, self.costs


@dataclass(frozen=True)
class Contents:
    """All that a report shows. `commands` are lines for a shell that make it again."""

    title: str
    runs: Sequence[Runs]
    studies: Sequence[Study]
    commands: Sequence[str] = ()
    made: str = ""  # date, ISO 8601
    notes: Sequence[str] = field(default_factory=tuple)


def rounded(values: Any, digits: int = 7) -> list[float | None]:
    """Return values for a chart with so many significant digits; None where they are missing or infinite."""
    return [float(f"{v:.{digits}g}") if v is not None and abs(v) < float("inf") else None for v in map(_plain, values)]


def _plain(value: Any) -> float | None:
    return None if value is None else float(value)
