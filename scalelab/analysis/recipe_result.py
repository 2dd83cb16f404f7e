"""The result of a comparison of two recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scalelab.analysis.recipe_costs import CostRatio
from scalelab.analysis.recipe_law import RECIPE, Factor, RecipeLaw
from scalelab.analysis.recipe_tests import ModelScore, SharedTest
from scalelab.fit.data import FitData
from scalelab.fit.derived import Estimate
from scalelab.fit.result import Note
from scalelab.laws import Points
from scalelab.laws.base import Array
from scalelab.shown import Shown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LossMultiplier:
    """The multiplier at one loss if each recipe has its own exponents."""

    loss: float
    multiplier: Estimate


@dataclass(frozen=True)
class RecipeComparison(Shown):
    """The compute multiplier of a second recipe over a first, from one law that they share.

    Attributes:
        first: Name of the first recipe, the baseline.
        second: Name of the second recipe.
        law: The shared law with its ratio.
        params: Parameters of the law, and the ratio.
        draws: Parameters of bootstrap draws, [s, k].
        factor: "N", "D" or "compute": what the multiplier applies to.
        multiplier: What N (or D, or compute) of the second recipe is worth in the first, at equal loss; above 1, the
            second is better.
        costs: Costs at equal loss.
        models: Nested models, from no difference to nothing in common.
        tests: Tests of what is shared.
        by_loss: The multiplier at the highest and the lowest shared loss, with separate exponents.
        data: Rows of both recipes; the variable "recipe" is 0 or 1.
        flops: Training FLOPs of the rows, [n].
        overlap: Range of losses that both recipes have.
        notes: Notes on what the runs support.
        columns: Names of N and of the loss in the user's table.
    """

    first: str
    second: str
    law: RecipeLaw
    params: tuple[float, ...]
    draws: Array
    factor: Factor
    multiplier: Estimate
    costs: tuple[CostRatio, ...]
    models: tuple[ModelScore, ...]
    tests: tuple[SharedTest, ...]
    by_loss: tuple[LossMultiplier, ...]
    data: FitData
    flops: Array
    overlap: tuple[float, float]
    notes: tuple[Note, ...]
    columns: Mapping[str, str] = field(default_factory=dict)

    _report: ClassVar[str] = "scalelab.reports.recipes:recipes_report"
    _figure: ClassVar[str] = "scalelab.plot.recipes:plot_recipes"
    _json: ClassVar[str] = "scalelab.reports.recipes:recipes_json"

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Parameters of the first recipe with their intervals, by name."""
        draws = self.draws.reshape(-1, len(self.params))
        return {name: Estimate.of(self.params[i], draws[:, i]) for i, name in enumerate(self.law.base.names)}

    @property
    def runs(self) -> tuple[int, int]:
        """Number of rows of each recipe."""
        second = int(self.data.others[RECIPE].sum())
        return len(self.data.loss) - second, second

    def losses(self, recipe: int, N: Array, D: Array, params: Array | None = None) -> Array:
        """Return the law's losses of a recipe (0 or 1) at N and D, [n], or [s, n] for params [s, k]."""
        own = np.array(self.params) if params is None else params
        P = self.data.P[self.data.others[RECIPE] == recipe][:1]
        at = Points(N, np.broadcast_to(P, np.shape(N)), D, others={"C": 6.0 * N * D})
        return self.law.base.loss(self.law.of_recipe(own, recipe), at)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each multiplier at equal loss: of N, D or compute, and of each cost."""
        import pandas as pd

        found = {self.factor: self.multiplier} | {cost.name: cost.multiplier for cost in self.costs}
        rows = [{"of": name, "multiplier": e.value, "low": e.low, "high": e.high} for name, e in found.items()]
        return pd.DataFrame(rows).set_index("of")

    def __repr__(self) -> str:
        return f"<RecipeComparison {self.second} over {self.first}: {self.factor} × {self.multiplier}>"
