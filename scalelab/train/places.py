"""Places on this machine that can train runs: GPUs that work, or cores of the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import psutil

from scalelab.errors import ScalelabError
from scalelab.train.probe import Gpu, probe_gpus

# Of a process that trains on a GPU, in the host's memory: torch with CUDA's libraries, and a pinned batch or two.
HOST_BYTES = 2 * 2**30
_FREE_MARGIN = 0.9  # of the free memory is planned with
_DTYPES = ("bf16", "fp32")  # whose peaks are measured with the probe

Note = Callable[[str], None]


def _silent(line: str) -> None:
    """Drop a line that nobody asked for."""


def default_places(device: str, note: Note = _silent) -> list[str]:
    """Return where runs can go: every GPU that works once, as ``cuda:0`` …, or the CPU once a core.

    Args:
        device: auto, cpu or cuda.
        note: Called with a line about each GPU that is left out.

    Raises:
        ScalelabError: cuda is asked for, and no GPU is there or works.
    """
    cores = usable_cores()
    if device not in ("auto", "cuda"):
        return ["cpu"] * cores
    gpus = probe_gpus(_DTYPES)
    broken = {f"cuda:{i}": gpu.error for i, gpu in enumerate(gpus) if not gpu.works}
    places = [f"cuda:{i}" for i, gpu in enumerate(gpus) if gpu.works]
    if device == "cuda" and not places:
        reason = f"no GPU works ({next(iter(broken.values()))})" if broken else "no CUDA device is visible to torch"
        raise ScalelabError(f"`device='cuda'`: {reason}; use `device='cpu'`")
    for place, error in broken.items():
        note(f"{place} does not work and is left out{'' if places else ', so the CPU is used'}: {error}")
    return places or ["cpu"] * cores


def launched_place(device: str) -> str | None:
    """Return the place of a process that accelerate or torchrun started, which gave it its GPU; None for any other."""
    if "LOCAL_RANK" not in os.environ:
        return None
    import torch

    return "cpu" if device == "cpu" or torch.cuda.device_count() == 0 else "cuda:0"


def usable_cores() -> int:
    """Return how many cores of the CPU this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_at(place: str) -> Gpu | None:
    """Return what the probe found at `place`; None for the CPU, for other machines, and in launched processes."""
    kind, _, number = place.partition(":")
    if kind != "cuda" or "LOCAL_RANK" in os.environ:  # a launched process has its GPU already
        return None
    gpus = probe_gpus(_DTYPES)
    return gpus[int(number or 0)] if int(number or 0) < len(gpus) else None


def resolve_dtype(dtype: str, place: str) -> str:
    """Return `dtype`, or what ``auto`` means at `place`: bf16 where the device computes in it, else fp32."""
    if dtype != "auto":
        return dtype
    if not place.startswith("cuda"):
        return "fp32"
    gpu = gpu_at(place)  # unknown: on another machine
    return "bf16" if gpu is None or gpu.native_bf16 else "fp32"


def runs_per_gpu(free_bytes: float, needs: Sequence[int], cores: float, host_bytes: float) -> int:
    """Return how many runs to train at once on a GPU, whichever of those with the `needs` given meet; at least 1.

    Args:
        free_bytes: Free memory of the GPU, of which a tenth stays free.
        needs: `scalelab.train.cost.resident_bytes` of the runs.
        cores: Of the CPU that this GPU's runs may use: each wants one, and the sweep itself one.
        host_bytes: Free memory of the host for this GPU's runs.
    """
    room, count = _FREE_MARGIN * free_bytes, 0
    for need in sorted(needs, reverse=True):
        room -= need
        if room < 0:
            break
        count += 1
    return max(1, min(count, int(cores - 1), int(_FREE_MARGIN * host_bytes / HOST_BYTES)))


def fitting(places: Sequence[str], needs: Sequence[int]) -> int:
    """Return how many runs with the `needs` given to train at once on each of the GPUs at `places`."""
    gpus = [gpu for place in places if (gpu := gpu_at(place)) is not None]
    free = min((gpu.free_bytes for gpu in gpus), default=0)
    return runs_per_gpu(
        free, needs, (usable_cores() - 1) / len(places) + 1, psutil.virtual_memory().available / len(places)
    )


def enter(place: str, visible: str | None) -> str:
    """Let this process, which has not touched CUDA yet, see the device at `place` alone.

    `visible` is the probe's, or None. Returns what the device is called from now on.
    """
    if visible is None:
        return place
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    return "cuda:0"
