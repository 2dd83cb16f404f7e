"""Options that say what is priced, at which precision and on what, alike in `cost`, `compare` and `plan`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from scalelab.cost.hardware import Hardware, built_in, read_hardware, unknown_device
from scalelab.cost.model import Device
from scalelab.errors import UsageError

MAX_SIZE = 10_000_000  # beyond this nothing is a size, and integers stop fitting into floats
LLM_ANALYSIS, ROOFLINE = "llm-analysis", "roofline"

_BY_WEIGHTS = "fp32 with fp32 weights, else bf16"

Heads = Annotated[int, typer.Option(help="Attention heads.")]
KvHeads = Annotated[int, typer.Option(help="Key/value heads.")]
Vocab = Annotated[int, typer.Option(help="Vocabulary size.")]
TokensIn = Annotated[int, typer.Option(help="Prompt tokens.")]
TokensOut = Annotated[int, typer.Option(help="Generated tokens.")]

Gpu = Annotated[
    str | None,
    typer.Option(
        help="Device; see scalelab cost --list-hardware. llm-analysis has its own.",
        show_default=f"{Device.gpu}, or the one of --hardware",
    ),
]
HardwareFile = Annotated[
    Path | None,
    typer.Option("--hardware", help="YAML file with devices of your own.", show_default=False),
]
Weights = Annotated[str, typer.Option(help="Stored weights: fp32, bf16, fp8, int8 or int4.", metavar="NAME")]
Kv = Annotated[str | None, typer.Option(help="Stored KV cache and prefixes.", metavar="NAME", show_default=_BY_WEIGHTS)]
Compute = Annotated[
    str | None, typer.Option(help="Matrix products: also tf32.", metavar="NAME", show_default=_BY_WEIGHTS)
]
FlopsEfficiency = Annotated[
    float | None, typer.Option(help="Share of peak FLOP/s reached.", show_default="0.7; of measured devices 1")
]
MemoryEfficiency = Annotated[
    float | None,
    typer.Option(help="Share of peak memory bandwidth reached.", show_default="0.9; of measured devices 1"),
]


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Raises `UsageError` naming the flag whose value is no size."""
    for flag, value in sizes.items():
        if not 1 <= value <= MAX_SIZE:
            raise UsageError(f"{flag} {value}: choose between 1 and {MAX_SIZE:,}")


def own_devices(hardware: Path | None) -> dict[str, Hardware]:
    """The devices of the user's own file, by name; none without a file. Raises as `read_hardware`."""
    return {} if hardware is None else read_hardware(hardware)


def device_of(gpu: str | None, own: Mapping[str, Hardware], flops: float | None, memory: float | None) -> Device:
    """The device, all of whose figures are reached where they were measured.

    Where none is named it is the only one of the user's own. Raises `UsageError` where they have several, or for
    a name that is neither theirs nor in the table.
    """
    if gpu is None and len(own) > 1:
        raise UsageError(f"--hardware has several devices: choose one with --gpu: {', '.join(own)}")
    if gpu is not None and gpu not in own and gpu not in built_in():
        raise unknown_device(gpu, [*built_in(), *own])
    gpu = gpu or next(iter(own), Device.gpu)
    found = own.get(gpu)
    measured = found is not None and found.measured
    return Device(
        gpu,
        (1.0 if measured else Device.flops_efficiency) if flops is None else flops,
        (1.0 if measured else Device.memory_efficiency) if memory is None else memory,
        found,
    )
