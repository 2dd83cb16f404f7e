"""What a price is for: the device, the precision, the cost model and the request, from what a person names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalelab.architecture import PREFIX_TOKENS, Architecture, mlp_width
from scalelab.cost.hardware import Hardware, built_in, read_hardware, unknown_device
from scalelab.cost.model import PAPER_HEADS, PAPER_KV_HEADS, PAPER_LAYERS, PAPER_VOCAB, Device, Precision
from scalelab.errors import UsageError, choice_error

MAX_SIZE = 10_000_000  # beyond this nothing is a size, and integers stop fitting into floats
LENGTHS = (64, 128, 256, 512)  # tokens in, and as many out, over which the paper averages costs
BATCHES = (1, 2, 4, 8)
EngineName = Literal["llm-analysis", "roofline"]
PresetName = Literal["parscale", "serving"]


@dataclass(frozen=True)
class Preset:
    """What stands where nothing else is said: cost model, tokens in and out, and whether memory is read in GiB."""

    engine: EngineName
    tokens_in: int
    tokens_out: int
    binary: bool


# parscale is the setting of the paper's cost figures (arXiv 2505.10475), serving that of plans.
PRESETS: dict[str, Preset] = {
    "parscale": Preset("llm-analysis", 64, 64, True),
    "serving": Preset("roofline", 512, 128, True),
}


def preset_of(name: str) -> Preset:
    """Return the preset of that name. Raises `UsageError` naming those there are."""
    if name not in PRESETS:
        raise choice_error("preset", name, PRESETS)
    return PRESETS[name]


def check_sizes(**sizes: int) -> None:
    """Raise `UsageError` naming the argument whose value is no size."""
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
    """Return the plain decoder of that hidden size, by default of the paper's family; its MLP is 5.4 times as wide."""
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
) -> Device:
    """Return the device of that name, all of whose figures are reached where they were measured.

    Args:
        gpu: A name of the table or of `hardware`; by default the only one of `hardware`, else an A100.
        hardware: Devices of your own: a YAML file in the format of the table, or what `read_hardware` returned.
        flops_efficiency: Share of the peak FLOP/s that is reached; by default 0.7, of a measured device 1.
        memory_efficiency: Share of the peak bandwidth that is reached; by default 0.9, of a measured device 1.

    Raises:
        UsageError: No device has that name, or `hardware` has several and none is named.
    """
    if isinstance(gpu, Device):
        return gpu
    own = own_devices(hardware)
    if gpu is None and len(own) > 1:
        raise UsageError(f"has several devices: choose one with `gpu`: {', '.join(own)}", argument="hardware")
    if gpu is not None and gpu not in own and gpu not in built_in():
        raise unknown_device(gpu, [*built_in(), *own])
    gpu = gpu or next(iter(own), Device.gpu)
    found = own.get(gpu)
    measured = found is not None and found.measured
    return Device(
        gpu,
        (1.0 if measured else Device.flops_efficiency) if flops_efficiency is None else flops_efficiency,
        (1.0 if measured else Device.memory_efficiency) if memory_efficiency is None else memory_efficiency,
        found,
    )


def own_devices(hardware: str | Path | Mapping[str, Hardware] | None) -> dict[str, Hardware]:
    """Return the devices of the user's own file, by name; none without a file. Raises as `read_hardware`."""
    if hardware is None:
        return {}
    return dict(hardware) if isinstance(hardware, Mapping) else read_hardware(hardware)


def describe(engine: str, device: Device, precision: Precision) -> str:
    """Return cost model, device, shares of its peaks and precision in words."""
    stored = (
        ""
        if (precision.weights, precision.kv_stored) == ("bf16", "bf16")
        else f", weights {precision.weights}, KV cache {precision.kv_stored}"
    )
    shares = f"at {device.flops_efficiency:g} of its FLOP/s and {device.memory_efficiency:g} of its bandwidth"
    return f"{engine}, {device.gpu} {shares}{stored}"
