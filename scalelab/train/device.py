"""What a device can do and what a process takes of it: peak speed, peak memory, room for runs."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from scalelab.train.memory import free_memory, is_out_of_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_GEMM_SIZE = {"cpu": 512, "cuda": 4096}
_GEMM_SECONDS = 0.2
_LEAST_GEMMS = 3
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD = -3, 2**16  # of malloc.h; bytes
_FREE_MARGIN = 0.9  # of the free memory is planned with


def measured_peak_flops(device: str, dtype: str = "fp32") -> float | None:
    """Operations a second of the best of a few square matrix products, a multiply-add counted as two.

    On CPU on one thread, as runs are trained. Takes a fifth of a second on the first call in a
    process; where other processes keep the device busy the peak reads low.
    `dtype` is fp32 or bf16. None where the device has no room for the matrices.
    """
    try:
        return _measure_peak(device, dtype)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        free_memory()  # runs are to have it


@cache
def _measure_peak(device: str, dtype: str) -> float:
    kind = device.split(":")[0]
    size = _GEMM_SIZE.get(kind, 2048)
    with one_thread():
        # Numbers of no special kind, without a draw from a generator.
        values = torch.linspace(-1, 1, size * size, device=device).reshape(size, size).to(DTYPES[dtype])
        out = torch.mm(values, values)
        best, count, started = float("inf"), 0, time.perf_counter()
        while count < _LEAST_GEMMS or time.perf_counter() - started < _GEMM_SECONDS:
            synchronize(device)
            begun = time.perf_counter()
            torch.mm(values, values, out=out)
            synchronize(device)
            best, count = min(best, time.perf_counter() - begun), count + 1
    return 2 * size**3 / best


def held_memory_bytes(device: str) -> int | None:
    """What `peak_memory_bytes` counts, as it is now; None where the system does not tell."""
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else _from_proc("VmRSS")


def peak_memory_bytes(device: str) -> int | None:
    """The most memory this process has used so far, in bytes; None where the system does not tell.

    On CUDA what tensors took of `device`, else the resident memory of the whole process.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    # Not ru_maxrss: after fork and exec that begins with the parent's.
    if (peak := _from_proc("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_memory_bytes(device: str) -> int:
    """All memory of `device`, in use or not."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_model(device: str) -> str:
    """The device's name as its maker gives it, such as "AMD EPYC"; of a CPU at least the architecture."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _from_proc(key: str) -> int | None:
    """Bytes that Linux gives under `key` for this process."""
    with suppress(OSError, ValueError, StopIteration, IndexError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024
    return None


def return_freed_memory() -> None:
    """Let the host's allocator, in this process, return large blocks to the system as soon as they are freed.

    Else resident memory counts tensors that are long gone: glibc keeps their room, up to as much again as is
    in use. To be called before they are made. Slows what allocates often; without glibc nothing happens.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def reset_peak_memory(device: str) -> None:
    """Let `peak_memory_bytes` begin anew, for a process that trains several runs; where it cannot, nothing happens."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def runs_per_gpu(free_bytes: float, needs: Sequence[int]) -> int:
    """How many runs fit at once into `free_bytes`, whichever of those with the `needs` given meet; at least 1.

    `needs` are `scalelab.train.cost.resident_bytes`. A tenth of the memory stays free.
    """
    room, count = _FREE_MARGIN * free_bytes, 0
    for need in sorted(needs, reverse=True):
        room -= need
        if room < 0:
            break
        count += 1
    return max(1, count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch computes on one thread of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronize(device: str) -> None:
    """Wait until `device` has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
