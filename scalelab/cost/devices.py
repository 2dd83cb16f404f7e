"""Result of listing the devices that can be priced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from scalelab.cost.hardware import Hardware
from scalelab.shown import Shown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Devices(Shown):
    """Devices with their figures and sources."""

    devices: tuple[Hardware, ...]

    _report: ClassVar[str] = "scalelab.reports.costs:devices_report"
    _json: ClassVar[str] = "scalelab.reports.costs:devices_json"

    def __iter__(self) -> Iterator[Hardware]:
        return iter(self.devices)

    def __len__(self) -> int:
        return len(self.devices)

    def __getitem__(self, name: str) -> Hardware:
        return next(device for device in self.devices if device.name == name)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each device; peaks by precision are in FLOP/s."""
        import pandas as pd

        rows = self.to_dict()
        return pd.DataFrame([row | row.pop("flops_per_s") for row in rows]).set_index("name")

    def __repr__(self) -> str:
        return f"<Devices {len(self)}: {', '.join(device.name for device in self.devices[:3])}, …>"
