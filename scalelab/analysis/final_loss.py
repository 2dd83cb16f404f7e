"""Forecast of a run's final loss from its curve so far, learned from the curves of finished runs.

The final held-out loss of a finished run is explained by its training loss at the same point of the schedule, and by
how similar the runs are: in N, P, D and learning rate, and in the data that they saw. The same seed gives all N and P
of a sweep the same batches, so their training losses share the noise of those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from scalelab.analysis.kriging import Design, covariances, predict_last
from scalelab.laws.base import Array

LEVEL = 0.95
LEAST_RUNS = 5  # finished runs, fewer of which give no forecast
MOST_RUNS = 80  # finished runs that are used: the nearest ones
FIRST = 0.1  # share of a run before which there is no forecast: warm-up hides what follows
_WINDOWS = (0.02, 0.05, 0.1)  # shares of the run over which its training loss is averaged
# Ratios of variances to that of the noise of one run, averaged over; see `scalelab.analysis.kriging`.
_TREND = (1.0, 10.0, 100.0)  # of slopes along the loss so far and N, P, D, lr, in standard deviations of the runs
_CURVED = (0.0, 0.1, 1.0, 10.0)  # of their squares and products
_SHAPE = (0.0, 0.3, 3.0)  # of what runs of the same size have in common
_BATCHES = (0.0, 0.3, 3.0)  # of what runs with the same batches have in common
_EQUAL = 1.005  # ratio up to which sizes and FLOPs are the same


@dataclass(frozen=True)
class RunFacts:
    """Settings of a run that say with which others it can be compared.

    Attributes:
        N: Parameters, with those of the streams.
        P: Streams.
        D: Training tokens.
        seed: Seed of initialisation and data order.
        lr: Peak learning rate; 0 if unknown.
        batch: Tokens of a step; 0 if unknown.
        flops: Training FLOPs; 0 if unknown.
        setup: Digest of the training setup without N, P, D and seed.
        text: Digest of the text, tokenizer and held-out tokens: losses of different texts cannot be compared.
        schedule: Name of the learning rate schedule.
        ends: Where the phases of training end, as shares of the run; the last is 1.
        backbone: Parameters without those of the streams: runs with the same have the same shape. 0 if unknown.
    """

    N: float
    P: float
    D: float
    seed: float = 0.0
    lr: float = 0.0
    batch: float = 0.0
    flops: float = 0.0
    setup: str = ""
    text: str = ""
    schedule: str = ""
    ends: tuple[float, ...] = (1.0,)
    backbone: float = 0.0

    @property
    def size(self) -> float:
        """Parameters without those of the streams, if they are known."""
        return self.backbone or self.N

    def is_within(self, other: RunFacts) -> bool:
        """Return true if this run has no more parameters, streams, tokens and training FLOPs than `other`."""
        mine, others = ((f.size, f.P, f.D, f.flops) for f in (self, other))
        return all(a <= _EQUAL * b for a, b in zip(mine, others, strict=True))

    def like(self, other: RunFacts) -> bool:
        """Return true if the curves of both runs can be compared: the same text and the same kinds of phases."""
        return (self.text, self.schedule, len(self.ends)) == (other.text, other.schedule, len(other.ends))

    def repeats(self, other: RunFacts) -> bool:
        """Return true if both runs differ in nothing but the seed."""
        mine, others = ((f.text, f.setup, f.N, f.P, f.D, f.lr, f.schedule, f.ends) for f in (self, other))
        return mine == others


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A run with its curve, finished or not.

    Attributes:
        facts: Its settings.
        shares: Points of the curve as shares of the run, ascending, [n].
        losses: Mean training loss since the point before, [n]. The first is not used if the curve is cut there.
        final: Held-out loss at the end; nan while it trains.
    """

    facts: RunFacts
    shares: Array
    losses: Array
    final: float = np.nan

    @property
    def is_finished(self) -> bool:
        """True if the final loss is known."""
        return bool(np.isfinite(self.final))


@dataclass(frozen=True)
class FinalLoss:
    """Forecast of the held-out loss at the end of a run, with a 95 % interval.

    Attributes:
        loss: Nats per token; None if there is no forecast.
        low: Lower end of the interval.
        high: Upper end.
        runs: Finished runs that it is learned from.
        share: Share of the run that was known.
        reason: Why there is no forecast.
    """

    loss: float | None = None
    low: float | None = None
    high: float | None = None
    runs: int = 0
    share: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Measured:
    """The final loss of a finished run. The `name` is for people."""

    name: str
    loss: float
    facts: RunFacts = field(repr=False)


