"""Design of the next runs from known ones, or of a pilot from none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalelab.designs.choose import Choice, choose, narrowed, pilot
from scalelab.designs.pool import Pool
from scalelab.designs.posterior import Posterior, posterior
from scalelab.designs.prices import Budget
from scalelab.designs.prior import support_of
from scalelab.designs.replay import replay
from scalelab.designs.result import Design, Outlook, outlook_of
from scalelab.designs.targets import Target
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit.result import Note
from scalelab.fit.select import CandidateLaw
from scalelab.laws.base import Array
from scalelab.units import format_percent, plural

MOST = 24  # runs of a design
_PILOT_MORE, _PILOT_MOST = 2, 12  # runs of a pilot above the largest number of parameters, and at most
_SMALL_GAIN = 0.005  # share of the variance; a run that lowers it by less ends the design


@dataclass(frozen=True)
class DesignOptions:
    """Options of a design.

    Attributes:
        draws: Draws of the parameters of all laws together.
        seed: Seed of the draws.
        seeds: Number of seeds with which each run is trained.
        most: Number of runs at most.
        may_be_empty: If the budget affords no run, say what is known now.
        meta: Data, target and options, with which an update goes on.
    """

    draws: int = 400
    seed: int = 0
    seeds: int = 1
    most: int = MOST
    may_be_empty: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)


def design_pilot(laws: Sequence[CandidateLaw], pool: Pool, budget: Budget, o: DesignOptions) -> Design:
    """Return a space-filling set of cheap runs, for which nothing needs to be known.

    Raises:
        UsageError: The budget affords no run.
    """
    free = max(len(law.law.parameters) - len(law.fix) for law in laws)
    prices = o.seeds * pool.prices
    rows = pilot(pool.coordinates, prices, budget.amount, min(o.most, free + _PILOT_MORE, _PILOT_MOST))
    if not rows:
        raise _too_small(budget, prices)
    notes = [
        Note(
            "design_pilot",
            "info",
            "nothing is known yet: these runs fill the space; design again with their records",
            {},
        )
    ]
    if len(rows) <= free:
        text = f"{plural(len(rows), 'run')} cannot determine {free} parameters of a law; give a larger budget"
        notes.append(Note("design_small_pilot", "warning", text, {}))
    return Design(
        "no runs", 0, {}, pool.candidates.subset(np.array(rows)), tuple(prices[rows].tolist()), o.seeds, (), budget,
        (), tuple(notes), asked=_asked(pool, rows), meta=o.meta,
    )  # fmt: skip


def design_runs(
    title: str,
    laws: Sequence[CandidateLaw],
    pool: Pool,
    targets: Sequence[Target],
    budget: Budget,
    o: DesignOptions,
) -> Design:
    """Return the runs that lower the variance of the targets most within a budget.

    Raises:
        UsageError: The budget affords no run, or no law has a target's parameter.
        ScalelabError: No law is defined at the known runs.
    """
    prices = o.seeds * pool.prices
    allowed = new_rows(pool)
    affordable = (prices[allowed] <= budget.amount).any()
    if not affordable and not o.may_be_empty:
        raise _too_small(budget, prices[allowed])
    support = support_of(pool.candidates, next((t.points for t in targets if t.points is not None), None))
    known = posterior(laws, pool, np.arange(pool.n_known), support, o.draws, o.seed)
    values, units, keep = _values(targets, known)
    aims = np.concatenate([v / u for v, u in zip(values, units, strict=True)], axis=1)
    noise = known.judged[pool.n_known :] / o.seeds**0.5
    losses = known.losses(pool.candidates)[keep]
    choice = choose(losses, aims, prices, budget.amount, noise, allowed, o.most)
    if (enough := _worthwhile(choice)) < len(choice.chosen):
        spent = float(prices[list(choice.chosen[:enough])].sum())
        choice = choose(losses, aims, prices, spent, noise, allowed, enough)
    rows = np.array(choice.chosen, dtype=int)
    left, spread = narrowed(losses, aims, choice.chosen, known.error / o.seeds**0.5)
    ends = np.cumsum([v.shape[1] for v in values])[:-1]
    after = [a * u for a, u in zip(np.split(spread, ends, axis=1), units, strict=True)]
    outlooks = [outlook_of(t, v, a) for t, v, a in zip(targets, values, after, strict=True)]
    return Design(
        title, pool.n_known, _weights(known), pool.candidates.subset(rows), tuple(prices[rows].tolist()), o.seeds,
        left, budget, tuple(outlooks), tuple(_notes(outlooks, rows)),
        seen=pool.data.points.subset(np.arange(pool.n_known)), known=known, asked=_asked(pool, rows), meta=o.meta,
    )  # fmt: skip


def design_replay(
    title: str,
    laws: Sequence[CandidateLaw],
    pool: Pool,
    target: Target,
    budget: Budget,
    o: DesignOptions,
) -> Design:
    """Return the runs of a finished table that a design chooses, and what they say about the target.

    Raises:
        UsageError: The budget affords no run, or the target is no loss.
    """
    if target.points is None:
        raise UsageError("a replay needs losses as its target: a table of points, or N=7B,P=8", argument="target")
    found = replay(laws, pool, target.points, budget.amount, o.draws, o.seed)
    if found is None:
        raise _too_small(budget, pool.prices)
    rows = np.array(found.rows)
    outlook = outlook_of(target, target.values(found.known), None)
    return Design(
        title, len(rows), _weights(found.known), pool.candidates.subset(rows), tuple(pool.prices[rows].tolist()), 1, (),
        budget, (outlook,), (), True, None, found.known, tuple(pool.data.loss[rows].tolist()), meta=o.meta,
    )  # fmt: skip


def _asked(pool: Pool, rows: Sequence[int] | np.ndarray) -> tuple[float, ...]:
    return () if pool.asked is None else tuple(pool.asked[list(rows)].tolist())


def new_rows(pool: Pool) -> np.ndarray:
    """Return which candidates are not among the known runs, bool [c]."""
    at, known = pool.candidates, pool.data.points.subset(np.arange(pool.n_known))
    allowed = np.ones(len(pool.prices), dtype=bool)
    names = [v for v in pool.data.known if pool.data.varies(v)]
    for i in range(pool.n_known):
        same = [np.abs(at.ln(v) - known.ln(v)[i]) < 0.01 for v in names]
        allowed &= ~np.all(same, axis=0) if names else allowed
    return allowed


def _values(targets: Sequence[Target], known: Posterior) -> tuple[list[Array], list[float], np.ndarray]:
    """Return the values of each target by draw [s, m], a unit for each, and which draws have all of them, bool.

    The unit of a single target is 1. Several count alike: theirs are the standard deviations.
    """
    raw = [target.values(known) for target in targets]
    keep = np.all([np.isfinite(v).all(axis=1) for v in raw], axis=0)
    if keep.sum() < 2:
        names = ", ".join(t.title for t in targets)
        raise UsageError(f"no plausible law of these runs has {names}; name its law with `laws`", argument="target")
    if not keep.all() and any(t.kind == "laws" for t in targets):
        raise UsageError("ask for laws without a parameter, which only some laws have", argument="target")
    values = [v[keep] for v in raw]
    units = [1.0 if len(targets) == 1 else max(float(v.std(0).mean()) * v.shape[1] ** 0.5, 1e-12) for v in values]
    return values, units, keep


def _worthwhile(choice: Choice) -> int:
    """Return the number of runs after which the others together lower the variance by little."""
    left = np.array([choice.before, *choice.left])
    return max(min(1, len(choice.chosen)), int(np.argmax(left <= choice.after + _SMALL_GAIN * choice.before)))


def _weights(known: Posterior) -> dict[str, float]:
    return {one.candidate.label: one.weight for one in sorted(known.laws, key=lambda one: -one.weight)}


def _notes(outlooks: Sequence[Outlook], rows: np.ndarray) -> list[Note]:
    notes = []
    if not len(rows):
        text = "no candidate within the budget lowers the variance; give a larger budget or other candidates"
        notes.append(Note("design_no_gain", "warning", text, {}))
    elif all(o.reduction < 0.05 for o in outlooks):
        share = format_percent(max(o.reduction for o in outlooks))
        text = f"the intervals are expected to shrink by {share} at most: give a larger budget or larger candidates"
        notes.append(Note("design_small_gain", "warning", text, {}))
    return notes


def _too_small(budget: Budget, prices: Array) -> ScalelabError:
    cheapest = budget.text(float(prices.min())) if len(prices) else "nothing"
    return UsageError(
        f"affords no new run: the cheapest costs {cheapest}; give a larger budget or smaller candidates",
        argument="budget",
        value=budget.text(),
    )
