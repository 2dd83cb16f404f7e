"""Probe of GPUs: a separate process runs a tiny kernel on each to find out whether it works.

The driver's list of devices is not enough: a card may be too old for the installed torch, its driver too old for CUDA,
or another process may have exclusive use of it. The caller never uses CUDA itself, so it holds no context on devices
that its workers need, and a crash of the driver ends only the probe.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

_TIMEOUT_S = 180.0  # for the first import of torch from a slow disk, and the first context
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of it, as seen by a process that has no other.

    Attributes:
        visible: Value of CUDA_VISIBLE_DEVICES that selects it.
        name: Name of the GPU.
        error: Why it does not work; empty if it does.
        total_bytes: All of its memory.
        free_bytes: Its free memory at the time of the probe.
        native_bf16: It computes in bf16 without emulation.
        peak_flops: FLOP/s of matrix products by dtype, for the dtypes that were asked for.
    """

    visible: str
    name: str = ""
    error: str = ""
    total_bytes: int = 0
    free_bytes: int = 0
    native_bf16: bool = False
    peak_flops: dict[str, float] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        """True if the probe found no error."""
        return not self.error


def probe_gpus(dtypes: Sequence[str] = ()) -> list[Gpu]:
    """Return every GPU, or each MIG slice of it, that this process may use, in the order of CUDA's numbers.

    With `dtypes`, it also measures the peak FLOP/s of matrix products in each of them. Results are cached.
    """
    visible = visible_gpus()
    return list(_probe(tuple(visible), tuple(sorted(set(dtypes))))) if visible else []


@cache
def _probe(visible: tuple[str, ...], dtypes: tuple[str, ...]) -> tuple[Gpu, ...]:
    running = [_start(one, dtypes) for one in visible]
    return tuple(_result(one, process) for one, process in zip(visible, running, strict=True))


def _start(visible: str, dtypes: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scalelab.train.probe", *dtypes],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {_VISIBLE: visible},
    )


def _result(visible: str, process: subprocess.Popen[str]) -> Gpu:
    try:
        out, err = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Gpu(visible, error=f"no answer in {_TIMEOUT_S:.0f} s")
    try:
        return Gpu(visible, **json.loads(out.splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        last = (err.strip().splitlines() or [f"the process ended with code {process.returncode}"])[-1]
        return Gpu(visible, error=last[:300])


def visible_gpus() -> list[str]:
    """Return the value of CUDA_VISIBLE_DEVICES that selects each device; empty if torch sees none.

    A GPU with MIG slices gives one value per slice, although CUDA shows a process only one of them.
    """
    import torch

    count = torch.cuda.device_count()  # reads the driver's list without creating a context
    if count == 0:
        return []
    given = os.environ.get(_VISIBLE)
    names = [name.strip() for name in given.split(",")] if given else [str(i) for i in range(count)]
    slices = mig_slices(_list_gpus())
    return [part for name in names if name for part in slices.get(name, [name])]


def mig_slices(listing: str) -> dict[str, list[str]]:
    """Return the MIG slices of each GPU that has any, by number and by UUID, from the output of ``nvidia-smi -L``."""
    found: dict[str, list[str]] = {}
    names: tuple[str, ...] = ()
    for line in listing.splitlines():
        if gpu := re.match(r"GPU (\d+): .*\(UUID: (GPU-[\w-]+)\)", line):
            names = gpu.groups()
        elif (part := re.search(r"\(UUID: (MIG-[\w/-]+)\)", line)) and names:
            for name in names:
                found.setdefault(name, []).append(part.group(1))
    return found


def _list_gpus() -> str:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _probe_device(dtypes: Sequence[str]) -> dict[str, Any]:
    """Probe the only device that this process sees, and return the fields of its `Gpu`."""
    import torch

    from scalelab.errors import first_line
    from scalelab.train.device import measured_peak_flops

    try:
        x = torch.ones(64, 64, device="cuda")
        if float((x @ x).sum()) != 64.0**3:
            return {"error": "a matrix product had a wrong result"}
        free, total = torch.cuda.mem_get_info()
    except Exception as error:  # drivers raise many kinds
        return {"error": first_line(error)[:300]}
    peaks = {dtype: peak for dtype in dtypes if (peak := measured_peak_flops("cuda:0", dtype)) is not None}
    found = Gpu(
        "",
        torch.cuda.get_device_name(),
        "",
        total,
        free,
        torch.cuda.is_bf16_supported(including_emulation=False),
        peaks,
    )
    return {name: value for name, value in asdict(found).items() if name != "visible"}


if __name__ == "__main__":
    print(json.dumps(_probe_device(sys.argv[1:])))
