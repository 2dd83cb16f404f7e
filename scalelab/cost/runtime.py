"""What engines reach on a class of devices: shares of the peaks, time of a kernel's start, memory held back.

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

EAGER_LAUNCH_S = 80e-6  # of one of the roofline's kernels by PyTorch's eager mode: several of its own
PREFILL_LAUNCH_S = 10e-6  # a prompt's kernels, which engines with graphs start one by one


@dataclass(frozen=True)
class DeviceClass:
    """Constants of devices alike.

    `memory` and `flops` are shares of the peaks, `narrow_flops` those of 8 and 4 bits; `gap_s` is what each kernel
    adds on the device, by runtime where one differs. `asynchronous`: a program starts kernels ahead, so that
    starting them overlaps with running them. `reserve_gib` is held by driver, framework and workspaces. `spread` is
    the standard deviation of ln(measured / predicted) of latencies over published measurements, `memory_spread`
    that of memory.
    """

    memory: float
    flops: float
    gap_s: float
    runtime: Runtime
    reserve_gib: float
    spread: float
    narrow_flops: float | None = None
    gaps: dict[str, float] = field(default_factory=dict)
    asynchronous: bool = True
    memory_spread: float = 0.08


CLASSES: dict[str, DeviceClass] = {
    "datacentre": DeviceClass(0.80, 0.75, 5.2e-6, "graphs", 3.5, 0.20, 0.70, {"vllm": 13e-6, "llama.cpp": 11e-6}),
    "workstation": DeviceClass(0.83, 0.66, 4e-6, "llama.cpp", 1.0, 0.30),
    "geforce": DeviceClass(0.88, 0.89, 2e-6, "llama.cpp", 0.8, 0.25),
    "amd": DeviceClass(0.77, 0.50, 6e-6, "graphs", 3.5, 0.25),
    "apu": DeviceClass(0.80, 0.50, 8e-6, "llama.cpp", 1.0, 0.30),
    "embedded": DeviceClass(0.84, 0.50, 8e-6, "llama.cpp", 1.0, 0.15),
    "apple": DeviceClass(0.80, 0.68, 14e-6, "llama.cpp", 0.5, 0.20),
    "cpu": DeviceClass(0.73, 0.63, 0.0, "llama.cpp", 1.0, 0.20, asynchronous=False),
    "phone": DeviceClass(0.67, 0.65, 16e-6, "llama.cpp", 1.0, 0.30, asynchronous=False, memory_spread=0.4),
    "npu": DeviceClass(0.67, 0.40, 16e-6, "llama.cpp", 1.0, 0.40, asynchronous=False, memory_spread=0.4),
    "other": DeviceClass(0.80, 0.65, 5e-6, "llama.cpp", 1.0, 0.30),
}
# Of a device whose figures are those that are reached: measured ones.
AS_GIVEN = DeviceClass(1.0, 1.0, 0.0, "eager", 0.0, 0.0, asynchronous=False, memory_spread=0.0)

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
