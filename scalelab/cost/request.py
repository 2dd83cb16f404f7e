"""Request for a price (workload, device, precision) and the resulting cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scalelab.architecture import Architecture
from scalelab.cost.formats import KV_BITS, WeightFormat, weight_format
from scalelab.cost.hardware import WIDER, Hardware, find_hardware
from scalelab.cost.runtime import PAPER_FLOPS, PAPER_MEMORY, RUNTIMES
from scalelab.cost.shape import ServedModel
from scalelab.errors import UsageError, choice_error

GIB = 2**30
SIGMAS = 1.96  # half width of a 95 % interval
_MAX_DOUBLINGS = 4  # doublings of P covered by published measurements
TRAINING_SHARE = 0.4  # of the 16-bit peak that training of large models reaches (arXiv 2104.04473, arXiv 2407.21783)
MAX_PARALLEL = 72  # devices of one node
MAX_COUNT = 10**12  # of requests and tokens; larger integers lose precision as floats

# The dense decoder of the paper: 36 layers, 16 heads, 2 KV heads, the Qwen2.5 vocabulary.
PAPER_LAYERS = 36
PAPER_HEADS = 16
PAPER_KV_HEADS = 2
PAPER_VOCAB = 151_936


@dataclass(frozen=True)
class Workload:
    """Batch of requests with their prompt and generated tokens."""

    batch: int = 1
    tokens_in: int = 64
    tokens_out: int = 64

    def __post_init__(self) -> None:
        for name in ("batch", "tokens_in", "tokens_out"):
            if getattr(self, name) < 1:
                raise UsageError("must be at least 1", argument=name, value=getattr(self, name))
            if getattr(self, name) > MAX_COUNT:
                raise UsageError(f"must be at most {MAX_COUNT:,}", argument=name)


@dataclass(frozen=True)
class Device:
    """Device and how it is used. A value of None follows from the device's class and the runtime.

    Attributes:
        gpu: Name of the device.
        flops_efficiency: Achieved share of peak FLOP/s.
        memory_efficiency: Achieved share of peak bandwidth.
        hardware: Overrides the entry of this name in the table.
        runtime: Engine that runs the model, a name in `scalelab.cost.runtime.RUNTIMES`.
        launch_s: Time that each kernel adds.
        reserve_bytes: Memory held by driver and engine.
        tensor_parallel: Devices of one node, each with its part of every matrix.
        price_per_hour: US dollars per hour of one device.
        watts: Power of one device.
    """

    gpu: str = "a100-sxm-80gb"
    flops_efficiency: float | None = None
    memory_efficiency: float | None = None
    hardware: Hardware | None = None
    runtime: str | None = None
    launch_s: float | None = None
    reserve_bytes: float | None = None
    tensor_parallel: int = 1
    price_per_hour: float | None = None
    watts: float | None = None

    def __post_init__(self) -> None:
        for name in ("flops_efficiency", "memory_efficiency"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError("must lie in (0, 1]", argument=name, value=value)
        if self.runtime is not None and self.runtime not in RUNTIMES:
            raise choice_error("runtime", self.runtime[:60], RUNTIMES)
        for name in ("launch_s", "reserve_bytes", "price_per_hour", "watts"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError("must be a number of at least 0", argument=name, value=value)
        if not 1 <= self.tensor_parallel <= MAX_PARALLEL:
            reason = f"must lie between 1 and {MAX_PARALLEL}"
            raise UsageError(reason, argument="tensor_parallel", value=self.tensor_parallel)

    def found(self) -> Hardware:
        """Return the device's figures. Raises `UsageError` for an unknown name."""
        return self.hardware or find_hardware(self.gpu)

    def paper_shares(self) -> tuple[float, float]:
        """Return the shares of FLOP/s and bandwidth for llm-analysis: the paper's, or 1 for a measured device."""
        measured = self.hardware is not None and self.hardware.measured
        given = (self.flops_efficiency, self.memory_efficiency)
        default = (1.0, 1.0) if measured else (PAPER_FLOPS, PAPER_MEMORY)
        return tuple(d if g is None else g for g, d in zip(given, default, strict=True))  # type: ignore[return-value]


