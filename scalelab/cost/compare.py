"""What P streams add to memory and latency, beside what growing N to the same loss adds.

The recipe behind "22 times less memory increase, 6 times less latency increase" (arXiv 2505.10475,
Figure 4): memory and latency are averaged over requests with as many tokens in as out, 64, 128, 256 and
512; from each average that of the P = 1 model of the streams' own hidden size is taken off; the ratio
is the increase of the plain model of equal loss over the increase of the streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scalelab.architecture import Architecture
from scalelab.cost.engines import get_engine
from scalelab.cost.equal_loss import Measured, of_size
from scalelab.cost.model import BF16, Cost, Device, Precision, Workload
from scalelab.cost.setting import BATCHES, LENGTHS

Price = Callable[[Architecture, Workload], Cost]


@dataclass(frozen=True)
class Average:
    """Memory in bytes and latency in seconds, averaged over request lengths; whether all of them fit."""

    memory_bytes: float
    latency_s: float
    fits: bool = True


@dataclass(frozen=True)
class Ratio:
    """How many times the streams' increase growing N increases, and its interval where N has one.

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
    """N of the plain model of equal loss; `low` and `high` end its interval, which may be open (infinite)."""

    value: float
    low: float | None = None
    high: float | None = None


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
    N's, which are quantiles of N over the draws of a fit.
    """
    family = streams.with_streams(1)
    ends = (size.value, size.low, size.high)
    shapes = [None if n is None or math.isinf(n) else of_size(family, n, convention) for n in ends]
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
        rows.append(Comparison(batch, base, more, plains[0], *ratios))
    return rows


def _ratio(plains: Sequence[float | None], base: float, streams: float) -> Ratio:
    """Of the increases over `base`, for N and both ends of its interval; None stands for an infinite N."""
    added = streams - base
    grown = [math.inf if plain is None else plain - base for plain in plains]
    return Ratio(*(g / added if added else math.copysign(math.inf, g) for g in grown))


def price_runs(
    price: Price, runs: Sequence[Measured], batches: Sequence[int] = BATCHES, lengths: Sequence[int] = LENGTHS
) -> dict[int, list[tuple[Measured, Average]]]:
    """What each measured run costs, for each batch size."""
    return {b: [(run, average(price, run.architecture, b, lengths)) for run in runs] for b in batches}
