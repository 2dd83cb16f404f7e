"""The best N, P and D of a lifetime plan over numbers of served tokens, and the ranges in which each P is the best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scalelab.laws.base import Array
from scalelab.plan.lifetime_reach import Reach
from scalelab.plan.lifetime_search import Optimum

if TYPE_CHECKING:
    from scalelab.plan.lifetime import LifetimePlan

_RANGE = 1e6  # factor on each side of the served tokens in which regions are looked for
_STEPS = 97  # numbers of served tokens for regions
_DRAWS = 200  # for the share of draws in a figure


@dataclass(frozen=True)
class Region:
    """A range of served tokens in which `P` is the best; open ends are 0 and infinite."""

    P: int
    low: float
    high: float


@dataclass(frozen=True)
class LifetimeCurve:
    """The cheapest model of each P over served tokens [s]; arrays of an optimum are [1, s].

    `drawn` has the optima of each draw, [n, s], without draws none. `streams_win` [s] is the share of the draws in
    which some P > 1 is cheaper than P = 1, None without draws or streams. `train_best` [s] is the cost of the plain
    model with the lowest N·D, None without P = 1.
    """

    served: Array
    optima: dict[int, Optimum]
    drawn: dict[int, Optimum]
    streams_win: Array | None
    train_best: Array | None

    @property
    def totals(self) -> Array:
        """Total cost of each P, [P, s]."""
        return np.concatenate([each.total for each in self.optima.values()])

    @property
    def best(self) -> Array:
        """The best P, [s]; of equals the first."""
        return np.array(list(self.optima))[self.totals.argmin(axis=0)]


def curve(plan: LifetimePlan, served: Array, draws: int = _DRAWS) -> LifetimeCurve:
    """Return the optimum of each P of the plan over `served`, with at most `draws` draws of each law."""
    few = replace(plan.belief, laws=tuple(replace(each, draws=each.draws[:draws]) for each in plan.belief.laws))
    reached = {o.P: Reach.of(few, o.P, plan.target, plan.costs) for o in plan.options}
    optima = {P: reach.optimum(served) for P, reach in reached.items() if reach}
    drawn = {P: found for P, reach in reached.items() if reach and (found := reach.optima(served)) is not None}
    wins = None
    if 1 in drawn and len(drawn) > 1:
        streams = np.min([each.total for P, each in drawn.items() if P > 1], axis=0)
        wins = np.mean(streams < drawn[1].total, axis=0)
    plain = reached.get(1)
    lowest = plain.train_best(served)[0].total[0] if plain else None
    return LifetimeCurve(served, optima, drawn, wins, lowest)


def regions(plan: LifetimePlan) -> tuple[Region, ...]:
    """Return the ranges of served tokens with one best P each, by the fitted parameters, from few tokens to many."""
    if not plan.options:
        return ()
    served = plan.served * np.geomspace(1 / _RANGE, _RANGE, _STEPS)
    found = curve(plan, served, draws=0)
    best, ends = found.best, [0.0]
    rows = {P: i for i, P in enumerate(found.optima)}
    changes = np.flatnonzero(best[1:] != best[:-1])
    for i in changes:
        gap = np.log(found.totals[rows[best[i]], i : i + 2] / found.totals[rows[best[i + 1]], i : i + 2])
        share = gap[0] / (gap[0] - gap[1]) if np.isfinite(gap).all() and gap[0] != gap[1] else 0.5
        ends.append(float(served[i] * (served[i + 1] / served[i]) ** share))
    ends.append(np.inf)
    which = [int(best[0]), *(int(best[i + 1]) for i in changes)]
    return tuple(Region(P, low, high) for P, low, high in zip(which, ends[:-1], ends[1:], strict=True))
