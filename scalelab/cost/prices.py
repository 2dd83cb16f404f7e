"""Result of pricing one decoder for several P, batch sizes and cost models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from scalelab.architecture import Architecture
from scalelab.cost.capacity import most_requests
from scalelab.cost.engines import ENGINES
from scalelab.cost.request import Cost, Device, Precision, Workload
from scalelab.cost.shape import ServedModel
from scalelab.shown import Shown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class MaxRequests:
    """Largest number of concurrent requests by one cost model, the limit that one more exceeds, and the cost."""

    engine: str
    requests: int
    short_of: str | None
    cost: Cost  # of one request if none fits


@dataclass(frozen=True)
class Prices(Shown):
    """Memory, latency and speed for each P, batch size and cost model.

    `blocks` has one mapping for each batch size: from cost model to the costs of P = 1 and of each P. For `batch="max"`
    it is empty, and `most` has the results. Iteration yields every requested cost.
    """

    plain: Architecture | ServedModel
    device: Device
    precision: Precision
    blocks: tuple[Mapping[str, tuple[Cost, ...]], ...]
    notes: tuple[str, ...] = ()
    most: tuple[MaxRequests, ...] = ()

    _report: ClassVar[str] = "scalelab.reports.costs:prices_report"
    _figure: ClassVar[str] = "scalelab.plot.prices:plot_prices"
    _json: ClassVar[str] = "scalelab.reports.costs:prices_json"

    @property
    def name(self) -> str:
        """Name of the model; empty if it has none."""
        return self.plain.name if isinstance(self.plain, ServedModel) else ""

    @property
    def fits(self) -> bool:
        """True if everything fits into the memory of the device."""
        costs = (cost for block in self.blocks for costs in block.values() for cost in costs)
        return all(cost.fits for cost in costs) and all(row.requests for row in self.most)

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the cost models."""
        return tuple(dict.fromkeys(row.engine for row in self.most)) or tuple(self.blocks[0])

    def __iter__(self) -> Iterator[Cost]:
        if self.most:
            return (row.cost for row in self.most)
        return (cost for block in self.blocks for costs in block.values() for cost in costs[1:])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each batch size, cost model and P, in bytes and seconds, at full precision."""
        import pandas as pd

        return pd.DataFrame(self.to_dict())

    def __repr__(self) -> str:
        streams = ", ".join(dict.fromkeys(str(cost.architecture.P) for cost in self))
        return f"<Prices {self.name or 'decoder'}, P {streams}, {self.device.gpu}, {', '.join(self.engines)}>"


def price_all(
    plain: Architecture | ServedModel,
    streams: Sequence[int],
    workloads: Sequence[Workload],
    device: Device,
    precision: Precision,
    engines: Sequence[str],
    notes: Sequence[str] = (),
) -> Prices:
    """Price `plain` with each number of streams, and with P = 1 for comparison."""
    blocks = tuple(
        {
            name: tuple(ENGINES[name](plain.with_streams(P), work, device, precision) for P in (1, *streams))
            for name in engines
        }
        for work in workloads
    )
    return Prices(plain, device, precision, blocks, tuple(notes))


def price_max_requests(
    plain: Architecture | ServedModel,
    streams: Sequence[int],
    workload: Workload,
    device: Device,
    precision: Precision,
    engines: Sequence[str],
    limits: Mapping[str, float],
    notes: Sequence[str] = (),
) -> Prices:
    """Find the largest number of concurrent requests within memory and `limits`, for each cost model and P."""
    rows = []
    for name in engines:
        for P in streams:
            model = plain.with_streams(P)

            def price(work: Workload, name: str = name, model: Architecture | ServedModel = model) -> Cost:
                return ENGINES[name](model, work, device, precision)

            most, stops = most_requests(price, workload, limits)
            rows.append(MaxRequests(name, most, stops, price(replace(workload, batch=max(1, most)))))
    return Prices(plain, device, precision, (), tuple(notes), tuple(rows))
