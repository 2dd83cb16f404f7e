"""How long a kernel takes on a device: the higher of the two roofs, and what was measured below them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from scalelab.cost.hardware import find_hardware
from scalelab.cost.model import STORED_BYTES, Device, Precision


class Kernel(NamedTuple):
    """Work of one kernel: arithmetic and memory traffic, and how often it runs in a pass."""

    flops: float
    bytes: float
    times: float = 1.0
    kind: Literal["matrix", "attention", "vector"] = "vector"
    rows: float = 1.0  # of what a matrix is multiplied with


@dataclass(frozen=True)
class Rates:
    """What a device reaches at a `Precision`, and the bytes of a stored weight, cached value and activation.

    Attention is computed at 16 or 32 bits whatever the matrices are. `row_shares` holds (rows, share of its
    roofline that a matrix product of so many rows reaches), by rising rows.
    """

    matrix_flops_per_s: float
    attention_flops_per_s: float
    bytes_per_s: float
    vector_bytes_per_s: float
    launch_s: float
    weight: float
    kv: float
    activation: float
    row_shares: tuple[tuple[float, float], ...] = ()

    def seconds(self, kernel: Kernel) -> float:
        """Of one pass: its times included."""
        if kernel.kind == "vector":
            once = max(kernel.flops / self.matrix_flops_per_s, kernel.bytes / self.vector_bytes_per_s)
        elif kernel.kind == "attention":
            once = max(kernel.flops / self.attention_flops_per_s, kernel.bytes / self.bytes_per_s)
        else:
            roof = max(kernel.flops / self.matrix_flops_per_s, kernel.bytes / self.bytes_per_s)
            once = roof / self.row_share(kernel.rows)
        return kernel.times * (once + self.launch_s)

    def row_share(self, rows: float) -> float:
        """Linear in ln rows between those measured; beyond them the nearest."""
        before = None
        for at, share in self.row_shares:
            if rows <= at:
                if before is None:
                    return share
                weight = math.log(rows / before[0]) / math.log(at / before[0])
                return before[1] + weight * (share - before[1])
            before = (at, share)
        return before[1] if before else 1.0


def find_rates(device: Device, precision: Precision) -> Rates:
    """Peaks of the device times the shares that are reached. Raises `UsageError` for an unknown device."""
    hardware = device.hardware or find_hardware(device.gpu)
    wide = precision.arithmetic in ("fp32", "tf32")
    attention = hardware.attention_flops_per_s or hardware.peak(precision.arithmetic if wide else "bf16")
    return Rates(
        matrix_flops_per_s=hardware.peak(precision.arithmetic) * device.flops_efficiency,
        attention_flops_per_s=attention * device.flops_efficiency,
        bytes_per_s=hardware.bytes_per_s * device.memory_efficiency,
        vector_bytes_per_s=(hardware.vector_bytes_per_s or hardware.bytes_per_s) * device.memory_efficiency,
        launch_s=hardware.launch_s,
        weight=STORED_BYTES[precision.weights],
        kv=STORED_BYTES[precision.kv_stored],
        activation=4.0 if wide else 2.0,
        row_shares=hardware.row_shares,
    )
