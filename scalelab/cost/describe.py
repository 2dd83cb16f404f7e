"""Prices in words: by what, on what, and what a device does instead of what was asked."""

from __future__ import annotations

from collections.abc import Iterator

from scalelab.cost.model import Device, Precision
from scalelab.cost.rates import find_rates


def priced_by(engine: str, device: Device, precision: Precision) -> str:
    """Return cost model, device, shares of its peaks and precision in words."""
    stored = (
        ""
        if (precision.weights, precision.kv_stored) == ("bf16", "bf16")
        else f", weights {precision.weights}, KV cache {precision.kv_stored}"
    )
    stored += f", computed at {precision.compute}" if precision.compute else ""
    several = f"{device.tensor_parallel} × " if device.tensor_parallel > 1 else ""
    if engine != "roofline":
        flops, memory = device.paper_shares()
        shares = f"at {flops:g} of its FLOP/s and {memory:g} of its bandwidth"
        return f"{engine}, {several}{device.gpu} {shares}{stored}"
    hardware, rates = device.found(), find_rates(device, precision)
    flops = rates.matrix_flops_per_s / device.tensor_parallel / hardware.peak(precision.arithmetic)
    memory = rates.bytes_per_s / device.tensor_parallel / hardware.bytes_per_s
    runtime = f" by {device.runtime or hardware.device_class.runtime}" if hardware.kind else ""
    start = f", {rates.launch_s * 1e6:.3g} µs a kernel" if rates.launch_s else ""
    shares = f"at {flops:.2g} of its FLOP/s and {memory:.2g} of its bandwidth{start}"
    return f"{engine}, {several}{device.gpu}{runtime} {shares}{stored}"


def device_notes(device: Device, precision: Precision, engine: str = "roofline") -> Iterator[str]:
    """Say which precisions the device has no units for, and what is done instead."""
    if engine == "llm-analysis":  # which knows no other than those it is given
        return
    hardware = device.found()
    asked, done = precision.arithmetic, hardware.units(precision.arithmetic)
    if precision.compute is not None and done != asked:
        yield f"{device.gpu} has no units for {asked}: matrix products are priced at {done}"
    elif precision.compute is None and precision.weights == "fp8" and "fp8" in hardware.flops_per_s:
        yield "fp8 weights are widened to 16 bits in products; engines that compute in fp8 are `compute='fp8'`"
