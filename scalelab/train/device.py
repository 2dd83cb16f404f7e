"""What a device can do and what a process takes of it: peak speed, peak memory, room for runs."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from scalelab.train.memory import free_memory, is_out_of_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CPU_GEMM = 512  # numbers a side
_GEMM_SECONDS = 0.2
_LEAST_GEMMS = 3
_GEMMS_A_ROUND, _ROUNDS = 10, 3  # on CUDA
_FAST_FLOPS = 2e13  # from here on a product of 8192 takes less than a tenth of a second
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD = -3, 2**16  # of malloc.h; bytes


def measured_peak_flops(device: str, dtype: str = "fp32") -> float | None:
    """Return the FLOP/s of square matrix products on `device`, a multiply-add counted as two.

    On CPU the best of a few on one thread, as runs are trained; on CUDA the mean of ten in a row by the device's own
    clock, the best of a few times. Takes a fifth of a second on the first call in a process; where other processes
    keep the device busy the peak reads low. `dtype` is fp32 or bf16. None where the device has no room for the
    matrices.
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
    if device.startswith("cuda"):
        speed = _gpu_speed(device, dtype, 2048, 1)
        return _gpu_speed(device, dtype, 8192, _ROUNDS) if speed > _FAST_FLOPS else speed
    with one_thread():
        values = _square(device, dtype, _CPU_GEMM)
        out = torch.mm(values, values)
        best, count, started = float("inf"), 0, time.perf_counter()
        while count < _LEAST_GEMMS or time.perf_counter() - started < _GEMM_SECONDS:
            begun = time.perf_counter()
            torch.mm(values, values, out=out)
            best, count = min(best, time.perf_counter() - begun), count + 1
    return 2 * _CPU_GEMM**3 / best


def _gpu_speed(device: str, dtype: str, size: int, rounds: int) -> float:
    """FLOP/s of products of `size` numbers a side, without the host's share of starting them."""
    with torch.cuda.device(device):
        values = _square(device, dtype, size)
        out = torch.mm(values, values)
        best = float("inf")
        for _ in range(rounds):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(_GEMMS_A_ROUND):
                torch.mm(values, values, out=out)
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end) / 1e3)
    return _GEMMS_A_ROUND * 2 * size**3 / best


def _square(device: str, dtype: str, size: int) -> torch.Tensor:
    """Random numbers, for zeros and patterns are multiplied faster, from a generator of their own."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(size, size, generator=generator, device=device).to(DTYPES[dtype])


def held_memory_bytes(device: str) -> int | None:
    """What `peak_memory_bytes` counts, as it is now; None where the system does not tell."""
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else _from_proc("VmRSS")


def peak_memory_bytes(device: str) -> int | None:
    """The most memory this process has used so far, in bytes; None where the system does not tell.

    On CUDA what tensors took of `device`, else the resident memory of the whole process.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) if torch.cuda.is_initialized() else None
    # Not ru_maxrss: after fork and exec that begins with the parent's.
    if (peak := _from_proc("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_memory_bytes(device: str) -> int:
    """Return all memory of `device`, in use or not. Leaves CUDA alone where nothing has touched it yet."""
    if device.startswith("cuda"):
        if torch.cuda.is_initialized():
            return torch.cuda.get_device_properties(device).total_memory
        from scalelab.train.places import gpu_at

        return gpu.total_bytes if (gpu := gpu_at(device)) is not None else 0
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
        if torch.cuda.is_initialized():  # else there is no counter yet, and asking for it is an error
            torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


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
