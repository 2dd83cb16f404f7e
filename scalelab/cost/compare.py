"""Increase of memory and latency from P streams, compared with growing N to the same loss.

This is the recipe behind "22 times less memory increase, 6 times less latency increase" (arXiv 2505.10475, Figure 4).
Memory and latency are averaged over requests with 64, 128, 256 and 512 tokens in and as many out. The base is the
P = 1 model with the hidden size of the streams. The ratio is the increase of the plain model of equal loss over the
base, divided by the increase of the streams.
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
_POINTS = 16  # sizes priced between the smallest and the largest draw of N
_TAILS = (0.025, 0.975)
_SEED = 0


@dataclass(frozen=True)
class Average:
    """Memory in bytes and latency in seconds, averaged over request lengths.

    `fits` is true if all of them fit into memory. The spreads are as in `Cost`.
    """

    memory_bytes: float
    latency_s: float
    fits: bool = True
    spread: float = 0.0
    memory_spread: float = 0.0
    streams_spread: float = 0.0

    @property
    def latency_interval_s(self) -> tuple[float, float] | None:
        """The 95 % interval from the spread of published errors; None without a spread."""
        return interval_of(self.latency_s, math.hypot(self.spread, self.streams_spread))

    @property
    def memory_interval_bytes(self) -> tuple[float, float] | None:
        """The 95 % interval from the spread of published errors; None without a spread."""
        return interval_of(self.memory_bytes, self.memory_spread)


@dataclass(frozen=True)
class Ratio:
    """Increase from growing N divided by the increase from streams, with an interval if N or the price has one.

    Infinite if no plain model reaches the loss. Below 1 the streams cost more.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Comparison for one P and batch size. `plain` is None if no plain model reaches the loss."""

    batch: int
    base: Average  # P = 1, hidden size of the streams
    streams: Average
    plain: Average | None  # P = 1, loss of the streams
    memory_ratio: Ratio
    latency_ratio: Ratio

    @property
    def fits(self) -> bool:
        """True if all models fit into memory."""
        return all(a.fits for a in (self.base, self.streams, self.plain) if a is not None)


@dataclass(frozen=True)
class Size:
    """N of the plain model of equal loss, with an interval from `low` to `high`, which may be infinite.

    `draws` are the draws of N that the interval is computed from.
    """

    value: float
    low: float | None = None
    high: float | None = None
    draws: tuple[float, ...] = ()


def price_by(engine: str, device: Device, precision: Precision = BF16) -> Price:
    """Return a function that prices workloads with the named cost model on one device.

    Raises:
        UsageError: There is no cost model of this name.
    """
    priced = get_engine(engine)
    return lambda model, workload: priced(model, workload, device, precision)


def average(price: Price, model: Architecture, batch: int, lengths: Sequence[int] = LENGTHS) -> Average:
    """Average the cost of `model` over requests of n tokens in and n out, for each n of `lengths`."""
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
    """Compare `streams` with the plain model of `size`, for each batch size.

    The plain model has the depth and heads of `streams` and the real-valued width that gives its N. Every cost rises
    with N, so the ends of a ratio's interval are the ratios at the ends of the interval of N. If the time of P rows
    relative to one has a spread, each draw of N is paired with a draw of that time; without draws, the ends of both
    intervals are combined.

    Args:
        price: Cost of a model and workload.
        streams: Model with streams.
        size: N of the plain model of equal loss.
        batches: Batch sizes.
        lengths: Tokens in, and as many out.
        convention: How N is counted: a name of `scalelab.conventions.CONVENTIONS`.
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
            grown, scores = _latency_samples(price, family, size, plains, batch, lengths, convention)
            added = more.latency_s * np.exp(more.streams_spread * scores) - base.latency_s
            ends = _ends(grown - base.latency_s, added, _TAILS if size.draws else (0.0, 1.0))
            ratios[1] = Ratio(ratios[1].value, *ends)
        rows.append(Comparison(batch, base, more, plains[0], *ratios))
    return rows


def _ratio(plains: Sequence[float | None], base: float, streams: float) -> Ratio:
    """Return ratios of increases over `base` for N and the ends of its interval; None stands for infinite N."""
    added = streams - base
    grown = [math.inf if plain is None else plain - base for plain in plains]
    return Ratio(*(g / added if added else math.copysign(math.inf, g) for g in grown))


def _latency_samples(
    price: Price,
    family: Architecture,
    size: Size,
    plains: Sequence[Average | None],
    batch: int,
    lengths: Sequence[int],
    convention: str,
) -> tuple[Array, Array]:
    """Return latencies of plain models and standard scores of the time of P rows relative to one, as paired samples.

    Without draws of N the samples are the two ends of both intervals.
    """
    if size.draws:
        sizes = np.array(size.draws)
        scores = np.random.default_rng(_SEED).standard_normal(len(sizes))
        return _latencies(price, family, sizes, batch, lengths, convention), scores
    low, high = (plains[0], plains[0]) if size.low is None or size.high is None else plains[1:]
    latencies = [math.inf if plain is None else plain.latency_s for plain in (low, high)]
    return np.array(latencies), np.array([SIGMAS, -SIGMAS])


def _ends(grown: Array, added: Array, tails: tuple[float, float]) -> tuple[float, float]:
    """Return quantiles of the increase from growing N [n] divided by the increase from streams [n].

    If streams add nothing, the ratio is ±∞, in favour of the smaller increase.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(added > 0, grown / added, np.where(grown > added, np.inf, -np.inf))
    # Interpolation between a number and infinity is impossible: take the nearest draws.
    low, high = np.quantile(ratios, tails, method="linear" if np.isfinite(ratios).all() else "closest_observation")
    return float(low), float(high)


def _latencies(
    price: Price, family: Architecture, sizes: Array, batch: int, lengths: Sequence[int], convention: str
) -> Array:
    """Return average latencies [n] of plain models of `sizes` [n], interpolated; infinite for infinite sizes."""
    known = sizes[np.isfinite(sizes)]
    if not len(known):
        return np.full(len(sizes), np.inf)
    low, high = np.quantile(known, (0.005, 0.995))  # the tails do not affect the interval
    priced = np.geomspace(low, high, _POINTS if high > low else 1)
    seconds = [average(price, decoder_of_size(family, n, convention), batch, lengths).latency_s for n in priced]
    found = np.exp(np.interp(np.log(sizes), np.log(priced), np.log(seconds)))
    return np.where(np.isinf(sizes), np.inf, found)


def price_runs(
    price: Price, runs: Sequence[MeasuredRun], batches: Sequence[int] = BATCHES, lengths: Sequence[int] = LENGTHS
) -> dict[int, list[tuple[MeasuredRun, Average]]]:
    """Price each measured run, for each batch size."""
    return {b: [(run, average(price, run.architecture, b, lengths)) for run in runs] for b in batches}
