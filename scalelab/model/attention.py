"""Attention with prefixes: learned keys and values of each stream before those of the sequence.

The functions are registered with transformers' attention and mask interfaces as ``parscale_sdpa`` and
``parscale_eager``. If a module has an active bank (`banks.active_bank`), every query attends to its prefix. Prefixes
are not rotated and take no positions, and the KV cache holds ordinary tokens only, so positions, padding and caches
are the same as without streams. Rows are stream-major: row = p·B + b.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from scalelab.model.banks import active_bank
from scalelab.model.kernels import attend

NAMES = {"sdpa": "parscale_sdpa", "eager": "parscale_eager"}

# On CPU without a given mask, n zero queries and `is_causal` are faster than an explicit mask from about this length
# (docs/benchmarks.md). On CUDA no fast kernel takes a mask, so they are faster at every length (docs/gpu.md).
_ZERO_QUERY_LENGTH = 512

# A single query can attend to prefix and cache separately, with more calls, or to their concatenation, with a copy.
# From about this many bytes of keys the copy costs more; on a GPU, from a thousand times as many (docs/gpu.md).
_SPLIT_BYTES = 2**18
_GPU_SPLIT = 2**10


def attention_name(implementation: str | None) -> str:
    """Return our name for an attention implementation of transformers.

    Raises:
        ValueError: The implementation would silently ignore the prefixes.
    """
    implementation = implementation or "sdpa"
    if implementation in NAMES.values():
        return implementation
    if implementation not in NAMES:
        raise ValueError(f"streams work with attention {' or '.join(NAMES)}, not {implementation!r}")
    return NAMES[implementation]


@dataclass(eq=False)
class AttentionCalls:
    """Recorded calls of the attention functions: the module of each call, and its keys and values."""

    keep: bool  # also record keys and values
    modules: list[nn.Module] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)  # [rows, kv_heads, T, head_dim], rotated
    values: list[Tensor] = field(default_factory=list)
    biased: bool = False  # a call had a position bias, which has no values for a prefix

    def add(self, module: nn.Module, key: Tensor, value: Tensor, kwargs: dict[str, Any]) -> None:
        """Record one call."""
        self.modules.append(module)
        self.biased |= kwargs.get("position_bias") is not None
        if self.keep:
            self.keys.append(key)
            self.values.append(value)


_recorders: ContextVar[tuple[AttentionCalls, ...]] = ContextVar("_recorders", default=())


@contextmanager
def record_attention_calls(keep: bool = False) -> Iterator[AttentionCalls]:
    """Record every call of our attention functions in the body; compiled code is not recorded."""
    calls = AttentionCalls(keep)
    before = _recorders.set((*_recorders.get(), calls))
    try:
        yield calls
    finally:
        _recorders.reset(before)


def _record_call(module: nn.Module, key: Tensor, value: Tensor, kwargs: dict[str, Any]) -> None:
    if torch.compiler.is_compiling():
        return
    recorders = _recorders.get()
    if not recorders and not hasattr(module, "active_streams"):
        raise ValueError(
            f"{type(module).__name__} is of a plain model, whose config.json is that of a model with streams: load it "
            "with AutoModelForCausalLM after `import scalelab.model`"
        )
    for calls in recorders:
        calls.add(module, key, value, kwargs)


def _with_prefix(bank: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return keys and values [P·B, kv_heads, n + T, head_dim] with the prefix first, and n."""
    prefix_k, prefix_v = bank(key, value)
    return torch.cat([prefix_k, key], dim=2), torch.cat([prefix_v, value], dim=2), prefix_k.shape[2]


