"""Choice of device, preset and decoder for a price, from names and numbers given by the user."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scalelab.architecture import PREFIX_TOKENS, Architecture, mlp_width
from scalelab.cost.hardware import Hardware, builtin_devices, read_hardware, unknown_device_error
from scalelab.cost.request import PAPER_HEADS, PAPER_KV_HEADS, PAPER_LAYERS, PAPER_VOCAB, Device
from scalelab.errors import UsageError, choice_error
from scalelab.units import memory_bytes

MAX_SIZE = 10_000_000  # of a model's dimension; larger models lose precision in floats
LENGTHS = (64, 128, 256, 512)  # tokens in, and as many out; the paper averages costs over them
BATCHES = (1, 2, 4, 8)
EngineName = Literal["llm-analysis", "roofline"]
PresetName = Literal["parscale", "serving"]


@dataclass(frozen=True)
class Preset:
    """Named defaults: cost model, tokens in and out, and whether memory is shown in GiB."""

    engine: EngineName
    tokens_in: int
    tokens_out: int
    binary: bool


# parscale has the settings of the paper's cost figures (arXiv 2505.10475), serving those of plans.
PRESETS: dict[str, Preset] = {
    "parscale": Preset("llm-analysis", 64, 64, True),
    "serving": Preset("roofline", 512, 128, True),
}


def preset_of(name: str) -> Preset:
    """Return the preset of this name. Raises `UsageError` listing the names."""
    if name not in PRESETS:
        raise choice_error("preset", name, PRESETS)
    return PRESETS[name]


def check_sizes(**sizes: int) -> None:
    """Raise `UsageError` naming an argument that is not a valid size."""
    for name, value in sizes.items():
        if not 1 <= value <= MAX_SIZE:
            raise UsageError(f"choose between 1 and {MAX_SIZE:,}", argument=name, value=value)


def decoder(
    hidden: int,
    *,
    intermediate: int | None = None,
    layers: int = PAPER_LAYERS,
    heads: int = PAPER_HEADS,
    kv_heads: int = PAPER_KV_HEADS,
    vocab: int = PAPER_VOCAB,
    prefix_tokens: int | None = None,
) -> Architecture:
    """Return the plain decoder of this hidden size, by default of the paper's family with an MLP 5.4 times as wide."""
    check_sizes(hidden=hidden, layers=layers, vocab=vocab, intermediate=intermediate or 1)
    return Architecture(
        hidden_size=hidden,
        intermediate_size=mlp_width(hidden) if intermediate is None else intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        vocab_size=vocab,
        prefix_tokens=PREFIX_TOKENS if prefix_tokens is None else prefix_tokens,
    )


def choose_device(
    gpu: str | Device | None = None,
    hardware: str | Path | Mapping[str, Hardware] | None = None,
    flops_efficiency: float | None = None,
    memory_efficiency: float | None = None,
    runtime: str | None = None,
    launch_us: float | None = None,
    reserve: str | float | None = None,
    tensor_parallel: int | None = None,
    price_per_hour: float | None = None,
    watts: float | None = None,
    *,
    argument: str = "gpu",
) -> Device:
    """Return the device of this name and how it is used. None follows from its class and the cost model.

    Args:
        gpu: A name in the table or in `hardware`; by default the only device of `hardware`, else an A100. Or a
            `Device`, whose values the other arguments override.
        hardware: Additional devices: a YAML file in the format of the table, or the result of `read_hardware`.
        flops_efficiency: Achieved share of the peak FLOP/s; 1 by default for a measured device.
        memory_efficiency: Achieved share of the peak bandwidth; 1 by default for a measured device.
        runtime: Engine that runs the model, a name in `scalelab.cost.runtime.RUNTIMES`.
        launch_us: Microseconds that each kernel adds.
        reserve: Memory held by driver and engine, in bytes or as "2GiB".
        tensor_parallel: Devices of one node that share every matrix.
        price_per_hour: US dollars per hour of one device.
        watts: Power of one device.
        argument: Name of `gpu` in messages.

    Raises:
        UsageError: The device is unknown, `hardware` has several and none is chosen, or a value is out of range.
    """
    if launch_us is not None and not 0 <= launch_us < math.inf:
        raise UsageError("must be a number of at least 0", argument="launch_us", value=launch_us)
    held = None
    if reserve is not None:
        text = reserve.strip() if isinstance(reserve, str) else reserve
        held = 0.0 if text in ("0", 0) else memory_bytes(text, "reserve")
    used = {
        "flops_efficiency": flops_efficiency,
        "memory_efficiency": memory_efficiency,
        "runtime": runtime,
        "launch_s": None if launch_us is None else launch_us * 1e-6,
        "reserve_bytes": held,
        "tensor_parallel": tensor_parallel,
        "price_per_hour": price_per_hour,
        "watts": watts,
    }
    given: dict[str, Any] = {name: value for name, value in used.items() if value is not None}
    if isinstance(gpu, Device):
        return replace(gpu, **given)
    own = own_devices(hardware)
    if gpu is None and len(own) > 1:
        raise UsageError(f"has several devices; choose one with `{argument}`: {', '.join(own)}", argument="hardware")
    if gpu is not None and gpu not in own and gpu not in builtin_devices():
        raise unknown_device_error(gpu, [*builtin_devices(), *own], argument)
    gpu = gpu or next(iter(own), Device.gpu)
    return Device(gpu, hardware=own.get(gpu), **given)


def own_devices(hardware: str | Path | Mapping[str, Hardware] | None) -> dict[str, Hardware]:
    """Return the devices of the user's file by name; empty without a file. Raises the errors of `read_hardware`."""
    if hardware is None:
        return {}
    return dict(hardware) if isinstance(hardware, Mapping) else read_hardware(hardware)
