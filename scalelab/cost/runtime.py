"""Constants of engines by class of device: shares of the peaks, time of a kernel's start, memory held back.

Fitted to published measurements, then rounded: `benchmarks/published.py` fits them, also with each source left out,
and shows how well they do. The prior of the fit is what NVIDIA's aiconfigurator uses: 0.8 of the bandwidth, 3 µs a
kernel. A "kernel" is one of the roofline's, of which a decoder layer has about eleven.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Runtime = Literal["graphs", "eager", "llama.cpp", "vllm"]
RUNTIMES: tuple[str, ...] = get_args(Runtime)
PAPER_FLOPS, PAPER_MEMORY = 0.7, 0.9  # shares behind the figures of arXiv 2505.10475, for llm-analysis

# Of one of the roofline's kernels by PyTorch's eager mode, which starts several of its own; as it came with the
# published measurements, none of which is by eager mode.
EAGER_LAUNCH_S = 80e-6
PREFILL_LAUNCH_S = 10e-6  # a prompt's kernels, which engines with graphs start one by one; assumed


@dataclass(frozen=True)
class DeviceClass:
    """Constants of devices alike.

    `memory` and `flops` are shares of the peaks, `narrow_flops` those of 8 and 4 bits; `gap_s` is what each kernel
    adds on the device, by runtime where one differs. `asynchronous`: a program starts kernels ahead, so that
    starting them overlaps with running them. `reserve_gib` is held by driver, framework and workspaces. `spread` is
    that of ln(measured / predicted) of published speeds with their source left out of the fit, four rows of the
    spread of all classes (0.25) added to each for want of rows; `memory_spread` is that of memory.
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
    # Without a published row: like the nearest class, their spread assumed.
    "apu": DeviceClass(memory=0.80, flops=0.50, gap_s=8e-6, spread=0.30),
    "npu": DeviceClass(memory=0.67, flops=0.40, gap_s=16e-6, spread=0.50, memory_spread=0.4, asynchronous=False),
    "other": DeviceClass(memory=0.80, flops=0.65, gap_s=5e-6, spread=0.30),
}
UNMEASURED = ("apu", "npu", "other")
# Of a device whose figures are those that are reached: measured ones.
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

# (rows, how many times as long as one read of a matrix its product with so many rows takes, where memory binds), by
# whose kernels (`formats.WeightFormat`), by rising rows; and the share of the FLOP/s that is left.
ROW_COSTS: dict[str, tuple[tuple[float, float], ...]] = {
    "float": ((1, 1.0), (2, 1.05), (4, 1.11), (8, 1.17), (16, 1.29), (32, 1.4)),
    "fused": ((1, 1.18), (32, 1.3)),
    "blocks": ((1, 1.1), (2, 1.21), (4, 1.5), (8, 2.04), (16, 2.3), (64, 2.65)),
}
# Of ln(measured / predicted) of a pass of P rows over one of a single row, for each doubling of P, with the source left
# out (docs/published.csv): 0.1 and 0.3 at 16 rows. None is published of "fused" weights.
ROWS_SPREAD = {"float": 0.025, "fused": 0.05, "blocks": 0.075}
FLOPS_LEFT = {"float": 1.0, "fused": 1.0, "blocks": 0.93}
# T tokens touch as many experts as T**ROUTING that choose evenly: routers do not.
ROUTING = 0.83
