"""Cost models by name, with a common signature."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from scalelab.architecture import Architecture
from scalelab.cost import llm_engine, roofline
from scalelab.cost.hardware import builtin_devices
from scalelab.cost.request import BF16, Cost, Device, Precision, Workload
from scalelab.cost.shape import ServedModel, as_architecture
from scalelab.errors import NotPricedError, choice_error

_ADVICE = "use `engine='roofline'`"


class Engine(Protocol):
    """Cost model. Raises `NotPricedError` for a model, device or precision that it cannot price."""

    def __call__(
        self,
        model: Architecture | ServedModel,
        workload: Workload,
        device: Device,
        precision: Precision = ...,
        /,
    ) -> Cost:
        """Return the memory and latency of `workload` on `device`."""
        ...


def _llm_analysis(
    model: Architecture | ServedModel, workload: Workload, device: Device, precision: Precision = BF16
) -> Cost:
    """Price with llm-analysis, which has one precision for everything, and only 16 bits for its own devices."""
    if device.hardware is None and device.gpu not in llm_engine.gpu_names() and device.gpu in builtin_devices():
        raise NotPricedError("llm-analysis does not have this device", _ADVICE, argument="gpu", value=device.gpu)
    if device.tensor_parallel > 1:
        raise NotPricedError("llm-analysis prices only one device", f"{_ADVICE} for `tensor_parallel`")
    if device.runtime is not None or device.launch_s is not None:
        raise NotPricedError("llm-analysis has no runtimes and no launch time", _ADVICE)
    if device.reserve_bytes is not None:
        raise NotPricedError("llm-analysis does not reserve memory", f"{_ADVICE} for `reserve`")
    used = (precision.weights, precision.kv_stored, precision.arithmetic)
    known = ("bf16",) if device.hardware is None else ("bf16", "fp32")
    if len(set(used)) > 1 or used[0] not in known:
        raise NotPricedError(f"llm-analysis prices only {' or '.join(known)} throughout, not {'/'.join(used)}", _ADVICE)
    cost = llm_engine.price(as_architecture(model), workload, device, used[0])
    return replace(cost, watts=device.watts, price_per_hour=device.price_per_hour)


ENGINES: dict[str, Engine] = {"llm-analysis": _llm_analysis, "roofline": roofline.price}


def get_engine(name: str) -> Engine:
    """Return the cost model of this name. Raises `UsageError` listing the names."""
    if name not in ENGINES:
        raise choice_error("engine", name, ENGINES)
    return ENGINES[name]
