"""Attention that sees each stream's prefix: learned keys and values before the sequence's own.

The functions are registered with transformers' attention and mask interfaces under the names
``parscale_sdpa`` and ``parscale_eager``. A module with an active bank (`banks.active_bank`) attends
to its prefix from every query. The prefixes are not rotated and take no position, and the KV cache
holds ordinary tokens only, so positions, padding and caches stay what they are without streams.
Rows are stream-major: row = p·B + b.
"""

from __future__ import annotations

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

# On CPU, with no mask given, n zero queries and `is_causal` beat an explicit mask from about this length on
# (docs/benchmarks.md). On CUDA no fast kernel takes a mask, and they win at every length (docs/gpu.md).
_ZERO_QUERY_LENGTH = 512

# One query over prefix and cache apart takes more calls than over both joined: from about this many bytes of keys on,
# the copy costs more than the calls. A call costs a GPU a thousand times as many bytes (docs/gpu.md).
_SPLIT_BYTES = 2**18
_GPU_SPLIT = 2**10


def attention_name(implementation: str | None) -> str:
    """Our name for a library attention implementation.

    Raises ValueError for one that would silently leave the prefixes out.
    """
    implementation = implementation or "sdpa"
    if implementation in NAMES.values():
        return implementation
    if implementation not in NAMES:
        raise ValueError(f"streams work with attention {' or '.join(NAMES)}, not {implementation!r}")
    return NAMES[implementation]


@dataclass(eq=False)
class AttentionCalls:
    """What went through the attention functions: per call, the module and its keys and values."""

    keep: bool  # keys and values too, not only the modules
    modules: list[nn.Module] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)  # [rows, kv_heads, T, head_dim], rotated
    values: list[Tensor] = field(default_factory=list)
    biased: bool = False  # with a position bias, which has no column for a prefix

    def add(self, module: nn.Module, key: Tensor, value: Tensor, kwargs: dict[str, Any]) -> None:
        self.modules.append(module)
        self.biased |= kwargs.get("position_bias") is not None
        if self.keep:
            self.keys.append(key)
            self.values.append(value)


_recorders: ContextVar[tuple[AttentionCalls, ...]] = ContextVar("_recorders", default=())  # in this thread


@contextmanager
def record_attention_calls(keep: bool = False) -> Iterator[AttentionCalls]:
    """Collects every call of our attention functions; not for compiled code."""
    calls = AttentionCalls(keep)
    before = _recorders.set((*_recorders.get(), calls))
    try:
        yield calls
    finally:
        _recorders.reset(before)


def _record_call(module: nn.Module, key: Tensor, value: Tensor, kwargs: dict[str, Any]) -> None:
    if torch.compiler.is_compiling():
        return
    for calls in _recorders.get():
        calls.add(module, key, value, kwargs)


def _with_prefix(bank: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, int]:
    """Keys and values [P·B, kv_heads, n + T, head_dim] and n."""
    prefix_k, prefix_v = _expand_to_rows(bank.prefix_k, key), _expand_to_rows(bank.prefix_v, value)
    return torch.cat([prefix_k, key], dim=2), torch.cat([prefix_v, value], dim=2), prefix_k.shape[2]


