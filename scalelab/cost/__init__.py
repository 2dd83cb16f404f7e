"""Inference costs: memory and latency of a decoder with streams."""

from scalelab.cost.llm_engine import gpu_names, price
from scalelab.cost.request import (
    GIB,
    PAPER_HEADS,
    PAPER_KV_HEADS,
    PAPER_LAYERS,
    PAPER_VOCAB,
    Cost,
    Device,
    Workload,
)

__all__ = [
    "GIB",
    "PAPER_HEADS",
    "PAPER_KV_HEADS",
    "PAPER_LAYERS",
    "PAPER_VOCAB",
    "Cost",
    "Device",
    "Workload",
    "gpu_names",
    "price",
]
