"""Cost models by name, behind one signature."""

from __future__ import annotations

from typing import Protocol

from scalelab.architecture import Architecture
from scalelab.cost import llm_engine, roofline
from scalelab.cost.hardware import built_in
from scalelab.cost.model import BF16, Cost, Device, Precision, Workload
from scalelab.cost.shape import ServedModel, as_architecture
from scalelab.errors import NotPricedError, choice_error

_ADVICE = "use `engine='roofline'`"


class Engine(Protocol):
    """Memory and latency of `workload` on `device`. Raises `UsageError` for what it cannot hold."""

    def __call__(
        self,
        model: Architecture | ServedModel,
        workload: Workload,
        device: Device,
        precision: Precision = ...,
        /,
    ) -> Cost: ...


def _llm_analysis(
    model: Architecture | ServedModel, workload: Workload, device: Device, precision: Precision = BF16
) -> Cost:
    """`llm_engine.price`, which knows one precision for everything, and of its own devices only 16 bits."""
    if device.hardware is None and device.gpu not in llm_engine.gpu_names() and device.gpu in built_in():
        raise NotPricedError("llm-analysis does not know it", _ADVICE, argument="gpu", value=device.gpu)
    used = (precision.weights, precision.kv_stored, precision.arithmetic)
    known = ("bf16",) if device.hardware is None else ("bf16", "fp32")
    if len(set(used)) > 1 or used[0] not in known:
        raise NotPricedError(f"llm-analysis prices {' or '.join(known)} throughout, not {'/'.join(used)}", _ADVICE)
    return llm_engine.price(as_architecture(model), workload, device, used[0])


ENGINES: dict[str, Engine] = {"llm-analysis": _llm_analysis, "roofline": roofline.price}


def get_engine(name: str) -> Engine:
    """The cost model of that name. Raises `UsageError` naming those there are."""
    if name not in ENGINES:
        raise choice_error("engine", name, ENGINES)
    return ENGINES[name]
