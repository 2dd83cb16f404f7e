"""Storage formats of weights: actual bits of each kind of matrix, including the scales of groups.

The nominal width of a format is too low: "4-bit" files also store scales for each group, and most store embedding and
head with more bits. Bits are from the format's definition. For formats that mix widths they are file size over number
of weights of Llama 3 8B (https://github.com/ggml-org/llama.cpp, tools/quantize/README.md).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from scalelab.errors import UsageError

_Q6_K = 6.5625
_MAX_BITS = 64.0
_NUMBER = re.compile(r"([0-9]*\.?[0-9]+)\s*(?:bits?|bpw)?")


@dataclass(frozen=True)
class WeightFormat:
    """Bits per weight of a storage format.

    Attributes:
        name: Name of the format.
        matrix: Matrices of layers; if `dense` is set, only those of experts.
        head: Output embedding.
        embedding: Input embedding.
        tied: Embedding that is both input and output.
        dense: Other matrices in layers with experts; None: as `matrix`.
        kernels: Kind of matrix kernels with few rows: "float", llama.cpp's quantised "blocks", or "fused", which are
            as fast for some tens of rows as for one (Marlin, arXiv 2408.11743).
    """

    name: str
    matrix: float
    head: float
    embedding: float
    tied: float
    dense: float | None = None
    kernels: Literal["float", "blocks", "fused"] = "float"


def _uniform(name: str, bits: float, kernels: Literal["float", "blocks", "fused"] = "float") -> WeightFormat:
    return WeightFormat(name, bits, bits, bits, bits, kernels=kernels)


def _blocks(name: str, matrix: float, embedding: float, head: float = _Q6_K) -> WeightFormat:
    """Return a format of llama.cpp, where the head, and an embedding tied to it, is wider."""
    return WeightFormat(name, matrix, head, embedding, head, kernels="blocks")


def _wide_ends(name: str, bits: float, dense: float | None = None) -> WeightFormat:
    """Return a format with 16-bit embedding and head, as in checkpoints for vLLM, TensorRT-LLM and transformers."""
    return WeightFormat(name, bits, 16, 16, 16, dense, "fused")


FORMATS: dict[str, WeightFormat] = {
    f.name: f
    for f in (
        _uniform("fp32", 32),
        _uniform("bf16", 16),
        replace(_wide_ends("fp8", 8), kernels="float"),
        _uniform("int8", 8.25),  # between one scale a row and one for 32 weights
        WeightFormat("int4", 4.66, _Q6_K, 4.66, _Q6_K, kernels="blocks"),  # between q4_0 and q4_k_m
        _uniform("q8_0", 8.5),  # a 16-bit scale for 32 weights
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
        _wide_ends("mxfp4", 4.25, dense=16),  # an 8-bit scale for 32 weights; only for experts, as in gpt-oss
        # torchao in gpt-fast: groups of 32 with scale and zero of 16 bits; ExecuTorch has 8-bit embedding and head.
        WeightFormat("int4-g32", 5.0, 5.0, 16, 16, kernels="fused"),
        WeightFormat("int8-row", 8.0, 8.0, 16, 16, kernels="fused"),
        WeightFormat("int4-8bit-ends", 4.5, 8.25, 8.25, 8.25, kernels="blocks"),
    )
}

# Bits of the KV cache and of prefixes, including the scales of llama.cpp's q8_0 and q4_0.
KV_BITS: dict[str, float] = {"fp32": 32, "bf16": 16, "fp8": 8, "int8": 8.5, "int4": 4.5, "q8_0": 8.5, "q4_0": 4.5}


def weight_format(name: str) -> WeightFormat:
    """Return the format of this name, or one with a number of bits everywhere, such as "4.5" or "4.5bpw".

    Raises:
        UsageError: The name is neither a format nor a number of bits.
    """
    if name in FORMATS:
        return FORMATS[name]
    match = _NUMBER.fullmatch(name.strip().lower())
    bits = float(match[1]) if match else math.nan
    if not 1 <= bits <= _MAX_BITS:
        raise UsageError(
            f"choose one of {', '.join(FORMATS)}, or give bits per weight from 1 to {_MAX_BITS:g}, such as 4.5",
            argument="weights",
            value=name[:60],
        )
    return _uniform(name, bits, "float" if bits >= 8 else "blocks")
