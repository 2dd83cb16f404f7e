"""What is priced, on what, and the price."""

from __future__ import annotations

from dataclasses import dataclass

from scalelab.architecture import Architecture
from scalelab.cost.hardware import WIDER, Hardware
from scalelab.cost.shape import ServedModel
from scalelab.errors import UsageError, choice_error

GIB = 2**30
MOST = 10**12  # of anything countable; beyond, integers stop fitting into floats

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
            if getattr(self, name) > MOST:
                raise UsageError(f"{name.replace('_', ' ')} must be at most {MOST:,}")


@dataclass(frozen=True)
class Device:
    """A device by its name, and the share of its peaks that is reached.

    The defaults are those behind the paper's figures. `hardware` stands in for the table's entry of
    that name; llm-analysis has a table of its own.
    """

    gpu: str = "a100-sxm-80gb"
    flops_efficiency: float = 0.7
    memory_efficiency: float = 0.9
    hardware: Hardware | None = None

    def __post_init__(self) -> None:
        for name in ("flops_efficiency", "memory_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name.replace('_', ' ')} must lie in (0, 1], not {getattr(self, name)}")


# Bytes of one stored number. Scales of quantised groups are not counted: 3 % of int4 in groups of 128.
STORED_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}


@dataclass(frozen=True)
class Precision:
    """How weights and KV cache are stored and at what precision matrices are multiplied.

    KV cache: fp32 with fp32 weights, else bf16. Arithmetic: fp32 with fp32 weights, else bf16, since
    narrower weights are commonly widened on the way in (GPTQ, AWQ, llama.cpp); `compute` = fp8 or int8
    says that activations are narrow too. bf16 stands for either 16-bit float.
    """

    weights: str = "bf16"
    kv: str | None = None
    compute: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("weights", self.weights, STORED_BYTES),
            ("kv", self.kv, STORED_BYTES),
            ("compute", self.compute, WIDER),
        ):
            if value is not None and value not in known:
                raise choice_error(name, value, known)

    @property
    def kv_stored(self) -> str:
        return self.kv or ("fp32" if self.weights == "fp32" else "bf16")

    @property
    def arithmetic(self) -> str:
        return self.compute or ("fp32" if self.weights == "fp32" else "bf16")


BF16 = Precision()


@dataclass(frozen=True)
class Cost:
    """Memory in bytes and latency in seconds of one workload on one device."""

    architecture: Architecture | ServedModel
    workload: Workload
    weight_bytes: float
    kv_cache_bytes: float
    activation_bytes: float
    aggregator_bytes: float
    prefill_s: float
    decode_s: float
    device_bytes: float  # what the device has
    prefix_bytes: float = 0.0  # where prefixes are priced as weights, not as cache

    @property
    def memory_bytes(self) -> float:
        stored = self.weight_bytes + self.aggregator_bytes + self.prefix_bytes
        return stored + self.kv_cache_bytes + self.activation_bytes

    @property
    def latency_s(self) -> float:
        return self.prefill_s + self.decode_s

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.device_bytes
