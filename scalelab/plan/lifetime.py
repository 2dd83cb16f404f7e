"""The lifetime plan: the N, P and D that reach a loss at the lowest cost of training and serving together.

For P = 1 and FLOPs this is the optimum of Sardana et al. (arXiv 2401.00448).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.derived import Estimate, extrapolation_notes
from scalelab.fit.result import Note
from scalelab.laws.base import Array
from scalelab.plan.answer import best_shares, gain_notes
from scalelab.plan.lifetime_costs import LifetimeCosts
from scalelab.plan.lifetime_reach import Belief, Reach
from scalelab.plan.lifetime_search import Optimum, floor_at
from scalelab.shown import Shown
from scalelab.units import format_count

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.plan.lifetime_curve import Region


@dataclass(frozen=True)
class LifetimeOption:
    """The cheapest model with P streams.

    `share` is the share of the draws in which this P is the cheapest, `lost` that in which it does not reach the loss;
    both are None without draws. `binds` is the limit that the model reaches.
    """

    P: int
    N: Estimate
    D: Estimate
    training: Estimate
    serving: Estimate
    total: Estimate
    share: float | None
    lost: float | None
    binds: str | None
    notes: tuple[Note, ...]
    drawn: Optimum | None = field(repr=False, compare=False)  # per draw, [n, 1]


@dataclass(frozen=True)
class LifetimePlan(Shown):
    """The cheapest model to train and serve at one loss.

    Attributes:
        belief: The laws.
        target: Loss, nats per token.
        served: Tokens served, of prompts and generated.
        costs: Costs of training and serving.
        options: The cheapest model of each P.
        left_out: Reasons, by P without an option.
        winner: The cheapest option, None if no option is within the limits.
        train_best: The plain model of this loss with the lowest N·D, trained and served.
        saving: Saving over the best plain option, as a share of its cost, if that is not the winner.
        saving_over_train_best: Saving over `train_best`, as a share of its cost.
        streams_win: Share of the draws in which an option with P > 1 is cheaper than the plain one.
        no_answer: Share of the draws in which no option reaches the loss.
        overall: N, P and D over the draws, each with its own best P.
        priced_by: Cost model, device and precision, as text.
    """

    belief: Belief
    target: float
    served: float
    costs: LifetimeCosts
    options: tuple[LifetimeOption, ...]
    left_out: Mapping[int, str]
    winner: LifetimeOption | None
    train_best: LifetimeOption | None
    saving: Estimate | None
    saving_over_train_best: Estimate | None
    streams_win: float | None
    no_answer: float
    overall: Mapping[str, Estimate]
    priced_by: str = ""
    price_notes: tuple[str, ...] = ()

    _report: ClassVar[str] = "scalelab.reports.lifetime:lifetime_report"
    _figure: ClassVar[str] = "scalelab.plot.lifetime:plot"
    _json: ClassVar[str] = "scalelab.reports.lifetime:lifetime_json"

    @property
    def by(self) -> str:
        """The cost that is minimised."""
        return self.costs.unit

    @property
    def plain(self) -> LifetimeOption | None:
        """The cheapest model without streams."""
        return next((option for option in self.options if option.P == 1), None)

    @property
    def notes(self) -> tuple[Note, ...]:
        """Notes that affect the plan: of the fit on the gain of streams, and of the winner on extrapolation."""
        fitted = gain_notes(self.belief.fit) if self.belief.fit else ()
        return (*fitted, *(self.winner.notes if self.winner else ()))

    def regions(self) -> tuple[Region, ...]:
        """Return the ranges of served tokens with one best P each, from a millionth of `served` to a million times."""
        from scalelab.plan.lifetime_curve import regions

        return regions(self)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per P, in FLOPs, seconds or US dollars, unrounded."""
        import pandas as pd

        rows = []
        for option in self.options:
            row: dict[str, float | str | None] = {"P": option.P}
            for name in ("N", "D", "training", "serving", "total"):
                found: Estimate = getattr(option, name)
                row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            rows.append(row | {"limit": option.binds, "probability_best": option.share})
        return pd.DataFrame(rows, columns=None if rows else ["P"]).set_index("P")

    def __repr__(self) -> str:
        best = "nothing is within the limits"
        if self.winner is not None:
            N, D = format_count(self.winner.N.value), format_count(self.winner.D.value)
            best = f"best P = {self.winner.P}, N {N}, D {D}"
        return f"<LifetimePlan {self.belief.title}, loss {self.target:g}, {format_count(self.served)} served: {best}>"


