"""Increases of memory and latency by P streams, beside those by growing N to the same loss.

The recipe behind "22 times less memory increase, 6 times less latency increase" (arXiv 2505.10475,
Figure 4): memory and latency are averaged over requests with as many tokens in as out, 64, 128, 256 and
512; from each average that of the P = 1 model of the streams' own hidden size is taken off; the ratio
is the increase of the plain model of equal loss over the increase of the streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalelab.architecture import Architecture
from scalelab.cost.engines import get_engine
from scalelab.cost.equal_loss import MeasuredRun, decoder_of_size
from scalelab.cost.request import BF16, SIGMAS, Cost, Device, Precision, Workload, interval_of
from scalelab.cost.setting import BATCHES, LENGTHS

Array = NDArray[np.float64]
Price = Callable[[Architecture, Workload], Cost]
_POINTS = 16  # sizes that are priced between the least and the largest draw of N
_TAILS = (0.025, 0.975)
_SEED = 0


@dataclass(frozen=True)
class Average:
    """Memory in bytes and latency in seconds, averaged over request lengths; whether all of them fit.

    The spreads are those of `Cost`.
    """

    memory_bytes: float
    latency_s: float
    fits: bool = True
    spread: float = 0.0
    memory_spread: float = 0.0
    streams_spread: float = 0.0

    @property
    def latency_interval_s(self) -> tuple[float, float] | None:
        """The 95 % interval by the spread of published errors; None without one."""
        return interval_of(self.latency_s, math.hypot(self.spread, self.streams_spread))

    @property
    def memory_interval_bytes(self) -> tuple[float, float] | None:
        """The 95 % interval by the spread of published errors; None without one."""
        return interval_of(self.memory_bytes, self.memory_spread)


@dataclass(frozen=True)
class Ratio:
    """Increase by growing N over the increase by streams, with an interval where N or the price has one.

    Infinite where no plain model reaches the loss; below 1 the streams cost more.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One P at one batch size. `plain` is None where no plain model reaches the loss."""

    batch: int
    base: Average  # P = 1, the streams' hidden size
    streams: Average
    plain: Average | None  # P = 1, the loss of the streams
    memory_ratio: Ratio
    latency_ratio: Ratio

    @property
    def fits(self) -> bool:
        return all(a.fits for a in (self.base, self.streams, self.plain) if a is not None)


@dataclass(frozen=True)
class Size:
    """N of the plain model of equal loss; `low` and `high` end its interval, which may be open (infinite).

    `draws` are those that the interval is of.
    """

    value: float
    low: float | None = None
    high: float | None = None
    draws: tuple[float, ...] = ()


def price_by(engine: str, device: Device, precision: Precision = BF16) -> Price:
    """The cost model of that name on one device. Raises `UsageError` for a name that is none."""
    priced = get_engine(engine)
    return lambda model, workload: priced(model, workload, device, precision)


def average(price: Price, model: Architecture, batch: int, lengths: Sequence[int] = LENGTHS) -> Average:
    """Cost of `model` averaged over requests of n tokens in and n out, n each of `lengths`."""
    costs = [price(model, Workload(batch, n, n)) for n in lengths]
    return Average(
        math.fsum(c.memory_bytes for c in costs) / len(costs),
        math.fsum(c.latency_s for c in costs) / len(costs),
        all(c.fits for c in costs),
        costs[0].spread,
        costs[0].memory_spread,
        costs[0].streams_spread,
    )


def compare(
    price: Price,
    streams: Architecture,
    size: Size,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    convention: str = "paper",
) -> list[Comparison]:
    """A `Comparison` for each batch size of `streams` and the plain model of `size`, N counted by `convention`.

    The plain model keeps the depth and heads of `streams` and is as wide as its N asks, unrounded. A
    ratio rises with N, since every cost does: so the ends of its interval are the ratios at the ends of
    N's, which are quantiles of N over the draws of a fit. Where the price of P rows over one has a spread, each draw
    of N meets one of that; without draws the ends of both intervals meet.
    """
    family = streams.with_streams(1)
    sizes = (size.value, size.low, size.high)
    shapes = [None if n is None or math.isinf(n) else decoder_of_size(family, n, convention) for n in sizes]
    rows = []
    for batch in batches:
        base, more = (average(price, model, batch, lengths) for model in (family, streams))
        plains = [None if s is None else average(price, s, batch, lengths) for s in shapes]
        ratios = [
            _ratio([None if a is None else getattr(a, name) for a in plains], getattr(base, name), getattr(more, name))
            for name in ("memory_bytes", "latency_s")
        ]
        if size.low is None or size.high is None:
            ratios = [Ratio(r.value) for r in ratios]
        if more.streams_spread:
            grown, scores = _doubts(price, family, size, plains, batch, lengths, convention)
            added = more.latency_s * np.exp(more.streams_spread * scores) - base.latency_s
            ends = _ends(grown - base.latency_s, added, _TAILS if size.draws else (0.0, 1.0))
            ratios[1] = Ratio(ratios[1].value, *ends)
        rows.append(Comparison(batch, base, more, plains[0], *ratios))
    return rows


def _ratio(plains: Sequence[float | None], base: float, streams: float) -> Ratio:
    """Divide increases over `base`, for N and both ends of its interval; None stands for an infinite N."""
    added = streams - base
    grown = [math.inf if plain is None else plain - base for plain in plains]
    return Ratio(*(g / added if added else math.copysign(math.inf, g) for g in grown))


def _doubts(
    price: Price,
    family: Architecture,
    size: Size,
    plains: Sequence[Average | None],
    batch: int,
    lengths: Sequence[int],
    convention: str,
) -> tuple[Array, Array]:
    """(latencies of plain models, standard scores of what P rows take over one): draws, or both at their ends."""
    if size.draws:
        sizes = np.array(size.draws)
        scores = np.random.default_rng(_SEED).standard_normal(len(sizes))
        return _latencies(price, family, sizes, batch, lengths, convention), scores
    low, high = (plains[0], plains[0]) if size.low is None or size.high is None else plains[1:]
    latencies = [math.inf if plain is None else plain.latency_s for plain in (low, high)]
    return np.array(latencies), np.array([SIGMAS, -SIGMAS])


def _ends(grown: Array, added: Array, tails: tuple[float, float]) -> tuple[float, float]:
    """Quantiles of the ratios of what growing N adds [n] to what streams add [n].

    Where streams add nothing, the ratio is infinite in favour of what adds less.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(added > 0, grown / added, np.where(grown > added, np.inf, -np.inf))
    # Between a number and infinity there is no mean: there the nearest draws themselves.
    low, high = np.quantile(ratios, tails, method="linear" if np.isfinite(ratios).all() else "closest_observation")
    return float(low), float(high)


def _latencies(
    price: Price, family: Architecture, sizes: Array, batch: int, lengths: Sequence[int], convention: str
) -> Array:
    """Average latencies [n] of plain models of `sizes` [n], read off some of them; infinite for no size."""
    known = sizes[np.isfinite(sizes)]
    if not len(known):
        return np.full(len(sizes), np.inf)
    low, high = np.quantile(known, (0.005, 0.995))  # what lies beyond does not move the interval
    priced = np.geomspace(low, high, _POINTS if high > low else 1)
    seconds = [average(price, decoder_of_size(family, n, convention), batch, lengths).latency_s for n in priced]
    found = np.exp(np.interp(np.log(sizes), np.log(priced), np.log(seconds)))
    return np.where(np.isinf(sizes), np.inf, found)


def price_runs(
    price: Price, runs: Sequence[MeasuredRun], batches: Sequence[int] = BATCHES, lengths: Sequence[int] = LENGTHS
) -> dict[int, list[tuple[MeasuredRun, Average]]]:
    """Price each measured run, for each batch size."""
    return {b: [(run, average(price, run.architecture, b, lengths)) for run in runs] for b in batches}
