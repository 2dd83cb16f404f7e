"""Which GPUs really work, found by a tiny kernel on each in a process of its own.

The driver's list of devices says little: a card may be too old for the installed torch, its driver too old for CUDA, or
another process may have it. The caller never touches CUDA itself, so it holds no context on a device that its workers
are to have, and a crash of the driver ends the probe alone.
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

_TIMEOUT_S = 180.0  # a first import of torch from a slow disk, and a first context
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one slice of it, as a process sees that is given it alone.

    `visible` is what the environment's CUDA_VISIBLE_DEVICES has to say for that. Without an `error` it works.
    """

    visible: str
    name: str = ""
    error: str = ""
    total_bytes: int = 0
    free_bytes: int = 0
    native_bf16: bool = False
    peak_flops: dict[str, float] = field(default_factory=dict)  # of matrix products, by dtype, where asked for

    @property
    def works(self) -> bool:
        return not self.error


def probe_gpus(dtypes: Sequence[str] = ()) -> list[Gpu]:
    """Return every GPU that this process may use, and every MIG slice of one, in the order of CUDA's numbers.

    With `dtypes`, also measure the peak FLOP/s of matrix products in each. A later call that asks for no more
    returns what an earlier one found.
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
    """Return what CUDA_VISIBLE_DEVICES has to say for each device alone; empty where torch sees none.

    A GPU that is cut into MIG slices counts once a slice, though CUDA shows a process only one of them.
    """
    import torch

    count = torch.cuda.device_count()  # asks the driver's list, and makes no context
    if count == 0:
        return []
    given = os.environ.get(_VISIBLE)
    names = [name.strip() for name in given.split(",")] if given else [str(i) for i in range(count)]
    slices = mig_slices(_list_gpus())
    return [part for name in names if name for part in slices.get(name, [name])]


def mig_slices(listing: str) -> dict[str, list[str]]:
    """Return the MIG slices of each GPU that has any, by its number and by its UUID, from ``nvidia-smi -L``."""
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


def _look(dtypes: Sequence[str]) -> dict[str, Any]:
    """In the probe's process, which sees one device."""
    import torch

    from scalelab.train.device import measured_peak_flops

    try:
        x = torch.ones(64, 64, device="cuda")
        if float((x @ x).sum()) != 64.0**3:
            return {"error": "a matrix product came out wrong"}
        free, total = torch.cuda.mem_get_info()
    except Exception as error:  # whatever a driver raises
        return {"error": (str(error).splitlines() or [type(error).__name__])[0][:300]}
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
    print(json.dumps(_look(sys.argv[1:])))
