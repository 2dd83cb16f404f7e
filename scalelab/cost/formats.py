"""Storage formats of weights: real bits of each kind of matrix, scales of groups included.

A format's name says less than its files hold: "4-bit" files keep scales beside each group, and most keep embedding
and head wider. Bits are those of the format's definition, or of its files where it mixes widths: total size over
number of weights of Llama 3 8B (https://github.com/ggml-org/llama.cpp, tools/quantize/README.md).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from scalelab.errors import UsageError

_Q6_K = 6.5625
_MOST_BITS = 64.0
_NUMBER = re.compile(r"([0-9]*\.?[0-9]+)\s*(?:bits?|bpw)?")


@dataclass(frozen=True)
class WeightFormat:
    """Bits of one weight.

    `matrix` holds for the matrices of layers; of a mixture of experts for the experts alone where `dense` says what
    the others have. `tied` is what an embedding that is also the head has. `kernels` says whose products of few
    rows it goes through: those of "float" weights, of llama.cpp's quantised "blocks", or "fused" ones that lose
    nothing up to some tens of rows (Marlin, arXiv 2408.11743).
    """

    name: str
    matrix: float
    head: float
    embedding: float
    tied: float
    dense: float | None = None
    kernels: Literal["float", "blocks", "fused"] = "float"


def _alike(name: str, bits: float, kernels: Literal["float", "blocks", "fused"] = "float") -> WeightFormat:
    return WeightFormat(name, bits, bits, bits, bits, kernels=kernels)


def _blocks(name: str, matrix: float, embedding: float, head: float = _Q6_K) -> WeightFormat:
    """Return a format of llama.cpp, whose head is wider, and so is an embedding that serves as one."""
    return WeightFormat(name, matrix, head, embedding, head, kernels="blocks")


def _wide_ends(name: str, bits: float, dense: float | None = None) -> WeightFormat:
    """Embedding and head stay at 16 bits, as in checkpoints for vLLM, TensorRT-LLM and transformers."""
    return WeightFormat(name, bits, 16, 16, 16, dense, "fused")


FORMATS: dict[str, WeightFormat] = {
    f.name: f
    for f in (
        _alike("fp32", 32),
        _alike("bf16", 16),
        replace(_wide_ends("fp8", 8), kernels="float"),
        _alike("int8", 8.25),  # between one scale a row and one for 32 weights
        WeightFormat("int4", 4.66, _Q6_K, 4.66, _Q6_K, kernels="blocks"),  # between q4_0 and q4_k_m
        _alike("q8_0", 8.5),  # a 16-bit scale for 32 weights
        _blocks("q6_k", _Q6_K, _Q6_K),
        _blocks("q5_k_m", 5.66, 5.5),
        _blocks("q4_k_m", 4.81, 4.5),
        _blocks("q4_0", 4.5, 4.5),
        _blocks("iq4_xs", 4.25, 4.25),
        _blocks("q3_k_m", 3.86, 3.4375),
        _wide_ends("gptq", 4.156),  # groups of 128: a 16-bit scale and a 4-bit zero
        _wide_ends("gptq-int8", 8.1875),
        _wide_ends("awq", 4.156),
        _wide_ends("nf4", 4.127),  # QLoRA (arXiv 2305.14314): groups of 64, scales quantised again
        _wide_ends("llm-int8", 8.03),
        _wide_ends("nvfp4", 4.5),  # an 8-bit scale for 16 weights
        _wide_ends("mxfp4", 4.25, dense=16),  # an 8-bit scale for 32 weights; as gpt-oss has it, experts alone
        # torchao in gpt-fast: groups of 32 with scale and zero of 16 bits; ExecuTorch keeps the ends at 8 bits.
        WeightFormat("int4-g32", 5.0, 5.0, 16, 16, kernels="fused"),
        WeightFormat("int8-row", 8.0, 8.0, 16, 16, kernels="fused"),
        WeightFormat("int4-8bit-ends", 4.5, 8.25, 8.25, 8.25, kernels="blocks"),
    )
}

# The KV cache, and prefixes with it: with scales of llama.cpp's q8_0 and q4_0.
KV_BITS: dict[str, float] = {"fp32": 32, "bf16": 16, "fp8": 8, "int8": 8.5, "int4": 4.5, "q8_0": 8.5, "q4_0": 4.5}


def weight_format(name: str) -> WeightFormat:
    """Return the format of that name, or of that many bits everywhere, such as "4.5" or "4.5bpw".

    Raises:
        UsageError: the name is no format and no number of bits.
    """
    if name in FORMATS:
        return FORMATS[name]
    match = _NUMBER.fullmatch(name.strip().lower())
    bits = float(match[1]) if match else math.nan
    if not 1 <= bits <= _MOST_BITS:
        raise UsageError(
            f"choose one of {', '.join(FORMATS)}; or give bits a weight from 1 to {_MOST_BITS:g}, such as 4.5",
            argument="weights",
            value=name[:60],
        )
    return _alike(name, bits, "float" if bits >= 8 else "blocks")
