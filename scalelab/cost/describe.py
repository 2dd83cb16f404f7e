"""Prices in words: by what, on what, and what a device does instead of what was asked."""

from __future__ import annotations

from collections.abc import Iterator

from scalelab.cost.hardware import Hardware
from scalelab.cost.rates import find_rates
from scalelab.cost.request import Device, Precision
from scalelab.cost.runtime import UNMEASURED


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
    # Engines of NPUs are their vendors' own: none of the names here is theirs.
    used = device.runtime or ("" if hardware.kind in ("", "npu") else hardware.device_class.runtime)
    runtime = f" by {used}" if used else ""
    start = f", {rates.launch_s * 1e6:.3g} µs a kernel" if rates.launch_s else ""
    shares = f"at {flops:.2g} of its FLOP/s and {memory:.2g} of its bandwidth{start}"
    return f"{engine}, {several}{device.gpu}{runtime} {shares}{stored}"


def device_notes(device: Device, precision: Precision, engine: str = "roofline") -> Iterator[str]:
    """Say what the device does instead of what was asked, and which figures are unconfirmed or assumed."""
    if engine == "llm-analysis":  # which knows no other figures than those it is given
        return
    hardware = device.found()
    asked, done = precision.arithmetic, hardware.units(precision.arithmetic)
    if precision.compute is not None and done != asked:
        yield f"{device.gpu} has no units for {asked}: matrix products are priced at {done}"
    elif precision.compute is None and precision.weights == "fp8" and "fp8" in hardware.flops_per_s:
        yield "fp8 weights are widened to 16 bits in products; engines that compute in fp8 are `compute='fp8'`"
    if unconfirmed := _unconfirmed(device, hardware, done):
        yield (
            f"{device.gpu}: unconfirmed: {', '.join(unconfirmed)}, not checked against the source; `list_hardware` has "
            "figures and sources"
        )
    if hardware.kind in UNMEASURED:
        yield (
            f"{device.gpu}: no measurement of its class ({hardware.kind}) is published; the shares of its peaks and "
            "its intervals are assumed"
        )


def _unconfirmed(device: Device, hardware: Hardware, units: str) -> list[str]:
    """Figures that this price rests on and that nobody checked; watts, a bound of what is used, are not among them."""
    used = [units, "bandwidth", "memory"]
    used += ["usable"] if hardware.usable_bytes is not None else []
    used += ["link"] if device.tensor_parallel > 1 else []
    used += ["price_per_hour"] if device.price_per_hour is None else []
    return [key for key in used if key in hardware.unconfirmed]