def forecast_final(run: TrainedRun, finished: Sequence[TrainedRun]) -> FinalLoss:
    """Forecast the final loss of `run` from the curves of finished runs.

    Runs are compared at the same share of each phase, so D and the length of a decay may differ. Runs with another
    text, schedule or number of phases are not used, nor runs whose curve does not reach back to the same point.

    Returns:
        The forecast; without a loss, but with the reason, if it is too early, if fewer than 5 finished runs can be
        used, or if the loss is not a number.
    """
    share = float(run.shares[-1]) if len(run.shares) else 0.0
    if share < FIRST:
        return FinalLoss(share=share, reason=f"too early: before {FIRST:.0%} of the run")
    windows = [w for w in _WINDOWS if share - w >= _start(run) - 1e-9]
    now = [_mean(run, run.facts.ends, share, w) for w in windows]
    if not windows or not np.isfinite(now).all():
        return FinalLoss(share=share, reason="the loss is not a number" if windows else "too few points of its curve")
    usable = [other for other in finished if other.is_finished and other.facts.like(run.facts)]
    means = np.array([[_mean(other, run.facts.ends, share, w) for w in windows] for other in usable])
    kept = [i for i in range(len(usable)) if np.isfinite(means[i]).all()]
    if len(kept) < LEAST_RUNS:
        return FinalLoss(runs=len(kept), share=share, reason=_too_few(len(kept), len(finished)))
    kept = [kept[i] for i in nearest([usable[i].facts for i in kept], run.facts)]
    chosen = [usable[i] for i in kept]
    everyone = [*(other.facts for other in chosen), run.facts]
    values = np.array([other.final for other in chosen])
    found = predict_last(values, _designs(everyone, np.vstack([means[kept], now])), LEVEL)
    return FinalLoss(found.value, found.low, found.high, len(chosen), share)


def find_rival(run: RunFacts, forecast: FinalLoss, finished: Iterable[Measured]) -> Measured | None:
    """Return the best finished run that is no larger in any respect than `run` and that `run` will not beat.

    That is: it has no more parameters, streams, tokens and training FLOPs, and its loss is below the interval of the
    forecast. Runs on other texts, and runs that differ from `run` in the seed alone, are no rivals. If some rivals
    have the seed of `run`, only those count: a seed's luck is common to its runs.
    """
    within = (other for other in finished if other.facts.text == run.text and other.facts.is_within(run))
    rivals = [other for other in within if not other.facts.repeats(run)]
    paired = [other for other in rivals if other.facts.seed == run.seed]
    best = min(paired or rivals, key=lambda other: other.loss, default=None)
    beaten = best is None or forecast.low is None or best.loss >= forecast.low
    return None if beaten else best


def _too_few(usable: int, finished: int) -> str:
    others = "" if usable == finished else f", of {finished} in all; the others have another text or schedule"
    return f"needs {LEAST_RUNS} finished runs with curves; there are {usable}{others}"


def _start(run: TrainedRun) -> float:
    """Return the share from which the mean loss is known: 0, or the first point of a curve that is cut."""
    first = float(run.shares[0])
    return 0.0 if len(run.shares) > 1 and first <= np.diff(run.shares).max() else first


def _mean(run: TrainedRun, ends: tuple[float, ...], share: float, window: float) -> float:
    """Return the mean training loss of `run` over `window` before `share`, on the time axis of phases at `ends`.

    It is nan where the curve does not cover the window.
    """
    start = _start(run)
    own = np.concatenate([[start], run.shares[run.shares > start]])
    losses = run.losses[run.shares > start]
    axis = np.interp(own, [0.0, *run.facts.ends], [0.0, *ends])
    if share - window < axis[0] - 1e-9 or share > axis[-1] + 0.01:
        return float("nan")
    area = np.concatenate([[0.0], np.cumsum(losses * np.diff(axis))])
    share = min(share, float(axis[-1]))
    top, bottom = np.interp([share, share - window], axis, area)
    return float(top - bottom) / window


def nearest(others: Sequence[RunFacts], run: RunFacts) -> list[int]:
    """Return the indices of at most `MOST_RUNS` of `others`, those most like `run` in N, P, D and learning rate."""
    if len(others) <= MOST_RUNS:
        return list(range(len(others)))
    places = _places([*others, run])
    order = np.argsort(((places[:-1] - places[-1]) ** 2).sum(axis=1), kind="stable")
    return sorted(order[:MOST_RUNS].tolist())


def _places(everyone: Sequence[RunFacts]) -> Array:
    """Return ln N, ln P, ln D and ln learning rate in standard deviations of all rows but the last, [n + 1, k]."""
    rows = np.array([[f.N, f.P, f.D, f.lr] for f in everyone], dtype=float)
    rows = np.log(rows[:, (rows > 0).all(axis=0)])
    spread = rows[:-1].std(axis=0)
    # A setting that only the new run changes counts as far as a factor of e.
    return (rows - rows[:-1].mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)


def _designs(everyone: Sequence[RunFacts], means: Array) -> list[Design]:
    """Return an explanation of the final losses for each window of the curve.

    Each is the mean training loss in the window, [n + 1] of `means` [n + 1, windows], plus a constant, plus what the
    covariances hold: a quadratic in that loss and the settings, the size, and the batches.
    """
    places = _places(everyone)
    shape = _same([(f.size,) for f in everyone])
    batches = _same([(f.seed, f.D, f.batch) for f in everyone])
    made = []
    for now in means.T:
        line = (now - now[:-1].mean()) / (now[:-1].std() or 1.0)
        trend = places @ places.T + np.outer(line, line)
        parts = [(trend, _TREND), (trend**2, _CURVED), (shape, _SHAPE), (batches, _BATCHES)]
        made.append(Design(now, np.ones((len(now), 1)), covariances(parts)))
    return made


def _same(rows: Sequence[tuple[float, ...]]) -> Array:
    """Return 1 for each pair of equal rows and 0 for the others, [n, n]."""
    group = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    return (group[:, None] == group[None]).astype(float)
