"""Peak speed and memory of a device, and the memory that this process uses."""

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
_CPU_GEMM = 512  # size of square matrices
_GEMM_SECONDS = 0.2
_MIN_GEMMS = 3
_GEMMS_PER_ROUND, _ROUNDS = 10, 3  # on CUDA
_FAST_FLOPS = 2e13  # from this speed on, a product of size 8192 takes less than a tenth of a second
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD = -3, 2**16  # parameter of mallopt, from malloc.h; bytes


def measured_peak_flops(device: str, dtype: str = "fp32") -> float | None:
    """Return the FLOP/s of square matrix products on `device` in `dtype` (fp32 or bf16); a multiply-add counts as two.

    On a CPU it is the best of several products on one thread, since runs train on one; on CUDA the best of several
    means of ten products by the device's own clock. The first call in a process takes a fifth of a second. If other
    processes keep the device busy, the result is too low. None if the device has no memory for the matrices.
    """
    try:
        return _measure_peak(device, dtype)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        free_memory()  # for the runs


@cache
def _measure_peak(device: str, dtype: str) -> float:
    if device.startswith("cuda"):
        speed = _gpu_speed(device, dtype, 2048, 1)
        return _gpu_speed(device, dtype, 8192, _ROUNDS) if speed > _FAST_FLOPS else speed
    with one_thread():
        values = _square(device, dtype, _CPU_GEMM)
        out = torch.mm(values, values)
        best, count, started = float("inf"), 0, time.perf_counter()
        while count < _MIN_GEMMS or time.perf_counter() - started < _GEMM_SECONDS:
            before = time.perf_counter()
            torch.mm(values, values, out=out)
            best, count = min(best, time.perf_counter() - before), count + 1
    return 2 * _CPU_GEMM**3 / best


def _gpu_speed(device: str, dtype: str, size: int, rounds: int) -> float:
    """Return the FLOP/s of square products of `size`, without the host's time to start them."""
    with torch.cuda.device(device):
        values = _square(device, dtype, size)
        out = torch.mm(values, values)
        best = float("inf")
        for _ in range(rounds):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(_GEMMS_PER_ROUND):
                torch.mm(values, values, out=out)
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end) / 1e3)
    return _GEMMS_PER_ROUND * 2 * size**3 / best


def _square(device: str, dtype: str, size: int) -> torch.Tensor:
    """Return a random square matrix from a separate generator; zeros and patterns would be multiplied faster."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(size, size, generator=generator, device=device).to(DTYPES[dtype])


def held_memory_bytes(device: str) -> int | None:
    """Return the current value of what `peak_memory_bytes` measures; None if the system does not report it."""
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else _from_proc("VmRSS")


def peak_memory_bytes(device: str) -> int | None:
    """Return the peak memory of this process so far, in bytes; None if the system does not report it.

    On CUDA it is the memory of tensors on `device`, on a CPU the resident memory of the whole process.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) if torch.cuda.is_initialized() else None
    # Not ru_maxrss, which starts with the parent's value after fork and exec.
    if (peak := _from_proc("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_memory_bytes(device: str) -> int:
    """Return the total memory of `device`. It does not initialise CUDA."""
    if device.startswith("cuda"):
        if torch.cuda.is_initialized():
            return torch.cuda.get_device_properties(device).total_memory
        from scalelab.train.devices import probed_gpu

        return gpu.total_bytes if (gpu := probed_gpu(device)) is not None else 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_model(device: str) -> str:
    """Return the maker's name of the device, such as "AMD EPYC"; for an unknown CPU its architecture."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _from_proc(key: str) -> int | None:
    """Return the bytes that Linux reports under `key` for this process."""
    with suppress(OSError, ValueError, StopIteration, IndexError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024
    return None


def return_freed_memory() -> None:
    """Make the host's allocator return large blocks to the system as soon as they are freed.

    Otherwise glibc keeps the memory of freed tensors, up to as much again as is in use, and resident memory includes
    it. Call it before the tensors are created. It slows down frequent allocations, and does nothing without glibc.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def reset_peak_memory(device: str) -> None:
    """Reset `peak_memory_bytes`, for a process that trains several runs, if the system supports it."""
    if device.startswith("cuda"):
        if torch.cuda.is_initialized():  # otherwise there is no counter yet, and the call would fail
            torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def one_thread() -> Iterator[None]:
    """Make torch compute on one CPU thread in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronize(device: str) -> None:
    """Wait until `device` has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
