"""Requests, devices and precisions to price, and prices."""

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
SIGMAS = 1.96  # of a 95 % interval
_MOST_DOUBLINGS = 4  # of P, that published tables of rows have
MAX_PARALLEL = 72  # devices of one node
MAX_COUNT = 10**12  # of anything countable; beyond, integers stop fitting into floats

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
            if getattr(self, name) > MAX_COUNT:
                raise UsageError(f"{name.replace('_', ' ')} must be at most {MAX_COUNT:,}")


@dataclass(frozen=True)
class Device:
    """A device by its name, and how it is used; what is None follows from its class and the runtime.

    Shares are of its peaks; `launch_s` is what each kernel adds. `hardware` stands in for the table's entry of that
    name; llm-analysis has a table of its own. Of `tensor_parallel` devices of one node each holds and computes its
    part of every matrix.
    """

    gpu: str = "a100-sxm-80gb"
    flops_efficiency: float | None = None
    memory_efficiency: float | None = None
    hardware: Hardware | None = None
    runtime: str | None = None
    launch_s: float | None = None
    reserve_bytes: float | None = None
    tensor_parallel: int = 1
    price_per_hour: float | None = None  # US dollars, of one
    watts: float | None = None  # of one

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
        """Return its figures. Raises `UsageError` for a name that the table does not have."""
        return self.hardware or find_hardware(self.gpu)

    def paper_shares(self) -> tuple[float, float]:
        """Return the shares of FLOP/s and bandwidth for llm-analysis: the paper's, or all of what was measured."""
        measured = self.hardware is not None and self.hardware.measured
        given = (self.flops_efficiency, self.memory_efficiency)
        default = (1.0, 1.0) if measured else (PAPER_FLOPS, PAPER_MEMORY)
        return tuple(d if g is None else g for g, d in zip(given, default, strict=True))  # type: ignore[return-value]


@dataclass(frozen=True)
class Precision:
    """Storage of weights (`scalelab.cost.formats`) and KV cache, and the precision of matrix products.

    KV cache: fp32 with fp32 weights, else bf16. Arithmetic: fp32 with fp32 weights, else bf16, since
    narrower weights are commonly widened on the way in (GPTQ, AWQ, llama.cpp); `compute` = fp8 or int8
    says that activations are narrow too. bf16 stands for either 16-bit float.
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
        return weight_format(self.weights)

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
    device_bytes: float  # that programs can have
    prefix_bytes: float = 0.0  # where prefixes are priced as weights, not as cache
    spread: float = 0.0  # standard deviation of ln(measured / predicted) of latencies; 0: not known
    memory_spread: float = 0.0
    rows_spread: float = 0.0  # that of P rows over one, for each doubling of P
    watts: float | None = None  # of all devices
    price_per_hour: float | None = None  # of all devices, US dollars

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

    @property
    def streams_spread(self) -> float:
        """Standard deviation of ln(measured / predicted) of times with all P streams over those of one."""
        return self.rows_spread * min(_MOST_DOUBLINGS, math.log2(self.architecture.P))

    @property
    def ttft_s(self) -> float:
        """Time to the first token."""
        return self.prefill_s

    @property
    def tpot_s(self) -> float:
        """Time for each token after the first; 0 where there is none."""
        steps = self.workload.tokens_out - 1
        return self.decode_s / steps if steps else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens of all requests over the time of the whole request."""
        made = self.workload.batch * self.workload.tokens_out
        return made / self.latency_s if self.latency_s else math.inf

    @property
    def request_tokens_per_s(self) -> float:
        """Tokens a second that one request sees after its first: 1 over `tpot_s`."""
        return 1 / self.tpot_s if self.tpot_s else math.inf

    @property
    def kwh_per_mtoken(self) -> float | None:
        """Energy of a million generated tokens at the limit of power, which bounds it from above."""
        return None if self.watts is None else self.watts / self.tokens_per_s / 3.6

    @property
    def price_per_mtoken(self) -> float | None:
        """US dollars of a million generated tokens, prompts included."""
        return None if self.price_per_hour is None else self.price_per_hour / 3600 / self.tokens_per_s * 1e6

    def interval(self, value: float, memory: bool = False) -> tuple[float, float] | None:
        """Return the 95 % interval of a time (or of memory) by the spread of published errors; None without one."""
        return interval_of(value, self.memory_spread if memory else self.spread)


def interval_of(value: float, spread: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a value whose logarithm has that standard deviation; None without one."""
    return (value * math.exp(-SIGMAS * spread), value * math.exp(SIGMAS * spread)) if spread else None
