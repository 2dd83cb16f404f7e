"""Beliefs of a lifetime plan: laws with their draws, and the models of one loss and P that they allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalelab.errors import UsageError
from scalelab.fit.result import FitResult
from scalelab.laws.base import Array
from scalelab.plan.lifetime_costs import LifetimeCosts
from scalelab.plan.lifetime_search import Cost, LawDraws, Optimum, Search

_NEEDED = frozenset({"N", "D", "P"})


@dataclass(frozen=True)
class Belief:
    """The laws that a plan follows, the first for its values and all for their draws, with names for reports."""

    laws: tuple[LawDraws, ...]
    title: str
    counts: str  # meaning of N
    fit: FitResult | None = None
    notes: tuple[str, ...] = ()  # on the constants

    def __post_init__(self) -> None:
        for law in (each.law for each in self.laws):
            missing = {"N", "D"} - {*law.variables}
            if missing:
                raise UsageError(
                    f"the law {law.name!r} has no {' and no '.join(sorted(missing))}, and a lifetime plan trades N for "
                    "D: fit a law of both, such as chinchilla, joint, joint-power or joint-additive, to runs with "
                    "several D"
                )
            if others := {*law.variables} - _NEEDED:
                raise UsageError(
                    f"the law {law.name!r} also depends on {', '.join(sorted(others))}: fit a law of N, D and P only"
                )

    @property
    def has_streams(self) -> bool:
        """True if all laws have P."""
        return all("P" in each.law.variables for each in self.laws)

    @property
    def draws(self) -> int:
        """Draws of all laws together."""
        return sum(len(each.draws) for each in self.laws)


@dataclass(frozen=True)
class Reach:
    """The models with P streams that reach the loss, by the fitted parameters and by each draw, and their costs."""

    P: int
    costs: LifetimeCosts
    best: Search
    drawn: tuple[Search, ...]
    largest: float
    binds: str | None
    serve: Cost
    factors: Array  # [draws], on the cost of serving

    @classmethod
    def of(cls, belief: Belief, P: int, loss: float, costs: LifetimeCosts) -> Reach | None:
        """Return the models, None if the fitted law does not reach the loss."""
        first = belief.laws[0]
        best = Search(first.law, first.params[None], P, loss)
        if not np.isfinite(best.smallest[0]):
            return None
        drawn = tuple(Search(each.law, each.draws, P, loss) for each in belief.laws if len(each.draws))
        largest, binds = costs.serving.largest(P) if costs.capped and costs.serving else (np.inf, None)
        ends = np.concatenate([np.append(s.smallest, s.train_best) for s in (best, *drawn)])
        N = float(min(best.train_best[0], largest)) or 1.0
        factors = costs.factors(P, N, belief.draws)
        return cls(P, costs, best, drawn, largest, binds, costs.serve(P, ends[np.isfinite(ends)]), factors)

    def optimum(self, served: Array) -> Optimum:
        """Return the cheapest model by the fitted parameters, [1, s]."""
        return self.best.optimum(served, self._train, self.serve, self.largest)

    def optima(self, served: Array) -> Optimum | None:
        """Return the cheapest model by each draw, [n, s]; None without draws."""
        return self._joined(lambda search, serve: search.optimum(served, self._train, serve, self.largest))

    def train_best(self, served: Array) -> tuple[Optimum, Optimum | None]:
        """Return the models with the lowest N·D, by the fitted parameters and by each draw."""
        best = self.best.at(self.best.train_best[:, None] + 0 * served, served, self._train, self.serve)
        return best, self._joined(lambda s, serve: s.at(s.train_best[:, None] + 0 * served, served, self._train, serve))

    def _joined(self, find: Callable[[Search, Cost], Optimum]) -> Optimum | None:
        found, first = [], 0
        for search in self.drawn:
            factors = self.factors[first : first + len(search.smallest), None]
            first += len(search.smallest)
            found.append(find(search, lambda N, factors=factors: factors * self.serve(N)))
        if not found:
            return None
        names = ("N", "D", "training", "serving")
        return Optimum(*(np.concatenate([getattr(each, name) for each in found]) for name in names))

    def _train(self, N: Array, D: Array) -> Array:
        return self.costs.train(N, D, self.P)