@dataclass(frozen=True)
class Precision:
    """Storage formats of weights (`scalelab.cost.formats`) and KV cache, and the precision of matrix products.

    By default the KV cache and matrix products are fp32 with fp32 weights, otherwise bf16, since narrower weights are
    usually widened when they are read (GPTQ, AWQ, llama.cpp). Set `compute` to fp8 or int8 if activations are narrow
    too. bf16 stands for either 16-bit float.
    """

    weights: str = "bf16"
    kv: str | None = None
    compute: str | None = None

    def __post_init__(self) -> None:
        weight_format(self.weights)
        for name, value, known in (
            ("kv", self.kv, KV_BITS),
            ("compute", self.compute, WIDER),
        ):
            if value is not None and value not in known:
                raise choice_error(name, value, known)

    @property
    def format(self) -> WeightFormat:
        """Storage format of weights."""
        return weight_format(self.weights)

    @property
    def kv_stored(self) -> str:
        """Storage format of the KV cache."""
        return self.kv or ("fp32" if self.weights == "fp32" else "bf16")

    @property
    def arithmetic(self) -> str:
        """Precision of matrix products."""
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
    device_bytes: float  # memory available to the model
    prefix_bytes: float = 0.0  # if prefixes are priced as weights, not as cache
    spread: float = 0.0  # standard deviation of ln(measured / predicted) of latency; 0: unknown
    memory_spread: float = 0.0  # likewise of memory
    rows_spread: float = 0.0  # likewise of the time of P rows relative to one, per doubling of P
    watts: float | None = None  # all devices
    price_per_hour: float | None = None  # all devices, US dollars

    @property
    def memory_bytes(self) -> float:
        """Total memory."""
        stored = self.weight_bytes + self.aggregator_bytes + self.prefix_bytes
        return stored + self.kv_cache_bytes + self.activation_bytes

    @property
    def latency_s(self) -> float:
        """Time of the whole request."""
        return self.prefill_s + self.decode_s

    @property
    def fits(self) -> bool:
        """True if the memory of the device is sufficient."""
        return self.memory_bytes <= self.device_bytes

    @property
    def streams_spread(self) -> float:
        """Standard deviation of ln(measured / predicted) of the time of P streams relative to one."""
        return self.rows_spread * min(_MAX_DOUBLINGS, math.log2(self.architecture.P))

    @property
    def ttft_s(self) -> float:
        """Time to the first token."""
        return self.prefill_s

    @property
    def tpot_s(self) -> float:
        """Time per token after the first; 0 if there is only one."""
        steps = self.workload.tokens_out - 1
        return self.decode_s / steps if steps else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second, over all requests and the whole time including prefill."""
        made = self.workload.batch * self.workload.tokens_out
        return made / self.latency_s if self.latency_s else math.inf

    @property
    def request_tokens_per_s(self) -> float:
        """Tokens per second of one request after its first token: 1 / `tpot_s`."""
        return 1 / self.tpot_s if self.tpot_s else math.inf

    @property
    def kwh_per_mtoken(self) -> float | None:
        """Upper bound on the energy of a million generated tokens: at the power limit all the time."""
        return None if self.watts is None else self.watts / self.tokens_per_s / 3.6

    @property
    def price_per_mtoken(self) -> float | None:
        """US dollars per million generated tokens, including prefill."""
        return None if self.price_per_hour is None else self.price_per_hour / 3600 / self.tokens_per_s * 1e6

    def interval(self, value: float, memory: bool = False) -> tuple[float, float] | None:
        """Return the 95 % interval of a time (or memory) from the spread of published errors; None without one."""
        return interval_of(value, self.memory_spread if memory else self.spread)


def interval_of(value: float, spread: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a value whose logarithm has standard deviation `spread`; None for 0."""
    return (value * math.exp(-SIGMAS * spread), value * math.exp(SIGMAS * spread)) if spread else None
