"""Time of a kernel on a device: the roofline with achieved shares of the peaks, plus launch time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from scalelab.cost import runtime as constants
from scalelab.cost.formats import KV_BITS
from scalelab.cost.hardware import Hardware
from scalelab.cost.request import Device, Precision
from scalelab.cost.runtime import EAGER_LAUNCH_S, KERNEL_FLOPS, PREFILL_LAUNCH_S, ROW_COSTS

LINK_EFFICIENCY = 0.75  # of an all-reduce's bandwidth (NCCL's bus bandwidth over NVLink's)
LINK_BYTES_PER_S = 25e9  # if the table has no link: PCIe 4.0
REDUCE_S = 10e-6  # latency of a small all-reduce


class Kernel(NamedTuple):
    """Arithmetic and memory traffic of one kernel, and how often it runs in a pass."""

    flops: float
    bytes: float
    times: float = 1.0
    kind: Literal["matrix", "attention", "vector", "reduce"] = "vector"
    rows: float = 1.0  # number of rows that a matrix is multiplied with


@dataclass(frozen=True)
class Rates:
    """Rates of a device at a `Precision`, and bytes per weight, cached number and activation.

    Attention is computed at 16 or 32 bits, whatever the precision of matrices.

    Attributes:
        row_shares: (rows, achieved share of the roofline) of matrix products, as measured on this device, by rows.
        row_costs: (rows, factor on the read time of a matrix), as published for other devices, by rows.
        launch_s: Time that each kernel adds on the device.
        host_s: If the host launches kernels ahead, the minimum time per kernel of a pass.
        step_host_s: Likewise in a decode step.
        folds_latent: Whether decode steps attend to a cached latent directly.
        routing_exponent: T tokens use as many experts as T ** exponent tokens with uniform routing.
    """

    matrix_flops_per_s: float
    attention_flops_per_s: float
    bytes_per_s: float
    vector_bytes_per_s: float
    launch_s: float
    weight_bytes: float
    kv_bytes: float
    activation_bytes: float
    row_shares: tuple[tuple[float, float], ...] = ()
    row_costs: tuple[tuple[float, float], ...] = ()
    vector_flops_per_s: float = math.inf
    head_bytes: float = 0.0  # output embedding
    embedding_bytes: float = 0.0  # input embedding
    dense_bytes: float = 0.0  # other matrices in layers with experts
    tied_bytes: float = 0.0
    host_s: float = 0.0
    step_host_s: float = 0.0
    devices: int = 1
    link_bytes_per_s: float = math.inf
    folds_latent: bool = False
    routing_exponent: float = 1.0

    def seconds(self, kernel: Kernel) -> float:
        """Return the seconds of all runs of a kernel in one pass."""
        if kernel.kind == "vector":
            once = max(kernel.flops / self.vector_flops_per_s, kernel.bytes / self.vector_bytes_per_s)
        elif kernel.kind == "attention":
            once = max(kernel.flops / self.attention_flops_per_s, kernel.bytes / self.bytes_per_s)
        elif kernel.kind == "reduce":
            once = kernel.bytes / self.link_bytes_per_s + REDUCE_S
        else:
            read_s = kernel.bytes / self.bytes_per_s * between(self.row_costs, kernel.rows)
            once = max(kernel.flops / self.matrix_flops_per_s, read_s) / between(self.row_shares, kernel.rows)
        return kernel.times * (once + self.launch_s)

    def pass_s(self, kernels: Iterable[Kernel], step: bool = False) -> float:
        """Return the seconds of a pass: the sum over its kernels, or the time to launch them if that is longer."""
        total = starts = 0.0
        for kernel in kernels:
            total += self.seconds(kernel)
            starts += kernel.times
        return max(total, starts * (self.step_host_s if step else self.host_s))


def between(pairs: tuple[tuple[float, float], ...], rows: float) -> float:
    """Interpolate (rows, value) pairs linearly in ln rows, with the nearest value outside; 1 without pairs."""
    before = None
    for at, value in pairs:
        if rows <= at:
            if before is None:
                return value
            weight = math.log(rows / before[0]) / math.log(at / before[0])
            return before[1] + weight * (value - before[1])
        before = (at, value)
    return before[1] if before else 1.0


def find_rates(device: Device, precision: Precision) -> Rates:
    """Return the achieved rates of a device. Raises `UsageError` for an unknown device."""
    hardware, t = device.found(), device.tensor_parallel
    kind, stored = hardware.device_class, precision.format
    wide = precision.arithmetic in ("fp32", "tf32")
    flops = device.flops_efficiency
    if flops is None:
        narrow = hardware.units(precision.arithmetic) in ("fp8", "int8", "int4", "fp4")
        flops = kind.narrow_flops if narrow and kind.narrow_flops is not None else kind.flops
    as_class = bool(hardware.kind)
    left = KERNEL_FLOPS[stored.kernels] if as_class and device.flops_efficiency is None else 1.0
    attention_flops = kind.flops if device.flops_efficiency is None else device.flops_efficiency
    memory = kind.memory if device.memory_efficiency is None else device.memory_efficiency
    attention = hardware.attention_flops_per_s or hardware.peak(precision.arithmetic if wide else "bf16")
    runtime = device.runtime or kind.runtime
    launch, host, step_host = _launch_times(hardware, runtime)
    if device.launch_s is not None:
        launch, host, step_host = device.launch_s, 0.0, 0.0
    vector_flops = hardware.vector_flops_per_s or hardware.peak(precision.arithmetic)
    return Rates(
        matrix_flops_per_s=t * hardware.peak(precision.arithmetic) * flops * left,
        attention_flops_per_s=t * attention * attention_flops,
        bytes_per_s=t * hardware.bytes_per_s * memory,
        vector_bytes_per_s=(hardware.vector_bytes_per_s or hardware.bytes_per_s) * memory,
        vector_flops_per_s=vector_flops * attention_flops,
        launch_s=launch,
        host_s=host,
        step_host_s=step_host,
        weight_bytes=stored.matrix / 8,
        head_bytes=stored.head / 8,
        embedding_bytes=stored.embedding / 8,
        dense_bytes=(stored.matrix if stored.dense is None else stored.dense) / 8,
        tied_bytes=stored.tied / 8,
        kv_bytes=KV_BITS[precision.kv_stored] / 8,
        activation_bytes=4.0 if wide else 2.0,
        row_shares=hardware.row_shares,
        row_costs=ROW_COSTS[stored.kernels] if as_class else (),
        devices=t,
        link_bytes_per_s=LINK_EFFICIENCY * (hardware.link_bytes_per_s or LINK_BYTES_PER_S),
        folds_latent=runtime != "eager",
        routing_exponent=constants.ROUTING_EXPONENT if as_class else 1.0,
    )


def _launch_times(hardware: Hardware, runtime: str) -> tuple[float, float, float]:
    """Return the launch time of a kernel on the device, on the host in prefill, and on the host in a decode step."""
    kind = hardware.device_class
    if not hardware.kind:  # measured; launches overlap with work if graphs could be captured
        eager, graph = hardware.launch_s or 0.0, hardware.graph_launch_s
        if graph is None:
            return eager, 0.0, 0.0
        return graph, eager, 0.0 if runtime == "graphs" else eager
    given = hardware.launch_s if hardware.graph_launch_s is None else hardware.graph_launch_s
    gap = kind.gaps.get(runtime, kind.gap_s) if given is None else given
    if not kind.asynchronous:
        return gap, 0.0, 0.0
    if runtime == "eager":
        host = EAGER_LAUNCH_S if hardware.launch_s is None else hardware.launch_s
        return gap, host, host
    return gap, PREFILL_LAUNCH_S, 0.0