def _expand_to_rows(prefix: Tensor, own: Tensor) -> Tensor:
    """The prefix [P, kv_heads, n, head_dim] of each of the P·B rows of `own`, in its dtype."""
    P, rows = len(prefix), len(own)
    if rows != P:
        prefix = prefix.unsqueeze(1).expand(P, rows // P, *prefix.shape[1:]).flatten(0, 1)
    return prefix.to(own.dtype)


def parscale_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """`sdpa_attention_forward` over prefix and sequence. Query [P·B, heads, T, head_dim]."""
    _record_call(module, key, value, kwargs)
    # Under autocast rotary positions leave queries and keys in fp32, for which fused kernels are missing or slow.
    query, key = query.to(value.dtype), key.to(value.dtype)
    bank, plain, on_cpu = active_bank(module), _is_plain(kwargs), query.device.type == "cpu"
    length = query.shape[2]
    if bank is None and (on_cpu or not plain):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    large = key.nbytes >= _SPLIT_BYTES * (1 if on_cpu else _GPU_SPLIT)
    if bank is not None and length == 1 and large and _can_split(attention_mask, kwargs):
        return _one_query(bank, query, key, value, attention_mask, kwargs.get("scaling")), None
    causal = attention_mask is None and length > 1  # modules that are not causal have been refused
    if causal and key.shape[2] > length:  # an empty static cache: its tail is all future
        key, value = key[:, :, :length], value[:, :, :length]
    n = 0
    if bank is not None:
        key, value, n = _with_prefix(bank, key, value)
    if attention_mask is not None:
        attention_mask = F.pad(attention_mask, (n, 0), value=True if attention_mask.dtype == torch.bool else 0.0)
    elif causal and n and (length >= _ZERO_QUERY_LENGTH or not on_cpu):
        # n dummy queries stand where the prefix keys stand, so plain causality is right.
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


def _is_plain(kwargs: dict[str, Any]) -> bool:
    """Only softmax attention: the rest is left to the library, which refuses what it lacks."""
    return all(kwargs.get(name) is None for name in ("softcap", "position_bias", "s_aux", "cache"))


def _can_split(attention_mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
    """Whether `_one_query` can do it."""
    if attention_mask is not None and attention_mask.shape[1] != 1:  # a mask of its own for each head
        return False
    return not kwargs.get("dropout") and _is_plain(kwargs)


def _one_query(
    bank: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Attention [P·B, 1, heads, head_dim] of one query a row, with one softmax over two sources.

    Prefix and cache are read where they lie; joining them would copy the whole cache at each
    token and layer.
    """
    rows, heads, _, head_dim = query.shape
    _, kv_heads, n, _ = bank.prefix_k.shape
    # All below is [P·B·kv_heads, …], so that each product is one plain call.
    prefix_k, prefix_v = (
        _expand_to_rows(bank.prefix_k, key).flatten(0, 1),
        _expand_to_rows(bank.prefix_v, value).flatten(0, 1),
    )
    key, value = key.flatten(0, 1), value.flatten(0, 1)
    query = query.reshape(rows * kv_heads, heads // kv_heads, head_dim)
    query = (query * (head_dim**-0.5 if scaling is None else scaling)).transpose(1, 2)
    # Keys times queries, not queries times keys: on CPU this reads a long cache faster.
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
    """The architecture's own eager attention over prefix and sequence; the mask is additive."""
    _record_call(module, key, value, kwargs)
    eager = sys.modules[_eager_module_name(module)].eager_attention_forward
    bank = active_bank(module)
    if bank is not None:
        key, value, n = _with_prefix(bank, key, value)
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (n, 0), value=0.0)
    return eager(module, query, key, value, attention_mask, **kwargs)


def _eager_module_name(module: nn.Module) -> str:
    """The file of the attention class that has an eager function of its own."""
    for kind in type(module).__mro__:
        if hasattr(sys.modules.get(kind.__module__), "eager_attention_forward"):
            return kind.__module__
    raise ValueError(f"{type(module).__name__} has no eager attention to put prefixes into")


def parscale_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """`sdpa_mask`, or None where a compiled decoder was given nothing to mask but causality.

    While it traces, transformers cannot look at positions and takes every batch for packed sequences.
    """
    if _no_mask_given and kwargs.get("attention_mask") is None and not kwargs.get("use_vmap"):
        window = kwargs.get("local_size")
        if window is None or kwargs["kv_length"] <= window:
            return None
    return sdpa_mask(*args, **kwargs)


_no_mask_given: list[bool] = []


@contextmanager
def assume_no_mask() -> Iterator[None]:
    """Tell `parscale_mask` that neither a mask, nor positions, nor a cache were given; only while compiling."""
    _no_mask_given.append(True)
    try:
        yield
    finally:
        _no_mask_given.pop()


AttentionInterface.register("parscale_sdpa", parscale_sdpa)
AttentionInterface.register("parscale_eager", parscale_eager)
AttentionMaskInterface.register("parscale_sdpa", parscale_mask)
AttentionMaskInterface.register("parscale_eager", eager_mask)
