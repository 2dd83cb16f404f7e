"""Devices of this machine that can train runs, and how many runs each takes.

A slot is room for one run on a device, named by the device: ``cuda:0`` … or ``cpu``. A GPU may have several slots; the
CPU has one per core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import psutil

from scalelab.errors import ScalelabError
from scalelab.train.probe import Gpu, probe_gpus

# Host memory of a process that trains on a GPU: torch with CUDA's libraries, and a few pinned batches.
HOST_BYTES = 2 * 2**30
_USABLE_SHARE = 0.9  # of the free memory
_DTYPES = ("bf16", "fp32")  # whose peak speeds the probe measures

Note = Callable[[str], None]


def _ignore(line: str) -> None:
    """Drop a note."""


def default_slots(device: str, note: Note = _ignore) -> list[str]:
    """Return one slot per working GPU, as ``cuda:0`` …, or else one per CPU core.

    Args:
        device: auto, cpu or cuda.
        note: Called with a line about each GPU that is left out.

    Raises:
        ScalelabError: `device` is cuda, and no GPU is found or works.
    """
    cores = usable_cores()
    if device not in ("auto", "cuda"):
        return ["cpu"] * cores
    gpus = probe_gpus(_DTYPES)
    broken = {f"cuda:{i}": gpu.error for i, gpu in enumerate(gpus) if not gpu.works}
    working = [f"cuda:{i}" for i, gpu in enumerate(gpus) if gpu.works]
    if device == "cuda" and not working:
        reason = f"no GPU works ({next(iter(broken.values()))})" if broken else "no CUDA device is visible to torch"
        raise ScalelabError(f"`device='cuda'`: {reason}; use `device='cpu'`")
    for name, error in broken.items():
        note(f"{name} does not work and is not used{'' if working else '; using the CPU'}: {error}")
    return working or ["cpu"] * cores


def launched_device(device: str) -> str | None:
    """Return the device that accelerate or torchrun gave this process; None if neither started it."""
    if "LOCAL_RANK" not in os.environ:
        return None
    import torch

    return "cpu" if device == "cpu" or torch.cuda.device_count() == 0 else "cuda:0"


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def probed_gpu(device: str) -> Gpu | None:
    """Return what the probe found out about `device`.

    None for the CPU, for a GPU of another machine, and in launched processes, which have their GPU already.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or "LOCAL_RANK" in os.environ:
        return None
    gpus = probe_gpus(_DTYPES)
    return gpus[int(number or 0)] if int(number or 0) < len(gpus) else None


def resolve_dtype(dtype: str, device: str) -> str:
    """Return `dtype`, with ``auto`` replaced by bf16 if `device` computes in it natively, else by fp32."""
    if dtype != "auto":
        return dtype
    if not device.startswith("cuda"):
        return "fp32"
    gpu = probed_gpu(device)  # None: a GPU of another machine
    return "bf16" if gpu is None or gpu.native_bf16 else "fp32"


def runs_per_gpu(free_bytes: float, run_bytes: Sequence[int], cores: float, host_bytes: float) -> int:
    """Return how many runs fit on a GPU at once, whichever of the given runs meet; at least 1.

    Args:
        free_bytes: Free memory of the GPU, of which a tenth stays free.
        run_bytes: `scalelab.train.cost.resident_bytes` of the runs.
        cores: CPU cores for the runs of this GPU: one for each and one for the sweep itself.
        host_bytes: Free host memory for the runs of this GPU.
    """
    room, count = _USABLE_SHARE * free_bytes, 0
    for need in sorted(run_bytes, reverse=True):
        room -= need
        if room < 0:
            break
        count += 1
    return max(1, min(count, int(cores - 1), int(_USABLE_SHARE * host_bytes / HOST_BYTES)))


def fitting_runs(devices: Sequence[str], run_bytes: Sequence[int]) -> int:
    """Return how many of the runs that need `run_bytes` fit at once on each of the GPUs `devices`."""
    gpus = [gpu for device in devices if (gpu := probed_gpu(device)) is not None]
    free = min((gpu.free_bytes for gpu in gpus), default=0)
    cores = (usable_cores() - 1) / len(devices) + 1
    return runs_per_gpu(free, run_bytes, cores, psutil.virtual_memory().available / len(devices))


def select_device(device: str, visible: str | None) -> str:
    """Make `device` the only GPU that this process sees, and return its new name.

    The process must not have used CUDA yet. `visible` is `Gpu.visible`, or None to change nothing.
    """
    if visible is None:
        return device
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    return "cuda:0"
