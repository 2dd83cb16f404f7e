"""Prices of one decoder for several P, batch sizes and cost models, as one result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from scalelab.architecture import Architecture
from scalelab.cost.engines import ENGINES
from scalelab.cost.model import Cost, Device, Precision, Workload
from scalelab.cost.shape import ServedModel
from scalelab.shown import Shown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prices(Shown):
    """Memory and latency for each P, batch size and cost model.

    `blocks` has, for each batch size, the costs of P = 1 and then of each P by cost model. Iterating gives every cost
    that was asked for.
    """

    plain: Architecture | ServedModel
    device: Device
    precision: Precision
    blocks: tuple[Mapping[str, tuple[Cost, ...]], ...]
    notes: tuple[str, ...] = ()

    _report: ClassVar[str] = "scalelab.report.costs:prices_report"
    _json: ClassVar[str] = "scalelab.report.costs:prices_json"

    @property
    def name(self) -> str:
        """The name of the model, where it has one."""
        return self.plain.name if isinstance(self.plain, ServedModel) else ""

    @property
    def fits(self) -> bool:
        """Whether everything fits on the device."""
        return all(cost.fits for block in self.blocks for costs in block.values() for cost in costs)

    def __iter__(self) -> Iterator[Cost]:
        return (cost for block in self.blocks for costs in block.values() for cost in costs[1:])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each batch size, cost model and P, in bytes and seconds, with every digit."""
        import pandas as pd

        return pd.DataFrame(self.to_dict())

    def __repr__(self) -> str:
        streams = ", ".join(str(cost.architecture.P) for cost in next(iter(self.blocks[0].values()))[1:])
        return f"<Prices {self.name or 'decoder'}, P {streams}, {self.device.gpu}, {', '.join(self.blocks[0])}>"


def price_all(
    plain: Architecture | ServedModel,
    streams: Sequence[int],
    workloads: Sequence[Workload],
    device: Device,
    precision: Precision,
    engines: Sequence[str],
    notes: Sequence[str] = (),
) -> Prices:
    """Price `plain` with each number of streams, and P = 1 to compare with."""
    blocks = tuple(
        {
            name: tuple(ENGINES[name](plain.with_streams(P), work, device, precision) for P in (1, *streams))
            for name in engines
        }
        for work in workloads
    )
    return Prices(plain, device, precision, blocks, tuple(notes))
