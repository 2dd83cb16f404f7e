"""Replay of a design on finished runs: a loss is read only once its run is chosen, so the choice can be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalelab.designs.choose import choose, pilot
from scalelab.designs.pool import Pool
from scalelab.designs.posterior import Posterior, posterior
from scalelab.designs.prior import support_of
from scalelab.fit.select import CandidateLaw
from scalelab.laws.base import Points

PILOT_SHARE = 0.25  # of the budget
_ROUND = 0.15  # runs between refits, as a share of those so far
_LEAST_PILOT = 3


@dataclass(frozen=True, eq=False)
class Replay:
    """Chosen rows in order, their total price, and what they say."""

    rows: tuple[int, ...]
    price: float
    known: Posterior


def replay(
    laws: Sequence[CandidateLaw],
    pool: Pool,
    target: Points,
    budget: float,
    draws: int,
    seed: int = 0,
) -> Replay | None:
    """Return the runs that a design chooses from a pool of finished runs within a budget; None if it affords none."""
    seen = first_runs(laws, pool, budget)
    if not seen:
        return None
    prices = pool.prices
    left = budget - prices[seen].sum()
    support = support_of(pool.candidates, target)
    while True:
        known = posterior(laws, pool, np.array(seen), support, draws, seed + len(seen))
        allowed = np.ones(len(prices), dtype=bool)
        allowed[seen] = False
        choice = choose(
            known.losses(pool.candidates), known.losses(target), prices, left, known.judged, allowed, len(prices)
        )
        now = list(choice.chosen[: max(1, int(np.ceil(_ROUND * len(seen))))])
        if not now:
            return Replay(tuple(seen), float(prices[seen].sum()), known)
        seen += now
        left -= prices[now].sum()


def first_runs(laws: Sequence[CandidateLaw], pool: Pool, budget: float) -> list[int]:
    """Return a space-filling pilot: one run more than the largest law has parameters, for a quarter of the budget.

    If that affords fewer, the budget is small, and the pilot is one run.
    """
    free = max(len(law.law.parameters) - len(law.fix) for law in laws)
    seen = pilot(pool.coordinates, pool.prices, PILOT_SHARE * budget, free + 1)
    return seen if len(seen) >= free else pilot(pool.coordinates, pool.prices, budget, _LEAST_PILOT)[:1]
