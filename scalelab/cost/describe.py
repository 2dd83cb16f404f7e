"""Descriptions of a price: cost model, device and precision, and notes on substitutions and assumptions."""

from __future__ import annotations

from collections.abc import Iterator

from scalelab.cost.hardware import Hardware
from scalelab.cost.rates import find_rates
from scalelab.cost.request import Device, Precision
from scalelab.cost.runtime import UNMEASURED


def priced_by(engine: str, device: Device, precision: Precision) -> str:
    """Describe the cost model, device, achieved shares of its peaks, and precision."""
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
    # NPUs run their vendors' engines, none of which has a name here.
    used = device.runtime or ("" if hardware.kind in ("", "npu") else hardware.device_class.runtime)
    runtime = f" by {used}" if used else ""
    start = f", {rates.launch_s * 1e6:.3g} µs a kernel" if rates.launch_s else ""
    shares = f"at {flops:.2g} of its FLOP/s and {memory:.2g} of its bandwidth{start}"
    return f"{engine}, {several}{device.gpu}{runtime} {shares}{stored}"


def device_notes(device: Device, precision: Precision, engine: str = "roofline") -> Iterator[str]:
    """Yield notes on substituted precisions and on unconfirmed or assumed figures of the device."""
    if engine == "llm-analysis":  # it has no other figures than those it is given
        return
    hardware = device.found()
    asked, done = precision.arithmetic, hardware.units(precision.arithmetic)
    if precision.compute is not None and done != asked:
        yield f"{device.gpu} has no {asked} units: matrix products are priced at {done}"
    elif precision.compute is None and precision.weights == "fp8" and "fp8" in hardware.flops_per_s:
        yield "fp8 weights are widened to 16 bits in products; for engines that compute in fp8 use `compute='fp8'`"
    if unconfirmed := _unconfirmed(device, hardware, done):
        yield (
            f"{device.gpu}: unconfirmed: {', '.join(unconfirmed)}, not checked against the source; `list_hardware` has "
            "figures and sources"
        )
    if hardware.kind in UNMEASURED:
        yield (
            f"{device.gpu}: no published measurements of its class ({hardware.kind}); the shares of its peaks and its "
            "intervals are assumed"
        )


def _unconfirmed(device: Device, hardware: Hardware, units: str) -> list[str]:
    """List the unchecked figures that this price depends on; watts are only an upper bound and not included."""
    used = [units, "bandwidth", "memory"]
    used += ["usable"] if hardware.usable_bytes is not None else []
    used += ["link"] if device.tensor_parallel > 1 else []
    used += ["price_per_hour"] if device.price_per_hour is None else []
    return [key for key in used if key in hardware.unconfirmed]
