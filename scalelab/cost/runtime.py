"""Constants of engines by class of device: achieved shares of the peaks, launch times, reserved memory.

They are fitted to published measurements and rounded: `benchmarks/published.py` fits them, also with each source left
out, and reports the errors. The prior of the fit are the constants of NVIDIA's aiconfigurator: 0.8 of the bandwidth and
3 µs per kernel. A "kernel" is one of the roofline's; a decoder layer has about eleven.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Runtime = Literal["graphs", "eager", "llama.cpp", "vllm"]
RUNTIMES: tuple[str, ...] = get_args(Runtime)
PAPER_FLOPS, PAPER_MEMORY = 0.7, 0.9  # shares in the figures of arXiv 2505.10475, for llm-analysis

# Time per kernel of the roofline in PyTorch's eager mode, which launches several kernels for it. From the source of
# the published measurements, none of which uses eager mode.
EAGER_LAUNCH_S = 80e-6
PREFILL_LAUNCH_S = 10e-6  # per kernel in prefill, which engines with graphs launch one by one; assumed


@dataclass(frozen=True)
class DeviceClass:
    """Constants for a class of devices.

    Attributes:
        memory: Achieved share of the peak bandwidth.
        flops: Achieved share of the peak FLOP/s.
        gap_s: Time that each kernel adds on the device.
        spread: Standard deviation of ln(measured / predicted) of published speeds, with the source left out of the
            fit. Four rows with the spread of all classes (0.25) are added to each class, since some have few rows.
        runtime: Usual engine.
        reserve_gib: Memory held by driver, framework and workspaces.
        narrow_flops: Achieved share of the peak FLOP/s at 8 and 4 bits.
        gaps: `gap_s` of runtimes that differ.
        asynchronous: Whether kernels are launched ahead, so that launching overlaps with running.
        memory_spread: Standard deviation of ln(measured / predicted) of memory.
    """

    memory: float
    flops: float
    gap_s: float
    spread: float
    runtime: Runtime = "llama.cpp"
    reserve_gib: float = 1.0
    narrow_flops: float | None = None
    gaps: dict[str, float] = field(default_factory=dict)
    asynchronous: bool = True
    memory_spread: float = 0.08


CLASSES: dict[str, DeviceClass] = {
    "datacentre": DeviceClass(
        memory=0.80,
        flops=0.75,
        narrow_flops=0.70,
        gap_s=5.2e-6,
        gaps={"vllm": 13e-6, "llama.cpp": 11e-6},
        runtime="graphs",
        reserve_gib=3.5,
        spread=0.22,
    ),
    "workstation": DeviceClass(memory=0.83, flops=0.66, gap_s=4e-6, spread=0.31),
    "geforce": DeviceClass(memory=0.88, flops=0.89, gap_s=2e-6, spread=0.24, reserve_gib=0.8),
    "amd": DeviceClass(memory=0.77, flops=0.50, gap_s=6e-6, spread=0.23, runtime="graphs", reserve_gib=3.5),
    "embedded": DeviceClass(memory=0.84, flops=0.50, gap_s=8e-6, spread=0.20),
    "apple": DeviceClass(memory=0.80, flops=0.68, gap_s=14e-6, spread=0.19, reserve_gib=0.5),
    "cpu": DeviceClass(memory=0.73, flops=0.63, gap_s=0.0, spread=0.20, asynchronous=False),
    "phone": DeviceClass(memory=0.67, flops=0.65, gap_s=16e-6, spread=0.48, memory_spread=0.4, asynchronous=False),
    # Without published rows: constants of the most similar class, with an assumed spread.
    "apu": DeviceClass(memory=0.80, flops=0.50, gap_s=8e-6, spread=0.30),
    "npu": DeviceClass(memory=0.67, flops=0.40, gap_s=16e-6, spread=0.50, memory_spread=0.4, asynchronous=False),
    "other": DeviceClass(memory=0.80, flops=0.65, gap_s=5e-6, spread=0.30),
}
UNMEASURED = ("apu", "npu", "other")
# For devices whose figures are measured, and so already achieved.
AS_GIVEN = DeviceClass(
    memory=1.0,
    flops=1.0,
    gap_s=0.0,
    runtime="eager",
    reserve_gib=0.0,
    spread=0.0,
    memory_spread=0.0,
    asynchronous=False,
)

# (rows, factor on the read time of a matrix in a memory-bound product with this many rows), by rows, for each kind of
# kernels (`formats.WeightFormat`).
ROW_COSTS: dict[str, tuple[tuple[float, float], ...]] = {
    "float": ((1, 1.0), (2, 1.05), (4, 1.11), (8, 1.17), (16, 1.29), (32, 1.4)),
    "fused": ((1, 1.18), (32, 1.3)),
    "blocks": ((1, 1.1), (2, 1.21), (4, 1.5), (8, 2.04), (16, 2.3), (64, 2.65)),
}
# Standard deviation of ln(measured / predicted) of the time of P rows relative to one, per doubling of P, with the
# source left out of the fit (docs/published.csv): 0.1 and 0.3 at 16 rows. There are no published values for "fused".
ROWS_SPREAD = {"float": 0.025, "fused": 0.05, "blocks": 0.075}
# Factor on the achieved FLOP/s, for each kind of kernels.
KERNEL_FLOPS = {"float": 1.0, "fused": 1.0, "blocks": 0.93}
# T tokens use as many experts as T**ROUTING_EXPONENT tokens with uniform routing.
ROUTING_EXPONENT = 0.83
