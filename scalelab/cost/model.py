"""What is priced, on what, and the price."""

from __future__ import annotations

from dataclasses import dataclass

from scalelab.architecture import Architecture
from scalelab.errors import UsageError

GIB = 2**30

# The dense decoder of the paper: 36 layers, 16 heads, 2 KV heads, the Qwen2.5 vocabulary.
PAPER_LAYERS = 36
PAPER_HEADS = 16
PAPER_KV_HEADS = 2
PAPER_VOCAB = 151_936


@dataclass(frozen=True)
class Workload:
    """One request batch: prompt tokens in, generated tokens out."""

    batch: int = 1
    tokens_in: int = 64
    tokens_out: int = 64

    def __post_init__(self) -> None:
        for name in ("batch", "tokens_in", "tokens_out"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Device:
    """A GPU by llm-analysis' name, and the share of its peaks that is reached.

    The defaults are those behind the paper's figures.
    """

    gpu: str = "a100-sxm-80gb"
    flops_efficiency: float = 0.7
    memory_efficiency: float = 0.9

    def __post_init__(self) -> None:
        for name in ("flops_efficiency", "memory_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name.replace('_', ' ')} must lie in (0, 1], not {getattr(self, name)}")


@dataclass(frozen=True)
class Cost:
    """Memory in bytes and latency in seconds of one workload on one device."""

    architecture: Architecture
    workload: Workload
    weight_bytes: float
    kv_cache_bytes: float
    activation_bytes: float
    aggregator_bytes: float
    prefill_s: float
    decode_s: float
    device_bytes: float  # what the device has

    @property
    def memory_bytes(self) -> float:
        return self.weight_bytes + self.kv_cache_bytes + self.activation_bytes + self.aggregator_bytes

    @property
    def latency_s(self) -> float:
        return self.prefill_s + self.decode_s

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.device_bytes
