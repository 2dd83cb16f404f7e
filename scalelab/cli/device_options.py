"""Options that say what is priced, at which precision and on what, alike in `cost`, `compare` and `plan`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from scalelab.cost.hardware import Hardware, built_in, read_hardware, unknown_device
from scalelab.cost.model import Device
from scalelab.cost.runtime import RUNTIMES
from scalelab.errors import UsageError
from scalelab.units import parse_bytes, parse_duration

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
Weights = Annotated[
    str,
    typer.Option(
        help="Stored weights: bf16, fp8, int8, int4, q4_0, q4_k_m, q8_0, awq, gptq, nvfp4, …; or bits, such as 4.5.",
        metavar="NAME",
    ),
]
Kv = Annotated[str | None, typer.Option(help="Stored KV cache and prefixes.", metavar="NAME", show_default=_BY_WEIGHTS)]
Compute = Annotated[
    str | None,
    typer.Option(
        help="Matrix products: fp32, tf32, bf16, fp8, int8, int4 or fp4.", metavar="NAME", show_default=_BY_WEIGHTS
    ),
]
FlopsEfficiency = Annotated[
    float | None,
    typer.Option(help="Share of peak FLOP/s reached.", show_default="by class; llm-analysis 0.7, measured devices 1"),
]
MemoryEfficiency = Annotated[
    float | None,
    typer.Option(
        help="Share of peak memory bandwidth reached.", show_default="by class; llm-analysis 0.9, measured devices 1"
    ),
]
_ENGINE = "Engine and device"
Runtime = Annotated[
    str | None,
    typer.Option(
        help="Engine: graphs (TensorRT-LLM, captured), vllm, llama.cpp or eager.",
        metavar="NAME",
        show_default="by the device's class",
        rich_help_panel=_ENGINE,
    ),
]
LaunchUs = Annotated[
    float | None,
    typer.Option(
        help="Microseconds that each kernel adds.", show_default="by class and engine", rich_help_panel=_ENGINE
    ),
]
Reserve = Annotated[
    str | None,
    typer.Option(help="Memory held by driver and engine, e.g. 2GiB.", show_default="by class", rich_help_panel=_ENGINE),
]
TensorParallel = Annotated[
    int, typer.Option(help="Devices of one node that share every matrix.", rich_help_panel=_ENGINE)
]
PricePerHour = Annotated[
    float | None,
    typer.Option(
        help="US dollars for an hour of one device.", show_default="the table's, if any", rich_help_panel=_ENGINE
    ),
]
Watts = Annotated[
    float | None,
    typer.Option(help="Power of one device.", show_default="its limit in the table", rich_help_panel=_ENGINE),
]


def read_limit(flag: str, text: str | None) -> float | None:
    """Seconds of a limit such as 500ms. Raises `UsageError` naming the flag."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from None


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Raises `UsageError` naming the flag whose value is no size."""
    for flag, value in sizes.items():
        if not 1 <= value <= MAX_SIZE:
            raise UsageError(f"{flag} {value}: choose between 1 and {MAX_SIZE:,}")


def own_devices(hardware: Path | None) -> dict[str, Hardware]:
    """The devices of the user's own file, by name; none without a file. Raises as `read_hardware`."""
    return {} if hardware is None else read_hardware(hardware)


def device_of(
    gpu: str | None,
    own: Mapping[str, Hardware],
    flops: float | None,
    memory: float | None,
    runtime: str | None = None,
    launch_us: float | None = None,
    reserve: str | None = None,
    tensor_parallel: int = 1,
    price_per_hour: float | None = None,
    watts: float | None = None,
) -> Device:
    """The device and how it is used, by the values of options.

    Where none is named it is the only one of the user's own. Raises `UsageError` where they have several, or for
    a name that is neither theirs nor in the table.
    """
    if gpu is None and len(own) > 1:
        raise UsageError(f"--hardware has several devices: choose one with --gpu: {', '.join(own)}")
    if gpu is not None and gpu not in own and gpu not in built_in():
        raise unknown_device(gpu, [*built_in(), *own])
    gpu = gpu or next(iter(own), Device.gpu)
    reserved = None
    if reserve is not None:
        try:
            reserved = 0.0 if reserve.strip() == "0" else parse_bytes(reserve)
        except UsageError as error:
            raise UsageError(f"--reserve: {error}") from None
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(f"--runtime {runtime[:60]}: choose one of {', '.join(RUNTIMES)}")
    return Device(
        gpu,
        flops,
        memory,
        own.get(gpu),
        runtime,
        None if launch_us is None else launch_us * 1e-6,
        reserved,
        tensor_parallel,
        price_per_hour,
        watts,
    )
