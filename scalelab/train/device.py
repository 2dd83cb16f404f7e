"""What a device can do and has used: its peak by measurement, and memory."""

from __future__ import annotations

import sys
import time
from functools import cache

import torch

_SIZES = {"cpu": 512, "cuda": 8192}  # of square matrices whose product is near the device's best
_LEAST_S = 0.2


@cache
def measured_peak_flops(device: str, dtype: str = "fp32") -> float:
    """Operations a second of large matrix products in `dtype` (fp32 or bf16), on one thread of a CPU.

    The best of some tenths of a second. A bound that this device really reaches, whatever its data sheet says.
    """
    size = _SIZES[device.split(":")[0]]
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a = torch.ones(size, size, device=device, dtype=kind)
        best, spent = float("inf"), 0.0
        a @ a
        while spent < _LEAST_S:
            _wait(device)
            start = time.perf_counter()
            a @ a
            _wait(device)
            taken = time.perf_counter() - start
            best, spent = min(best, taken), spent + taken
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / best


def peak_memory_bytes(device: str) -> int | None:
    """Most memory that this process has used: of the device, or where that is a CPU of its host. None where unknown."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # Linux counts in KiB


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
