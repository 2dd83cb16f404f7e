"""Choose the runs that most lower the variance of a target within a budget, from draws of the laws.

The draws at the candidates and of the target are an ensemble; observing a run updates it as an ensemble Kalman filter
does (Whitaker & Hamill 2002), so the choice holds over all laws and basins and needs no derivatives. A set is chosen
greedily, by the gain over a power of the price; of several powers the set with the smallest variance is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import Array

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the price
_FAR = 4.0  # standard deviations, as of a normal distribution, to which draws are drawn in: a few would decide alone
_DECILES = 2.563  # distance of the first and last decile of a normal distribution in standard deviations


@dataclass(frozen=True, eq=False)
class Choice:
    """Chosen candidates in order (indices), and the variance of the targets, summed, before them and after each."""

    chosen: tuple[int, ...]
    before: float
    left: tuple[float, ...]

    @property
    def after(self) -> float:
        """Variance of the targets after all runs."""
        return self.left[-1] if self.left else self.before


def choose(
    losses: Array, targets: Array, prices: Array, budget: float, noise: Array, allowed: np.ndarray, most: int
) -> Choice:
    """Return the set of runs for a budget.

    Args:
        losses: Losses of the candidates by draw, nats per token, [s, c].
        targets: Values of the targets by draw, [s, m].
        prices: Price of each candidate, [c].
        budget: Total price of the set at most.
        noise: Relative standard deviation of the loss of each candidate about its law, [c].
        allowed: Candidates that may be chosen, bool [c].
        most: Number of runs at most.
    """
    with np.errstate(all="ignore"):
        logs = np.log(losses)
    usable = allowed & np.isfinite(logs).all(0) & (prices <= budget)
    logs = _anomalies(np.where(np.isfinite(logs), logs, 0.0))
    aims = _anomalies(targets)
    plans = [_greedy(logs, aims, prices, budget, noise, usable, most, power) for power in POWERS]
    return min(plans, key=lambda plan: plan.after)


def _greedy(
    logs: Array, aims: Array, prices: Array, budget: float, noise: Array, usable: np.ndarray, most: int, power: float
) -> Choice:
    before, left, free = float(aims.var(0).sum()), budget, usable.copy()
    chosen: list[int] = []
    after: list[float] = []
    size = len(logs)
    while len(chosen) < most:
        free &= prices <= left
        if not free.any():
            break
        variance = (logs**2).mean(0) + noise**2
        shared = aims.T @ logs / size
        own = (aims**2).mean(0)[:, None]
        # With few draws an unrelated candidate seems related: subtract what chance gives.
        gains = np.maximum(shared**2 / variance - own * (logs**2).mean(0) / variance / size, 0.0).sum(0)
        scores = np.where(free, gains / prices**power, -1.0)
        pick = int(np.argmax(scores))
        if gains[pick] <= 0:
            break
        chosen.append(pick)
        left -= prices[pick]
        free[pick] = False
        logs, aims = _observed(logs, aims, pick, float(noise[pick] ** 2))
        after.append(float(aims.var(0).sum()))
    return Choice(tuple(chosen), before, tuple(after))


def narrowed(losses: Array, targets: Array, chosen: Sequence[int], error: float) -> tuple[tuple[float, ...], Array]:
    """Return the summed variance of the targets after each run, as a share of that before, and their anomalies [s, m].

    The runs have losses by draw [s, c] in `losses`, and relative errors of standard deviation `error`.
    """
    aims = _anomalies(targets)
    if not len(chosen):
        return (), aims
    with np.errstate(all="ignore"):
        logs = _anomalies(np.log(losses[:, list(chosen)]))
    before, left = max(float(aims.var(0).sum()), 1e-300), []
    for i in range(len(chosen)):
        logs, aims = _observed(logs, aims, i, error**2)
        left.append(float(aims.var(0).sum()) / before)
    return tuple(left), aims


def _observed(logs: Array, aims: Array, pick: int, error: float) -> tuple[Array, Array]:
    """Return the anomalies after candidate `pick` is observed with an error of this variance."""
    seen, size = logs[:, pick], len(logs)
    spread = float((seen**2).mean())
    gain = 1 / (1 + np.sqrt(error / (spread + error))) / (spread + error) / size
    return logs - seen[:, None] * (gain * (seen @ logs)), aims - seen[:, None] * (gain * (seen @ aims))


def _anomalies(values: Array) -> Array:
    """Return the values [s, c] less their mean, with far ones drawn in."""
    low, middle, high = np.nanquantile(values, [0.1, 0.5, 0.9], axis=0)
    reach = _FAR * (high - low) / _DECILES
    values = np.where(reach > 0, np.clip(values, middle - reach, middle + reach), values)
    return values - values.mean(0)


def pilot(coordinates: Array, prices: Array, budget: float, count: int) -> list[int]:
    """Return a space-filling set of cheap runs: each is far from those before.

    Each is the farthest that an equal share of the budget affords.

    Args:
        coordinates: Logarithms of the variables, each scaled to its range among the candidates, [c, v].
        prices: Price of each candidate, [c].
        budget: Total price at most.
        count: Number of runs at most.
    """
    order = np.argsort(prices, kind="stable")
    count = min(count, int((np.cumsum(prices[order]) <= budget).sum()))
    if not count:
        return []
    affordable = prices <= max(budget / count, np.partition(prices, count - 1)[count - 1])
    chosen = [int(order[0])]
    left = budget - prices[order[0]]
    while len(chosen) < count:
        distance = np.min([np.abs(coordinates - coordinates[i]).sum(1) for i in chosen], axis=0)
        rest = np.sort(np.delete(prices, chosen))
        spare = left - rest[: count - len(chosen) - 1].sum()
        free = affordable & (prices <= spare)
        free[chosen] = False
        if not free.any():
            free = prices <= left
            free[chosen] = False
            if not free.any():
                break
        pick = int(np.argmax(np.where(free, distance, -1.0)))
        chosen.append(pick)
        left -= prices[pick]
    return chosen
