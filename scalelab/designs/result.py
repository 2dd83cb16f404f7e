"""A design: runs to do next, what they cost, and what they are expected to tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scalelab.designs.posterior import Posterior
from scalelab.designs.prices import Budget
from scalelab.designs.targets import Target
from scalelab.fit.data import COLUMNS
from scalelab.fit.derived import Estimate
from scalelab.fit.result import LEVEL, Note, tails
from scalelab.laws.base import VARIABLES, Array, Points
from scalelab.shown import Shown
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Outlook:
    """A target now, and its interval as expected after the runs, if any.

    For a table of losses, `now` and `after` are those of its first row, and `widths` the mean width of the intervals.
    For the question which law holds, `now` is the weight of the most plausible law, without an interval, and `widths`
    are standard deviations.
    """

    target: Target
    now: Estimate
    after: Estimate | None
    widths: tuple[float, float]

    @property
    def reduction(self) -> float:
        """Share by which the interval is expected to shrink."""
        return 1 - self.widths[1] / self.widths[0] if self.widths[0] > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Design(Shown):
    """Runs to do next.

    Attributes:
        group: Title of the known runs.
        n_known: Number of known runs.
        laws: Weight of each plausible law, by label; empty for a pilot.
        points: The chosen runs, in order of their worth for the price.
        prices: Price of each, all seeds together.
        seeds: Number of seeds of each run.
        left: Share of the targets' variance that is left after each run and those before it; empty for a pilot.
        budget: The budget; prices are in its unit.
        outlooks: The targets now and after the runs.
        notes: Notes on the design.
        replayed: Losses of the chosen runs were read from a finished table; `known` includes them.
        seen: Points of the known runs; of a replay, the chosen ones.
        known: Draws of the laws, for predictions; None for a pilot.
        earlier: Intervals that the design which this one updates expected, by title of the target.
        asked: N of each run to give to a sweep, which trains the shape of the nearest size.
        meta: Data, target and options, with which `update` goes on.
    """

    group: str
    n_known: int
    laws: Mapping[str, float]
    points: Points
    prices: tuple[float, ...]
    seeds: int
    left: tuple[float, ...]
    budget: Budget
    outlooks: tuple[Outlook, ...]
    notes: tuple[Note, ...] = ()
    replayed: bool = False
    seen: Points | None = None
    known: Posterior | None = None
    losses: tuple[float, ...] = ()  # of the chosen runs of a replay
    asked: tuple[float, ...] = ()
    earlier: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    _report: ClassVar[str] = "scalelab.reports.designs:design_report"
    _json: ClassVar[str] = "scalelab.reports.designs:design_json"
    _figure: ClassVar[str] = "scalelab.plot.designs:plot_design"

    @property
    def price(self) -> float:
        """Price of all chosen runs."""
        return float(sum(self.prices))

    @property
    def pilot(self) -> bool:
        """True if no run is known yet, so the design only fills the space."""
        return self.known is None

    @property
    def variables(self) -> list[str]:
        """Variables of the runs, such as N, P and D."""
        at = self.points
        named = {"N": at.N, "P": at.P, "D": at.D, **at.others}
        return [v for v in VARIABLES if (value := named.get(v)) is not None and not np.isnan(value).any()]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per chosen run, in order: its variables, price, and the share of variance that is left."""
        import pandas as pd

        frame = pd.DataFrame({COLUMNS[v]: self.points.value(v) for v in self.variables})  # type: ignore[index]
        frame["price"] = self.prices
        if self.left:
            frame["variance_left"] = self.left
        if self.losses:
            frame["loss"] = self.losses
        return frame

    def predict(self, table: pd.DataFrame | None = None, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
        """Return the expected loss and its 95 % interval, nats per token, by what is known.

        Args:
            table: Points: a table with columns such as N, P and D; by default those of the targets.
            columns: Map from field to column or expression, as for `read`.

        Raises:
            ScalelabError: Nothing is known yet.
        """
        import pandas as pd

        from scalelab.designs.tables import points_of
        from scalelab.errors import ScalelabError

        if self.known is None:
            raise ScalelabError("a pilot predicts nothing yet: train its runs, then design again with their records")
        at = self._target_points() if table is None else points_of(table, columns)
        losses = self.known.losses(at)
        low, high = np.nanquantile(losses, tails(LEVEL), axis=0)
        named = {"N": at.N, "P": at.P, "D": at.D, **at.others}
        shown = {COLUMNS[v]: named[v] for v in VARIABLES if named.get(v) is not None and not np.isnan(named[v]).any()}
        return pd.DataFrame({**shown, "loss": self.known.middle(at), "low": low, "high": high})

    def _target_points(self) -> Points:
        from scalelab.errors import ScalelabError

        found = [one.target.points for one in self.outlooks if one.target.points is not None]
        if not found:
            raise ScalelabError("no target is a loss; give a table of points")
        return found[0]

    def save(self, path: Any, force: bool = False) -> Any:
        """Write a sweep spec of the chosen runs, which `scalelab sweep` trains and `design(update=…)` goes on from.

        Raises:
            UsageError: The file exists, and `force` is false; or the runs vary something that a sweep does not.
        """
        from scalelab.shown import load_name

        return load_name("scalelab.api.design_specs:save_design")(self, path, force)

    def __repr__(self) -> str:
        return f"<Design of {plural(len(self.prices), 'run')} for {self.budget.text(self.price)}>"


def outlook_of(target: Target, values: Array, after: Array | None) -> Outlook:
    """Return the outlook of a target from its values by draw [s, m] and their anomalies after the runs [s, m]."""
    values = values[~np.isnan(values).any(axis=1)]
    if target.kind == "laws":
        spreads = [float(np.sqrt(v.var(axis=0).sum())) for v in (values, values if after is None else after)]
        return Outlook(target, Estimate(float(values.mean(axis=0).max())), None, (spreads[0], spreads[1]))
    middle = np.median(values, axis=0)
    low, high = np.quantile(values, tails(LEVEL), axis=0)
    now = Estimate(float(middle[0]), float(low[0]), float(high[0]))
    if after is None:
        width = float((high - low).mean())
        return Outlook(target, now, None, (width, width))
    ends = np.quantile(after, tails(LEVEL), axis=0)
    then = Estimate(float(middle[0]), float(middle[0] + ends[0, 0]), float(middle[0] + ends[1, 0]))
    return Outlook(target, now, then, (float((high - low).mean()), float((ends[1] - ends[0]).mean())))