def parscale_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Run `sdpa_attention_forward` over prefix and sequence. Query [P·B, heads, T, head_dim]."""
    _record_call(module, key, value, kwargs)
    # Under autocast, rotary positions leave queries and keys in fp32, for which there is no fast fused kernel.
    query, key = query.to(value.dtype), key.to(value.dtype)
    bank, plain, on_cpu = active_bank(module), _is_plain(kwargs), query.device.type == "cpu"
    length = query.shape[2]
    if bank is None and (on_cpu or not plain):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if bank is not None and length == 1 and _is_large(key) and _can_split(attention_mask, kwargs):
        return _one_query(bank, query, key, value, attention_mask, kwargs.get("scaling")), None
    causal = attention_mask is None and length > 1  # modules that are not causal were rejected
    if causal and key.shape[2] > length:  # an empty static cache: the rest is in the future
        key, value = key[:, :, :length], value[:, :, :length]
    n = 0
    if bank is not None:
        key, value, n = _with_prefix(bank, key, value)
    if attention_mask is not None:
        attention_mask = F.pad(attention_mask, (n, 0), value=True if attention_mask.dtype == torch.bool else 0.0)
    elif causal and n and (length >= _ZERO_QUERY_LENGTH or not on_cpu):
        # n dummy queries align with the n prefix keys, so that the causal mask is right.
        query = F.pad(query, (0, 0, n, 0))
    elif causal and n:
        attention_mask = torch.ones(length, n + length, dtype=torch.bool, device=query.device).tril(n)
        attention_mask = attention_mask[None, None]
    if plain and not (on_cpu and query.shape[2] > length):
        causal = causal and attention_mask is None
        dropout = kwargs.get("dropout") or 0.0
        output = attend(query, key, value, attention_mask, causal, dropout, kwargs.get("scaling"))
        return output[:, :, -length:].transpose(1, 2).contiguous(), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output[:, -length:], None


def _is_large(key: Tensor) -> bool:
    """Return whether the copy of these keys costs more than separate products with prefix and cache."""
    if torch.compiler.is_exporting():  # an exported program is for all lengths, so it cannot depend on one
        return False
    size = math.prod(key.shape) * key.element_size()  # `nbytes` fails if a compiled length is symbolic
    return size >= _SPLIT_BYTES * (1 if key.device.type == "cpu" else _GPU_SPLIT)


def _is_plain(kwargs: dict[str, Any]) -> bool:
    """Return whether this is plain softmax attention; transformers handles or rejects other kinds."""
    return all(kwargs.get(name) is None for name in ("softcap", "position_bias", "s_aux", "cache"))


def _can_split(attention_mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
    """Return whether `_one_query` supports this call."""
    if attention_mask is not None and attention_mask.shape[1] != 1:  # a separate mask for each head
        return False
    return not kwargs.get("dropout") and _is_plain(kwargs)


def _one_query(
    bank: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Compute attention [P·B, 1, heads, head_dim] of one query per row, with one softmax over prefix and cache.

    Concatenating the two would copy the whole cache for each token and layer.
    """
    rows, heads, _, head_dim = query.shape
    prefix_k, prefix_v = bank(key, value)
    _, kv_heads, n, _ = prefix_k.shape
    # Tensors below are [P·B·kv_heads, …], so that each product is one call.
    prefix_k, prefix_v = prefix_k.flatten(0, 1), prefix_v.flatten(0, 1)
    key, value = key.flatten(0, 1), value.flatten(0, 1)
    query = query.reshape(rows * kv_heads, heads // kv_heads, head_dim)
    query = (query * (head_dim**-0.5 if scaling is None else scaling)).transpose(1, 2)
    # Keys times queries, not queries times keys: this reads a long cache faster on a CPU.
    scores = torch.cat([torch.bmm(prefix_k, query), torch.bmm(key, query)], dim=1).transpose(1, 2)
    if mask is not None:
        scores = scores.view(rows, kv_heads, *scores.shape[1:])
        seen = F.pad(mask, (n, 0), value=True if mask.dtype == torch.bool else 0.0)
        scores = scores.masked_fill(~seen, -torch.inf) if mask.dtype == torch.bool else scores + seen
        scores = scores.flatten(0, 1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    output = torch.baddbmm(torch.bmm(weights[..., :n], prefix_v), weights[..., n:], value)
    return output.view(rows, 1, heads, -1)


def parscale_eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Run the architecture's own eager attention over prefix and sequence, with an additive mask."""
    _record_call(module, key, value, kwargs)
    eager = sys.modules[_eager_module_name(module)].eager_attention_forward
    bank = active_bank(module)
    if bank is not None:
        key, value, n = _with_prefix(bank, key, value)
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (n, 0), value=0.0)
    return eager(module, query, key, value, attention_mask, **kwargs)


def _eager_module_name(module: nn.Module) -> str:
    """Return the name of the module that defines the eager attention function of an attention class."""
    for kind in type(module).__mro__:
        if hasattr(sys.modules.get(kind.__module__), "eager_attention_forward"):
            return kind.__module__
    raise ValueError(f"{type(module).__name__} has no eager attention function, which prefixes need")


def parscale_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Return `sdpa_mask`, or None if a compiled decoder needs only a causal mask.

    During tracing transformers cannot inspect positions and treats every batch as packed sequences.
    """
    if _no_mask_given and kwargs.get("attention_mask") is None and not kwargs.get("use_vmap"):
        window = kwargs.get("local_size")
        if window is None or kwargs["kv_length"] <= window:
            return None
    return sdpa_mask(*args, **kwargs)


_no_mask_given: list[bool] = []


@contextmanager
def assume_no_mask() -> Iterator[None]:
    """Make `parscale_mask` assume that no mask, positions or cache are given; only for compiling."""
    _no_mask_given.append(True)
    try:
        yield
    finally:
        _no_mask_given.pop()


AttentionInterface.register("parscale_sdpa", parscale_sdpa)
AttentionInterface.register("parscale_eager", parscale_eager)
AttentionMaskInterface.register("parscale_sdpa", parscale_mask)
AttentionMaskInterface.register("parscale_eager", eager_mask)