def plan_lifetime(
    belief: Belief, served: float, loss: float, streams: Sequence[int], costs: LifetimeCosts
) -> LifetimePlan:
    """Return the cheapest N, P and D that reach `loss`, if `served` tokens are served.

    Raises:
        UsageError: No N and D of any P reach the loss, or the law has no P and `streams` has no 1.
    """
    if not belief.has_streams:
        streams = [P for P in streams if P == 1]
        if not streams:
            raise UsageError(
                f"the law {belief.laws[0].law.name!r} has no P, so only P = 1 can be planned", argument="P"
            )
    tokens = np.array([served])
    reached = {P: Reach.of(belief, P, loss, costs) for P in streams}
    if not any(reached.values()):
        raise _too_low(belief, loss, streams)
    found = {P: reach.optimum(tokens) for P, reach in reached.items() if reach}
    drawn = {P: drawn for P in found if (drawn := reached[P].optima(tokens)) is not None}  # type: ignore[union-attr]
    shares, no_answer = best_shares({P: each.total[:, 0] for P, each in drawn.items()})
    left_out = {P: f"no N and D reach that loss: {_floor(belief, P)}" for P in streams if P not in found}
    options = []
    for P, best in found.items():
        reach = reached[P]
        assert reach is not None
        if not np.isfinite(best.N[0, 0]):
            allowed = f"allows N up to {format_count(reach.largest)}" if reach.largest else "allows no N"
            left_out[P] = (
                f"it takes N above {format_count(reach.best.smallest[0])}, even with endless tokens, and the limit on "
                f"{reach.binds} {allowed}"
            )
            continue
        at_limit = reach.binds if best.N[0, 0] > reach.largest * (1 - 1e-6) else None
        options.append(_option(belief, P, best, drawn.get(P), shares.get(P), at_limit))
    winner = min(options, key=lambda o: o.total.value, default=None)  # of equals the first, with the fewest streams
    plain = next((o for o in options if o.P == 1), None)
    train_best = _train_best(belief, reached.get(1), tokens)
    more = {P: each.total[:, 0] for P, each in drawn.items() if P > 1}
    wins = None
    if 1 in drawn and more:
        wins = float(np.mean(np.min(list(more.values()), axis=0) < drawn[1].total[:, 0]))
    return LifetimePlan(
        belief,
        loss,
        served,
        costs,
        tuple(options),
        dict(sorted(left_out.items())),
        winner,
        train_best,
        _saving(winner, plain) if winner is not plain else None,
        _saving(winner, train_best),
        wins,
        no_answer,
        _overall(drawn),
    )


def _option(
    belief: Belief, P: int, best: Optimum, drawn: Optimum | None, share: float | None, binds: str | None
) -> LifetimeOption:
    names = ("N", "D", "training", "serving", "total")
    rows = {name: np.empty(0) if drawn is None else getattr(drawn, name)[:, 0] for name in names}
    parts = {name: Estimate.of(float(getattr(best, name)[0, 0]), rows[name]) for name in names}
    lost = None if drawn is None else float(np.mean(~np.isfinite(rows["N"])))
    notes = () if belief.fit is None else tuple(extrapolation_notes(belief.fit, best.N[0, 0], P, best.D[0, 0]))
    return LifetimeOption(P, **parts, share=share, lost=lost, binds=binds, notes=notes, drawn=drawn)


def _train_best(belief: Belief, plain: Reach | None, served: Array) -> LifetimeOption | None:
    return None if plain is None else _option(belief, 1, *plain.train_best(served), None, None)


def _saving(winner: LifetimeOption | None, other: LifetimeOption | None) -> Estimate | None:
    """Return the share of the cost of `other` that the winner saves."""
    if winner is None or other is None:
        return None
    draws = np.empty(0)
    if winner.drawn is not None and other.drawn is not None:
        with np.errstate(invalid="ignore"):  # both may be out of reach in a draw
            draws = 1 - winner.drawn.total[:, 0] / other.drawn.total[:, 0]
    return Estimate.of(1 - winner.total.value / other.total.value, draws)


def _overall(drawn: Mapping[int, Optimum]) -> dict[str, Estimate]:
    """Return N, D and P over the draws that reach the loss, each with its own best P; the value is the median."""
    if not drawn:
        return {}
    totals = np.stack([each.total[:, 0] for each in drawn.values()])
    best, known = totals.argmin(axis=0), np.isfinite(totals).any(axis=0)
    if not known.any():
        return {}
    rows = np.arange(len(best))
    chosen = {name: np.stack([getattr(e, name)[:, 0] for e in drawn.values()])[best, rows][known] for name in "ND"}
    chosen["P"] = np.array(list(drawn))[best][known].astype(float)
    return {name: Estimate.of(float(np.median(values)), values) for name, values in chosen.items()}


def _floor(belief: Belief, P: int) -> str:
    first = belief.laws[0]
    floor = floor_at(first.law, first.params, P)
    at = f" at P = {P}" if "P" in first.law.variables else ""
    return f"the law's floor{at} is {floor:.4f}" if np.isfinite(floor) else f"the law is undefined{at}"


def _too_low(belief: Belief, loss: float, streams: Sequence[int]) -> ScalelabError:
    first = belief.laws[0]
    floors = {P: floor_at(first.law, first.params, P) for P in streams}
    known = {P: floor for P, floor in floors.items() if np.isfinite(floor)}
    P = min(known, key=lambda each: known[each]) if known else streams[0]
    return UsageError(
        f"no N and D reach it: {_floor(belief, P)}, with endless parameters and tokens; choose a higher loss",
        argument="loss",
        value=loss,
    )
