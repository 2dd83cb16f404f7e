"""Cost models by name, behind one signature: what `--engine` chooses from."""

from __future__ import annotations

from typing import Protocol

from scalelab.architecture import Architecture
from scalelab.cost import llm_engine
from scalelab.cost.model import Cost, Device, Workload
from scalelab.errors import UsageError


class Engine(Protocol):
    """Memory and latency of `workload` on `device`. Raises `UsageError` for what it cannot hold."""

    def __call__(self, model: Architecture, workload: Workload, device: Device, /) -> Cost: ...


ENGINES: dict[str, Engine] = {"llm-analysis": llm_engine.price}


def get_engine(name: str) -> Engine:
    """The cost model of that name. Raises `UsageError` naming those there are."""
    if name not in ENGINES:
        raise UsageError(f"--engine {name}: choose one of {', '.join(ENGINES)}")
    return ENGINES[name]
